#!/usr/bin/env bash
# Runs the identity test over every combination of placement, transport, replication, batch, chunk,
# threads, instruction set, preemption, prefix cache and weights (about 24,000 runs on a CPU with
# AVX-512) and writes the result to docs/identity.md. Takes hours.
#   scripts/identity-full.sh [OUTPUT]
set -eu -o pipefail
cd "$(dirname "$0")/.."
output=${1:-docs/identity.md}
test_binary=build/tests/identity/identity_test

cmake --preset release >/dev/null
cmake --build --preset release --target identity_test
table=$(mktemp)
trap 'rm -f "$table"' EXIT
status=0
OCTET_IDENTITY_FULL=1 "$test_binary" --gtest_filter='*FullProduct*' >"$table" || status=$?

{
  echo "# Identity: the same tokens from every way of computing them"
  echo
  echo "Written by \`scripts/identity-full.sh\`. Thirty-two requests (greedy and sampled) run on tiny"
  echo "models in every combination of: in-process, or 1, 2, 3, 4, 8 workers behind local links, gRPC or"
  echo "shared memory; replication 1, 2; batch 1, 7, 32; prefill chunk 1, 16, 64, whole; 1, 2 threads;"
  echo "every instruction set of the CPU (scalar, AVX2, AVX-512); preemption off and on. The prefix cache"
  echo "(off, on) and micro-batches (1, 2) take turns over the runs. A run is equal when the SHA-256 of"
  echo "all tokens and of the bits of all log-probabilities is"
  echo "that of the plainest run: in-process, scalar, one thread, one request at a time, no cache."
  echo
  echo "CPU: $(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2 | sed 's/^ //')," \
    "commit $(git rev-parse --short HEAD)."
  echo
  grep '^|\|^$' "$table" | cat -s
} >"$output"
tail -n 20 "$output"
[ "$status" = 0 ] || { echo "FAILED: some runs differ" >&2; grep 'Failure' -A4 "$table" | head -40 >&2; }
exit "$status"
