#!/usr/bin/env bash
# Builds deploy/kustomize and checks the result strictly against the Kubernetes schemas.
# Exit status: 77 if kubectl is missing or PyPI can't be reached.
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 1
. scripts/check_venv.sh

if ! command -v kubectl >/dev/null; then
  echo "not run: kubectl is not installed"
  exit 77
fi
mkdir -p build
for folder in deploy/kustomize/*/; do
  built=build/deploy-$(basename "$folder").yaml
  kubectl kustomize "$folder" >"$built" || exit 1
  echo "$folder: kustomize built $(grep -c '^kind:' "$built") resources"
done
make_check_venv
"$check_python" -m kubernetes_validate --strict build/deploy-*.yaml
