#!/usr/bin/env bash
# Faults on the processes of a real cluster under load, in their long form: prints what the streams
# saw of each. docs/reliability.md has the figures. About 20 minutes in all.
#   scripts/chaos.sh [SCENARIO ...]     kill stop partition rejoin last_replica coordinator throughput
#                                       router overload upgrade damage messages
# As root for partitions (network namespaces) and throughput (CPU quotas). ROUNDS changes the number
# of faults of each scenario, SEED the victims and moments, MODEL the model (a packed directory).
# Exit status 0 only if no request failed and no token changed.
set -eu -o pipefail
cd "$(dirname "$0")/.."
[ -d build ] || cmake --preset release >/dev/null
cmake --build --preset release --target octet octet_chaos >/dev/null
failed=0
# run SCENARIO ROUNDS OPTIONS...
run() {
  local scenario=$1 rounds=${ROUNDS:-$2} status=0
  shift 2
  echo "=== octet_chaos --scenario $scenario --rounds $rounds $*"
  build/tests/fault/octet_chaos --scenario "$scenario" --rounds "$rounds" --seed "${SEED:-1}" \
    --model "${MODEL:-}" "$@" || status=$?
  [ $status = 0 ] || [ $status = 77 ] || failed=1
}
scenarios=("$@")
[ $# -gt 0 ] || scenarios=(kill stop partition rejoin last_replica coordinator throughput router overload upgrade damage messages)
grep -m1 "model name" /proc/cpuinfo | sed 's/.*: /CPU: /'
for scenario in "${scenarios[@]}"; do
  case $scenario in
    kill)
      run kill 100 --transport grpc
      run kill 100 --transport shm
      ;;
    stop)
      run stop 20 --transport grpc
      run stop 20 --transport shm
      ;;
    partition) run partition 18 ;;
    rejoin)
      run rejoin 20 --transport grpc
      run rejoin 20 --transport shm
      ;;
    last_replica) run last_replica 10 ;;
    coordinator) run coordinator 2 --outage-ms 60000 ;;
    throughput) run throughput 5 --outage-ms 10000 ;;
    router)
      # 2,000 tokens of context, which no router knows but the one that made them; then with the
      # tier through which the other one reads them.
      context=(--prompt-tokens 1900 --tokens 120 --fresh --up-flag=--kv-cache-bytes=2GiB)
      tier=/dev/shm/octet-chaos-$$
      run router 10 "${context[@]}"
      run router 10 "${context[@]}" --up-flag=--kv-tier-dir="$tier" --up-flag=--kv-tier-bytes=4GiB
      rm -rf "$tier"
      ;;
    upgrade)
      # Two versions of the same test model: other weight formats, so other digests and tokens.
      packages=$(mktemp -d)
      source=tests/golden/models/mixtral-gqa4-bf16
      build/octet pack "$source" "$packages/first" --experts int4 --group 64 >/dev/null
      build/octet pack "$source" "$packages/next" --experts int8 >/dev/null
      for transport in grpc shm; do
        MODEL=$packages/first run upgrade 2 --transport $transport --routers 2 \
          --next-model "$packages/next"
      done
      rm -rf "$packages"
      ;;
    damage)
      packages=$(mktemp -d)
      build/octet pack tests/golden/models/mixtral-gqa4-bf16 "$packages/model" --experts int4 --group 64 >/dev/null
      for transport in grpc shm; do
        MODEL=$packages/model run damage 6 --transport $transport --verify
        # Answers that end before the damage is found are wrong, which is no failure of the run.
        (MODEL=$packages/model run damage 6 --transport $transport)
      done
      rm -rf "$packages"
      ;;
    messages) run messages 10 ;;
    overload) run overload 1 --outage-ms 60000 --tokens 64 ;;
    *)
      echo "chaos.sh: unknown scenario '$scenario'" >&2
      exit 2
      ;;
  esac
done
exit $failed
