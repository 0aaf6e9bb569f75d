#!/bin/sh
# The tests of train/. PYTHON (default python3) needs torch, numpy, sentencepiece, safetensors and
# jinja2; the ones that serve need $OCTET or build/octet. Exits with 77 where they cannot run.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
if ! "$PYTHON" -c 'import jinja2, numpy, safetensors, sentencepiece, torch' 2>/dev/null; then
  echo "not run: $PYTHON has not all of torch, numpy, sentencepiece, safetensors, jinja2"
  exit 77
fi
for test in corpus_test train_test serve_test; do
  "$PYTHON" "train/$test.py"
done
