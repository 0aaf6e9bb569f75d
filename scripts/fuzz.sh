#!/usr/bin/env bash
# Runs libFuzzer targets with AddressSanitizer and UBSan.
#   scripts/fuzz.sh [SECONDS_EACH [TARGET...]]      default: 60 seconds, all targets
#   scripts/fuzz.sh --runs COUNT [TARGET...]        until each has run so often, over all calls
# Starts from the committed corpus; what is found new stays in build-fuzz/corpus/<name>, crashes in
# build-fuzz/crashes, executions so far in build-fuzz/counts/<name>. Exit status: 1 after a crash, 77
# if clang or its runtime is missing.
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 1
. scripts/packages.sh

seconds=60
runs=0
if [ "${1:-}" = --runs ]; then
  runs=${2:?--runs needs a number}
  shift 2
elif [ $# -gt 0 ]; then
  seconds=$1
  shift
fi
if ! command -v clang++-14 >/dev/null; then
  [ "$(id -u)" -eq 0 ] && install_packages build fuzz
fi
if ! command -v clang++-14 >/dev/null; then
  echo "not run: clang 14 is not installed"
  exit 77
fi
targets=(fuzz_all)
if [ $# -gt 0 ]; then targets=("${@/#/fuzz_}"); fi
cmake -G Ninja -B build-fuzz -DCMAKE_BUILD_TYPE=RelWithDebInfo -DOCTET_FUZZ=ON \
  -DOCTET_SANITIZE=address,undefined -DCMAKE_C_COMPILER=clang-14 \
  -DCMAKE_CXX_COMPILER=clang++-14 -DCMAKE_CXX_FLAGS=-fsanitize=fuzzer-no-link >/dev/null || exit 1
cmake --build build-fuzz -j"$(nproc)" --target "${targets[@]}" || exit 1

mkdir -p build-fuzz/crashes build-fuzz/counts
failed=0

# fuzz NAME FLAGS...: runs a target and adds what it executed to its count.
fuzz() {
  local name=$1 log=build-fuzz/counts/$1.log status=0 done
  shift
  mkdir -p "build-fuzz/corpus/$name"
  build-fuzz/tests/fuzz/"fuzz_$name" "$@" -timeout=60 -rss_limit_mb=4096 -print_final_stats=1 \
    -verbosity=0 -artifact_prefix="build-fuzz/crashes/$name-" \
    "build-fuzz/corpus/$name" "tests/fuzz/corpus/$name" >"$log" 2>&1 || status=$?
  done=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  echo $(($(cat "build-fuzz/counts/$name" 2>/dev/null || echo 0) + ${done:-0})) \
    >"build-fuzz/counts/$name"
  if [ $status -ne 0 ]; then
    tail -40 "$log"
    failed=1
  fi
  return $status
}

# Long inputs reach nothing more and take their time; a chunk of runs is what an interruption loses.
# Keeping count of how often each feature was seen, which a short search profits from, takes up to
# three quarters of a long one.
length_max=4096
chunk=500000
for source in tests/fuzz/*_fuzz.cc; do
  name=$(basename "$source" _fuzz.cc)
  if [ $# -gt 0 ] && [[ " $* " != *" $name "* ]]; then continue; fi
  began=$SECONDS
  if [ "$runs" -eq 0 ]; then
    echo "=== fuzz_$name, $seconds s"
    fuzz "$name" -max_total_time="$seconds" -max_len=65536
  else
    while count=$(cat "build-fuzz/counts/$name" 2>/dev/null || echo 0) && [ "$count" -lt "$runs" ]; do
      left=$((runs - count))
      fuzz "$name" -entropic=0 -runs=$((left < chunk ? left : chunk)) -max_len=$length_max || break
    done
  fi
  printf '%-18s %12s executions in all, %5d s now, corpus %d\n' "$name" \
    "$(cat "build-fuzz/counts/$name" 2>/dev/null || echo 0)" $((SECONDS - began)) \
    "$(find "build-fuzz/corpus/$name" -type f | wc -l)"
done
exit $failed
