#!/usr/bin/env bash
# The same prompt twice: undisturbed, and while 16 other streams run and a worker is killed with
# kill -9 in the middle of the answer. Prints both answers' SHA-256. Needs a build (quickstart.sh).
set -eu -o pipefail
cd "$(dirname "$0")/.."
octet=${OCTET:-build/octet}
address=127.0.0.1:${PORT:-7421}
work=$(mktemp -d)
"$octet" up --workers 8 --replication 2 --listen "$address" --log-level error >"$work/up" &
up=$!
trap 'kill $up 2>/dev/null || true; wait; rm -rf "$work"' EXIT
ask() {
  "$octet" generate --server "$address" --chat --prompt "Why does the sun rise?" --max-tokens 160 \
    --ignore-eos
}
until grep -q '^ready' "$work/up"; do
  kill -0 $up || exit 1
  sleep 0.1
done
tail -n 1 "$work/up"
ask >"$work/calm"
echo "undisturbed:          $(sha256sum <"$work/calm" | cut -c1-64)"
"$octet" bench --server "$address" --concurrency 16 --requests 64 --prompt-tokens 32 \
  --max-tokens 200 >"$work/load" 2>&1 &
load=$!
ask >"$work/killed" &
asked=$!
until [ "$(stat -c %s "$work/killed")" -gt 40 ]; do
  kill -0 $asked || { echo "the answer ended before the kill" >&2; exit 1; }
done
victim=$("$octet" status --server "$address" | awk '/^worker .* ready/ {print $4; exit}')
kill -9 "$victim"
echo "kill -9 $victim after: $(tr '\n' ' ' <"$work/killed" | cut -c1-60)..."
wait $asked
echo "with a worker killed: $(sha256sum <"$work/killed" | cut -c1-64)"
wait $load
grep -iE 'failed|errors|requests' "$work/load" || cat "$work/load"
cmp "$work/calm" "$work/killed" && echo "equal"
