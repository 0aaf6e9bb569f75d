#!/usr/bin/env bash
# Every check that needs a GPU, from a bundle of scripts/device-bundle.sh: tests against the host's
# arithmetic, clusters, NCCL, the sanitizers, and the figures of docs/gpu.md.
#   scripts/device-check.sh [--out DIR] [--bundle DIR] [PART...]
# Parts: tests router cluster nccl sanitizer bench torch; without one: all of them. After bench: names
# of octet_cuda_bench (int bf16 attention rows step). A part that hangs has failed. Logs are in DIR.
# Exit status: 0 all passed, 1 something failed, 77 nothing failed, but something could not be run.
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 1
out=build/device-out
bundle=build/device
parts=()
figures=()
while [ $# -gt 0 ]; do
  case "$1" in
    --out) out=$2 && shift 2 ;;
    --bundle) bundle=$2 && shift 2 ;;
    tests | router | cluster | nccl | sanitizer | bench | torch) parts+=("$1") && shift ;;
    int | int4only | bf16 | attention | rows | step | step1) figures+=("$1") && shift ;;
    *) echo "unknown: $1" >&2 && exit 2 ;;
  esac
done
if [ ${#parts[@]} -eq 0 ]; then parts=(tests router cluster nccl sanitizer bench torch); fi
mkdir -p "$out"
bundle=$(realpath "$bundle") || exit 1
export LD_LIBRARY_PATH=$bundle/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export OCTET_CUDA_LIBRARY=$bundle/lib/liboctet_cuda.so
if ! nvidia-smi --query-gpu=name,driver_version --format=csv,noheader; then
  echo "not run: no GPU"
  exit 77
fi
failed=0
skipped=0
not_run() {
  echo "not run $1: $2"
  skipped=1
}
# step NAME SECONDS COMMAND...
step() {
  local name=$1 limit=$2 log=$out/$1.log started=$SECONDS status
  shift 2
  timeout --kill-after=10 "$limit" "$@" >"$log" 2>&1
  status=$?
  if [ $status -eq 77 ] || { [ $status -eq 0 ] && grep -a -q 'not run:' "$log"; }; then
    not_run "$name" "$(grep -a -m 1 -o 'not run:.*' "$log" | cut -c 10-)"
  elif [ $status -eq 0 ]; then
    echo "passed $name ($((SECONDS - started)) s)"
  else
    echo "FAILED $name ($((SECONDS - started)) s of $limit, status $status; 124 and 137: a hang)"
    grep -a -m 40 -E 'FAILED|DIFFERS|Failure|rror|row [0-9]+ column' "$log"
    failed=1
  fi
}
wants() {
  case " ${parts[*]} " in *" $1 "*) return 0 ;; esac
  return 1
}

if wants tests; then
  step tests 300 "$bundle/bin/kernels_cuda_test"
  step worker 120 "$bundle/bin/expert_worker_cuda_worker_test" --gtest_filter='CudaWorkerTest.*'
fi
if wants router; then
  # The test finds its models where it was built.
  built=$(cat "$bundle/source" 2>/dev/null || pwd)
  if [ -d "$built/tests/golden" ]; then
    step router 300 "$bundle/bin/router_cuda_transformer_test"
  else
    not_run router "it was built in $built, which is not here: make it a link to this folder"
  fi
fi
if wants cluster; then step cluster 240 scripts/device-cluster.sh "$bundle/bin/octet"; fi
if wants nccl; then
  # The library of the Python package, where nobody named another.
  if [ -z "${OCTET_NCCL_LIBRARY:-}" ]; then
    packaged=$(python3 -c 'import nvidia.nccl; print(list(nvidia.nccl.__path__)[0])' 2>/dev/null)
    packaged=$packaged/lib/libnccl.so.2
    if [ -e "$packaged" ]; then export OCTET_NCCL_LIBRARY=$packaged; fi
  fi
  step nccl 200 "$bundle/bin/nccl_smoke"
  step nccl-cluster 300 scripts/device-cluster.sh "$bundle/bin/octet" nccl 2
fi
if wants sanitizer; then
  PATH=$PATH:/usr/local/cuda/bin
  small='CudaExpertsTest.ARow*:CudaEmbed*:CudaHeads*:CudaRows*:CudaFusedTest.*'
  small+=':CudaAttentionTest.KeepsTheSignsOfZeros:CudaAttentionTest.AppendsTheBytesOfTheHost'
  small+=':Bf16ExpertsTest.NoRowsWriteNothing:Bf16ExpertsTest.ABadRowFailsAlone'
  for tool in memcheck racecheck; do
    if command -v compute-sanitizer >/dev/null; then
      step "$tool" 600 compute-sanitizer --tool "$tool" --error-exitcode 9 \
        "$bundle/bin/kernels_cuda_test" --gtest_filter="$small"
    else
      not_run "$tool" "no compute-sanitizer"
    fi
  done
fi
if wants bench; then
  step bench 600 "$bundle/bin/octet_cuda_bench" "${figures[@]}"
  cat "$out/bench.log"
fi
if wants torch; then
  if python3 -c 'import torch' 2>/dev/null; then
    step torch 300 python3 bench/cuda/torch_baseline.py
    cat "$out/torch.log"
  else
    not_run torch "no torch in this Python"
  fi
fi
if [ $failed -eq 0 ] && [ $skipped -ne 0 ]; then exit 77; fi
exit $failed
