#!/usr/bin/env bash
# A cluster whose workers compute on a GPU and on the CPU, and a router on either: the text must be
# that of the CPU alone, also when a GPU worker is killed while it answers.
#   scripts/device-cluster.sh OCTET [TRANSPORT [REPLICATION [MODEL]]]     # OCTET: the program
# TRANSPORT is octet's --transport, auto by default. REPLICATION 1, the default, puts half of the
# experts on each worker, so that the CPU's has to load those of a GPU worker that dies; with 2 it
# has them. MODEL is models/tiny by default.
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 1
octet=$1
transport=${2:-auto}
replication=${3:-1}
model=${4:-models/tiny}
work=$(mktemp -d)
pids=()
# shellcheck disable=SC2317 # the trap calls it
stop() {
  if [ ${#pids[@]} -gt 0 ]; then
    kill "${pids[@]}" 2>/dev/null
    (sleep 20 && kill -9 "${pids[@]}") >/dev/null 2>&1 &
    local last_word=$!
    wait "${pids[@]}" 2>/dev/null
    kill "$last_word"
  fi
  rm -rf "$work"
}
trap stop EXIT
prompts=("Once upon a time" "The capital of France is" "How do plants grow?" "In the year 1900")
failed=0

# answer FILE OPTIONS...: what all prompts give.
answer() {
  local file=$1
  shift
  for prompt in "${prompts[@]}"; do
    timeout 120 "$octet" generate --prompt "$prompt" --max-tokens 96 --log-level error "$@" ||
      echo "FAILED"
  done >"$file" 2>"$file.err"
}
# compare NAME FILE
compare() {
  if cmp -s "$work/cpu" "$2"; then
    echo "equal    $1"
  else
    echo "DIFFERS  $1"
    diff "$work/cpu" "$2" | head -6
    tail -3 "$2.err"
    failed=1
  fi
}
# NCCL between processes of one host, which share its GPU: it would refuse two ranks on one.
export NCCL_SOCKET_IFNAME=${NCCL_SOCKET_IFNAME:-lo} NCCL_IB_DISABLE=${NCCL_IB_DISABLE:-1}
export NCCL_NVLS_ENABLE=${NCCL_NVLS_ENABLE:-0} NCCL_RAS_ENABLE=${NCCL_RAS_ENABLE:-0}
# background NAME ARGS...: a role with its log.
background() {
  local name=$1
  shift
  NCCL_HOSTID=octet-$name "$octet" "$@" >"$work/$name.log" 2>&1 &
  pids+=($!)
}
await() {
  for _ in $(seq 600); do
    grep -qF "$2" "$work/$1.log" 2>/dev/null && return 0
    sleep 0.1
  done
  echo "FAILED: $1 did not say '$2'"
  tail -5 "$work/$1.log"
  exit 1
}

# ready ADDRESS: waits until the router there answers, so that it has a placement.
ready() {
  for _ in $(seq 60); do
    timeout 20 "$octet" generate --server "$1" --attempts 1 --timeout-ms 10000 --max-tokens 1 \
      --prompt a --log-level error >/dev/null 2>&1 && return 0
    sleep 0.5
  done
  echo "FAILED: the router at $1 does not answer"
  exit 1
}

# dispatches PID: how many that worker has answered, as far as the coordinator knows.
dispatches() {
  "$octet" status --server 127.0.0.1:7510 --json | tr ',{}' '\n' |
    awk -F '[: ]+' -v pid="$1" '/"pid"/ { here = $NF == pid } here && /"dispatches"/ { print $NF }'
}

answer "$work/cpu" --model "$model" --device cpu
if grep -q FAILED "$work/cpu"; then
  echo "FAILED: no answer on the CPU alone"
  tail -3 "$work/cpu.err"
  exit 1
fi
answer "$work/gpu" --model "$model" --device cuda
compare "router and experts on the GPU, one process" "$work/gpu"

background coordinator coordinator --listen 127.0.0.1:7510 --expected-workers 2 --replication "$replication"
background gpu worker --model "$model" --listen 127.0.0.1:7512 --coordinator 127.0.0.1:7510 --transport "$transport" --device cuda
gpu_pid=${pids[-1]}
background cpu worker --model "$model" --listen 127.0.0.1:7513 --coordinator 127.0.0.1:7510 --transport "$transport" --device cpu
await gpu "] serving"
await cpu "] serving"
background router router --model "$model" --listen 127.0.0.1:7511 --coordinator 127.0.0.1:7510 --transport "$transport" --device cpu
background gpurouter router --model "$model" --listen 127.0.0.1:7514 --coordinator 127.0.0.1:7510 --transport "$transport" --device cuda
await router "listening on"
await gpurouter "listening on"
ready 127.0.0.1:7511
ready 127.0.0.1:7514
grep -h "listening on" "$work"/*.log | sed 's/.*listening on/listening on/'
answer "$work/mixed" --server 127.0.0.1:7511
compare "router on the CPU, experts on GPU and CPU" "$work/mixed"
answer "$work/mixed2" --server 127.0.0.1:7514
compare "router on the GPU, experts on GPU and CPU" "$work/mixed2"
# The GPU worker dies while the answers are made: as soon as it is seen to have had a part in them.
before=$(dispatches "$gpu_pid")
(
  until [ "$(dispatches "$gpu_pid")" -gt "$before" ]; do sleep 0.05; done
  kill -9 "$gpu_pid"
) &
pids+=($!)
for _ in $(seq 20); do
  kill -0 "$gpu_pid" 2>/dev/null || break
  answer "$work/killed" --server 127.0.0.1:7511
  cmp -s "$work/cpu" "$work/killed" || break
done
compare "the GPU worker killed meanwhile, its rows on the CPU" "$work/killed"
if kill -0 "$gpu_pid" 2>/dev/null; then
  echo "FAILED: the GPU worker was not killed: it was given no rows"
  failed=1
fi
answer "$work/after" --server 127.0.0.1:7514
compare "router on the GPU, experts on the CPU" "$work/after"
exit $failed
