#!/usr/bin/env bash
# Formats every C++ and proto source with clang-format 14; with --check only reports.
# Exit status: 1 if --check found something, 77 if clang-format 14 is not installed.
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 1

tool=""
for candidate in clang-format-14 clang-format; do
  if "$candidate" --version 2>/dev/null | grep -q 'version 14\.'; then
    tool=$candidate
    break
  fi
done
if [ -z "$tool" ]; then
  echo "not run: clang-format 14 is not installed"
  exit 77
fi

sources() {
  if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
    git ls-files -z --cached --others --exclude-standard -- '*.h' '*.cc' '*.cu' '*.proto'
  else
    find . -path './build*' -prune -o -type f \
      \( -name '*.h' -o -name '*.cc' -o -name '*.cu' -o -name '*.proto' \) -print0
  fi
}

if [ "${1:-}" = --check ]; then
  sources | xargs -0 -r -n 32 -P "$(nproc)" "$tool" --dry-run -Werror --ferror-limit=1
  status=$?
  [ $status -eq 0 ] || echo "run scripts/format.sh to fix this"
  exit $((status != 0))
fi
sources | xargs -0 -r -n 32 -P "$(nproc)" "$tool" -i
