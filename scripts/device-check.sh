#!/usr/bin/env bash
# Every check that needs a GPU, from a bundle of scripts/device-bundle.sh: tests against the host's
# arithmetic, the sanitizer, and the figures of docs/gpu.md.
#   scripts/device-check.sh [--out DIR] [--bundle DIR] [tests] [sanitizer] [bench [NAME...]] [torch]
# Without names: all of them. Exit status 0 only if nothing failed; logs and figures are in DIR.
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 1
out=build/device-out
bundle=build/device
while [ $# -gt 0 ]; do
  case "$1" in
    --out) out=$2 && shift 2 ;;
    --bundle) bundle=$2 && shift 2 ;;
    *) break ;;
  esac
done
mkdir -p "$out"
export LD_LIBRARY_PATH=$bundle/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
if ! nvidia-smi --query-gpu=name,driver_version --format=csv,noheader; then
  echo "not run: no GPU"
  exit 77
fi
failed=0
# step NAME COMMAND...
step() {
  local name=$1 started=$SECONDS status
  shift
  "$@" >"$out/$name.log" 2>&1
  status=$?
  if [ $status -eq 0 ]; then
    echo "passed $name ($((SECONDS - started)) s)"
  else
    echo "FAILED $name ($((SECONDS - started)) s, status $status)"
    grep -a -m 40 -E 'FAILED|Failure|rror|row [0-9]+ column' "$out/$name.log" | head -40
    failed=1
  fi
}
parts=${*:-tests sanitizer bench torch}
case " $parts " in *" tests "*) step tests "$bundle/bin/kernels_cuda_test" ;; esac
case " $parts " in
  *" sanitizer "*)
    for tool in memcheck racecheck; do
      step "$tool" compute-sanitizer --tool $tool --error-exitcode 9 "$bundle/bin/kernels_cuda_test" \
        --gtest_filter='*FewRows*:*Embed*'
    done
    ;;
esac
case " $parts " in
  *" bench "*)
    # shellcheck disable=SC2086
    step bench "$bundle/bin/octet_cuda_bench" ${parts#*bench}
    cat "$out/bench.log"
    ;;
esac
case " $parts " in *" torch "*) step torch python3 bench/cuda/torch_baseline.py && cat "$out/torch.log" ;; esac
exit $failed
