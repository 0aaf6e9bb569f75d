#!/usr/bin/env bash
# Runs every libFuzzer target for some seconds with AddressSanitizer and UBSan.
#   scripts/fuzz.sh [SECONDS_EACH [TARGET...]]        default: 60 seconds, all targets
# Starts from the committed corpus; what is found new stays in build-fuzz/corpus/<name>, crashes in
# build-fuzz/crashes. Exit status: 1 after a crash, 77 if clang or its runtime is missing.
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 1
. scripts/packages.sh

seconds=${1:-60}
shift || true
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

mkdir -p build-fuzz/crashes
failed=0
for source in tests/fuzz/*_fuzz.cc; do
  name=$(basename "$source" _fuzz.cc)
  if [ $# -gt 0 ] && [[ " $* " != *" $name "* ]]; then continue; fi
  mkdir -p "build-fuzz/corpus/$name"
  echo "=== fuzz_$name, $seconds s"
  if ! build-fuzz/tests/fuzz/"fuzz_$name" -max_total_time="$seconds" -timeout=10 \
    -rss_limit_mb=4096 -max_len=65536 -print_final_stats=1 -verbosity=0 \
    -artifact_prefix="build-fuzz/crashes/$name-" \
    "build-fuzz/corpus/$name" "tests/fuzz/corpus/$name"; then
    failed=1
  fi
done
exit $failed
