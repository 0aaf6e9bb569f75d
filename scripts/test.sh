#!/usr/bin/env bash
# Everything a change has to pass, on a fresh Debian 12 machine: packages, build, every test.
#   scripts/test.sh [--fuzz SECONDS] [ctest options, e.g. -R core]
# Exit status 0 only if nothing failed. What can't run here (no AVX-512, no network, ...) is listed
# as "not run" at the end, with the reason.
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 1
. scripts/packages.sh

started=$SECONDS
jobs=$(nproc)
fuzz_seconds=0
if [ "${1:-}" = --fuzz ]; then
  fuzz_seconds=${2:?"--fuzz needs a number of seconds"}
  shift 2
fi

declare -a results=()
failed=0
# step NAME COMMAND...: runs a command and notes how it ended; exit status 77 means "not run".
step() {
  local name=$1 before=$SECONDS status
  shift
  echo "=== $name"
  "$@"
  status=$?
  case $status in
    0) results+=("passed   $name ($((SECONDS - before)) s)") ;;
    77) results+=("not run  $name") ;;
    *)
      results+=("FAILED   $name ($((SECONDS - before)) s)")
      failed=1
      ;;
  esac
  return $status
}

report() {
  local log=build/Testing/Temporary/LastTest.log
  echo "=== summary"
  printf '%s\n' "${results[@]}"
  if [ -f "$log" ]; then
    # Tests say why they skip with a line that contains "not run: <reason>".
    grep -aho 'not run: .*' "$log" | sort | uniq -c | sort -rn |
      sed -E 's/^ *([0-9]+) not run: (.*)/not run  \2 (\1 times)/'
  fi
  echo "total: $((SECONDS - started)) s"
  if [ $failed -eq 0 ]; then echo "OK"; else echo "FAILED"; fi
  exit $failed
}

rm -f build/Testing/Temporary/LastTest.log
step packages install_packages build test || report
step configure cmake --preset release || report
step build cmake --build --preset release -j"$jobs" || report
step tests ctest --preset release -j"$jobs" "$@"
# The rest needs no selection of tests: it is left out when the caller selects some.
if [ $# -eq 0 ]; then
  step "clang-tidy on changed files" scripts/tidy.sh
  step "Kubernetes schemas" scripts/check-deploy.sh
  step "training code" train/test.sh
  step "foreign gRPC client" scripts/check-foreign-client.sh
fi
if [ "$fuzz_seconds" -gt 0 ]; then
  step fuzz scripts/fuzz.sh "$fuzz_seconds"
fi
report
