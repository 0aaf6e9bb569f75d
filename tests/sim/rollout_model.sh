#!/usr/bin/env bash
# Checks rollout.pml with Spin, and that its assertions see what they are for.
#   rollout_model.sh [--deep]
# Exit status 77: not run.
set -eu
model=$(cd "$(dirname "$0")" && pwd)/rollout.pml
for tool in spin cc; do
  command -v "$tool" >/dev/null || { echo "not run: $tool is not installed"; exit 77; }
done
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

# check NAME EXPECTED [DEFINITIONS...]: EXPECTED is the number of errors, 0 or 1.
check() {
  local name=$1 expected=$2
  shift 2
  spin -a "$@" "$model" >spin.log 2>&1 || { cat spin.log; exit 1; }
  cc -O2 -w -DSAFETY -DCOLLAPSE -DMEMLIM=2048 -o pan pan.c
  ./pan -m100000 -n >pan.log 2>&1 || true
  if ! grep -q "errors: $expected" pan.log || grep -q "max search depth too small" pan.log ||
    grep -q "out of memory" pan.log; then
    echo "FAILED: $name"
    cat pan.log
    exit 1
  fi
  echo "$name: $(grep -o '[0-9.e+]* states, stored' pan.log), errors: $expected"
}

check "two coordinators on one disk" 0
check "a disk that is emptied" 0 -DWIPE -DALONE -DMOVES=0
check "activated before all are prepared" 1 -DBUG_ACTIVATE_EARLY
check "announced before it is saved" 1 -DBUG_ANNOUNCE_FIRST
check "what members have seen is forgotten" 1 -DWIPE -DALONE -DMOVES=0 -DBUG_FORGET_SEEN
if [ "${1:-}" = --deep ]; then
  check "a disk that is emptied, two crashes" 0 -DWIPE -DALONE -DMOVES=0 -DCRASHES=2
fi
