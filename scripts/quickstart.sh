#!/usr/bin/env bash
# From nothing to an answer on a fresh Debian 12 machine: packages, build, model, a cluster of a
# router, a coordinator and four workers, one question. Leaves nothing running. Run it again at any
# time: what is done already is not done again.
#   scripts/quickstart.sh [QUESTION]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/packages.sh

question=${1:-"What is gravity?"}
work=$(mktemp -d)
up=""

step() { echo "==> $1"; }

fail() {
  echo "quickstart.sh: $1" >&2
  exit 1
}

# Ends the cluster, whatever happened: SIGTERM drains it, and its processes go with their parent.
cleanup() {
  if [ -n "$up" ] && kill -0 "$up" 2>/dev/null; then
    kill -TERM "$up" 2>/dev/null || true
    wait "$up" 2>/dev/null || true
  fi
  rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# quiet LOG COMMAND...: runs a command, shows its output only where it fails.
quiet() {
  local log=$work/$1
  shift
  "$@" >"$log" 2>&1 || {
    tail -n 40 "$log" >&2
    fail "failed: $*"
  }
}

step "packages"
install_packages build model

step "build (several minutes the first time)"
quiet configure.log cmake --preset release
quiet build.log cmake --build --preset release --target octet -j"$(nproc)"

step "model: SmolLM2-135M-Instruct, as eight experts"
quiet model.log scripts/get-model.sh smollm2

step "cluster: router, coordinator, four workers"
build/octet up --model models/smollm2 --workers 4 --listen 127.0.0.1:0 --log-level warning \
  >"$work/up.out" 2>"$work/up.err" &
up=$!
for _ in $(seq 600); do
  grep -q '^ready on ' "$work/up.out" && break
  kill -0 "$up" 2>/dev/null || break
  sleep 0.2
done
address=$(sed -n 's/^ready on \([^ ]*\) .*/\1/p' "$work/up.out")
if [ -z "$address" ]; then
  cat "$work/up.err" >&2
  fail "the cluster did not get ready"
fi
cat "$work/up.out"

step "status"
build/octet status --server "$address"

step "question: $question"
build/octet generate --server "$address" --chat --prompt "$question" --max-tokens 64

step "done; the cluster ends now. Start your own: build/octet up --model models/smollm2"
