#!/usr/bin/env bash
# Eight workers that each may use less memory than the model takes: what they use, what they give,
# and whether the tokens are those of one process. As root, with the cgroup v1 or v2 memory controller.
#   bench/small_workers.sh MODEL BYTES [worker options, e.g. --lock-memory]
# MODEL is a packed directory, BYTES the limit of each worker. Below the size of an expert its pages
# are read again and again. Starts with an empty page cache, so that pages count for who uses them.
set -eu -o pipefail
cd "$(dirname "$0")/.."
octet=${OCTET:-build/octet}
model=$1
bytes=$2
shift 2
work=$(mktemp -d)
pids=()
groups=()
if [ -f /sys/fs/cgroup/memory/memory.limit_in_bytes ]; then
  root=/sys/fs/cgroup/memory limit=memory.limit_in_bytes used=memory.usage_in_bytes
elif grep -qw memory /sys/fs/cgroup/cgroup.controllers 2>/dev/null; then
  root=/sys/fs/cgroup limit=memory.max used=memory.current
  echo +memory >/sys/fs/cgroup/cgroup.subtree_control
else
  echo "not run: no memory controller of cgroups"
  exit 77
fi
stop() {
  kill "${pids[@]}" 2>/dev/null || true
  wait
  for group in "${groups[@]}"; do rmdir "$group" || true; done
  rm -rf "$work"
}
trap stop EXIT
# role NAME ARGS...
role() {
  local name=$1
  shift
  "$octet" "$@" >"$work/$name.log" 2>&1 &
  pids+=($!)
}
prompt="The quick brown fox"
"$octet" generate --model "$model" --device cpu --prompt "$prompt" --max-tokens 48 \
  --log-level error >"$work/alone"

sync
echo 3 >/proc/sys/vm/drop_caches
role coordinator coordinator --listen 127.0.0.1:7610 --expected-workers 8
for i in 1 2 3 4 5 6 7 8; do
  group=$root/octet-small-$i
  mkdir -p "$group"
  groups+=("$group")
  echo "$bytes" >"$group/$limit"
  (
    echo "$BASHPID" >"$group/cgroup.procs"
    exec "$octet" worker --model "$model" --device cpu --threads 1 --listen "127.0.0.1:762$i" \
      --coordinator 127.0.0.1:7610 "$@"
  ) >"$work/worker$i.log" 2>&1 &
  pids+=($!)
done
role router router --model "$model" --device cpu --listen 127.0.0.1:7611 --coordinator 127.0.0.1:7610
serving() { [ "$(grep -l '] serving' "$work"/worker*.log | wc -l)" = 8 ]; }
for _ in $(seq 600); do
  serving && grep -q "listening on" "$work/router.log" && break
  sleep 0.1
done
if ! serving; then
  echo "not all workers serve:"
  tail -n 1 "$work"/worker*.log
  exit 1
fi
"$octet" bench --server 127.0.0.1:7611 --concurrency 4 --requests 8 --prompt-tokens 32 \
  --max-tokens 32 | grep -E '^(requests|output)'
"$octet" generate --server 127.0.0.1:7611 --prompt "$prompt" --max-tokens 48 --log-level error \
  >"$work/together"
cmp -s "$work/alone" "$work/together" && echo "tokens: those of one process"
echo "model $(($(du -sb "$model" | cut -f1) >> 20)) MiB, limit $((bytes >> 20)) MiB, used by each worker, MiB:"
for group in "${groups[@]}"; do printf ' %d' $(($(cat "$group/$used") >> 20)); done
echo
cmp -s "$work/alone" "$work/together"
