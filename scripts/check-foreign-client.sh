#!/usr/bin/env bash
# Streams an answer from a local cluster with a gRPC client that knows nothing of Octet but what
# server reflection tells it. Exit status: 77 if the cluster's model or PyPI is not available.
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 1
. scripts/check_venv.sh
make_check_venv
exec "$check_python" tests/integration/foreign_client.py --octet build/octet "$@"
