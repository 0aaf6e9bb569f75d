#!/usr/bin/env bash
# Instructions of one decode step of one sequence, counted by callgrind: what a change costs shows
# without noise.
#   bench/instructions.sh [MODEL]      # default: models/tiny; OCTET names the program
# One thread, after a prompt of 16 tokens: the difference of two runs, over the steps between them.
# Valgrind has no AVX-512, so AVX2 is counted. Compare counts of one build on one machine alone.
set -euo pipefail
cd "$(dirname "$0")/.."
octet=${OCTET:-build/octet}
model=${1:-models/tiny}
command -v valgrind >/dev/null || {
  echo "instructions.sh: no valgrind; hint: apt-get install valgrind" >&2
  exit 1
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
seq -s ' ' 100 115 >"$work/ids"

count() {
  valgrind --tool=callgrind --callgrind-out-file="$work/out" "$octet" generate --model "$model" \
    --ids "$work/ids" --max-tokens "$1" --ignore-eos --temperature 0 --threads 1 \
    >/dev/null 2>"$work/err" || { cat "$work/err" >&2; exit 1; }
  sed -n 's/.*Collected : \([0-9]*\).*/\1/p' "$work/err"
}

few=$(count 17)
many=$(count 49)
echo "$(((many - few) / 32)) instructions a step ($model, $(git rev-parse --short HEAD))"
