#!/usr/bin/env bash
# Runs many schedules of the simulation (docs/simulation.md), spread over processes, and prints how
# many held and what they reached.
#   scripts/sim.sh [--schedules N] [--first SEED] [--jobs N] [--slice N]
set -eu -o pipefail
cd "$(dirname "$0")/.."

schedules=1000000 first=1 jobs=$(nproc) slice=20000
while [ $# -gt 0 ]; do
  case "$1" in
    --schedules) schedules=$2 ;;
    --first) first=$2 ;;
    --jobs) jobs=$2 ;;
    --slice) slice=$2 ;;
    *)
      echo "usage: scripts/sim.sh [--schedules N] [--first SEED] [--jobs N] [--slice N]" >&2
      exit 2
      ;;
  esac
  shift 2
done

binary=build/tests/sim/octet_sim
if [ ! -x "$binary" ]; then
  cmake --preset release >/dev/null
  cmake --build --preset release --target octet_sim
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
last=$((first + schedules - 1))
start=$(date +%s)
# A failure shows in the output; the summary at the end decides.
for seed in $(seq "$first" "$slice" "$last"); do
  count=$((last - seed + 1 < slice ? last - seed + 1 : slice))
  echo "$seed $count"
done | xargs -P "$jobs" -L 1 sh -c \
  "$binary"' --first "$1" --count "$2" >"$0/$1" 2>&1 || true' "$folder"

grep -haE '^(FAILED|CRASHED)|CHECK failed' "$folder"/* || true
awk -F '\t' -v first="$first" -v last="$last" -v took=$(($(date +%s) - start)) '
  /^schedules / { split($0, w, " "); n += w[2]; failed += w[4]; events += w[6]; simulated += w[8] }
  /^covered\t/ { if (!($2 in s)) order[++kinds] = $2; s[$2] += $3; c[$2] += $4 }
  END {
    printf "%d schedules, seeds %d to %d: %d failed; %.0f events, %.0f hours simulated, %d s\n",
      n, first, last, failed, events, simulated / 3600, took
    printf "%-55s %12s %14s\n", "reached", "schedules", "times"
    for (i = 1; i <= kinds; ++i) printf "%-55s %12d %14d\n", order[i], s[order[i]], c[order[i]]
    if (n != last - first + 1) { print "INCOMPLETE: a process ended early"; exit 1 }
    exit failed > 0
  }' "$folder"/*
