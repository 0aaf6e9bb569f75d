#!/usr/bin/env bash
# clang-tidy over the sources that differ from a base, the most recently changed first.
#   scripts/tidy.sh [--base REVISION] [--seconds N]
# Default base: $OCTET_TIDY_BASE, else origin/main, else the commit before. New files are not started
# after N seconds (default 120); what was left off is counted. Needs build/compile_commands.json.
# What it finds is printed as it is found; errors are printed again at the end.
# Exit status: 1 if there are errors (.clang-tidy says which findings are), 77 if it can't run here.
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 1

base=${OCTET_TIDY_BASE:-}
seconds=120
while [ $# -gt 0 ]; do
  case "$1" in
    --base) base=${2:?"--base needs a revision"} ;;
    --seconds) seconds=${2:?"--seconds needs a number"} ;;
    *)
      echo "tidy.sh: unknown option '$1' (allowed: --base, --seconds)" >&2
      exit 2
      ;;
  esac
  shift 2
done

not_run() {
  echo "not run: $1"
  exit 77
}
tool=$(command -v clang-tidy-14 || command -v clang-tidy) || not_run "clang-tidy is not installed"
[ -f build/compile_commands.json ] || not_run "build/compile_commands.json does not exist"
git rev-parse --is-inside-work-tree >/dev/null 2>&1 || not_run "this is not a git checkout"
if [ -z "$base" ]; then
  for candidate in origin/main HEAD~1; do
    if git rev-parse -q --verify "$candidate^{commit}" >/dev/null; then
      base=$(git merge-base HEAD "$candidate") && break
    fi
  done
  # On the main branch itself, the last commit is what changed.
  [ "$base" = "$(git rev-parse HEAD)" ] && base=$(git rev-parse -q --verify HEAD~1)
fi
[ -n "$base" ] || not_run "there is no revision to compare with"

mapfile -t changed < <(
  { git diff --name-only --diff-filter=d "$base" -- '*.cc'
    git ls-files --others --exclude-standard -- '*.cc'; } | sort -u |
    while read -r path; do
      grep -qF "/$path\"" build/compile_commands.json && echo "$(stat -c %Y "$path") $path"
    done | sort -rn | cut -d' ' -f2-
)
if [ ${#changed[@]} -eq 0 ]; then
  echo "no source differs from $base"
  exit 0
fi

work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
epoch_stop=$(($(date +%s) + seconds))
export tool epoch_stop work
check_one() {
  [ "$(date +%s)" -lt "$epoch_stop" ] || { echo "$1" >>"$work/left"; return 0; }
  local status=0
  "$tool" -p build --quiet "$1" >"$work/out.$$" 2>"$work/err.$$" || status=$?
  cat "$work/out.$$"
  if [ $status -ne 0 ]; then
    echo "$1" >>"$work/bad"
    errors_of "$work/out.$$" >"$work/errors.$$"
    # It did not finish: what it said last says why.
    [ -s "$work/errors.$$" ] ||
      { echo "$1: clang-tidy ended with status $status" && tail -n 5 "$work/err.$$"; } \
        >"$work/errors.$$"
  fi
  rm -f "$work/out.$$" "$work/err.$$"
}
# The first errors among the findings on a file, each once, with their notes.
errors_of() {
  awk '/^[^ ].*:[0-9]+:[0-9]+: (warning|error|fatal error): / {
         keep = / (error|fatal error): / && !seen[$0]++
       }
       keep' "$1" | head -n 60
}
export -f check_one errors_of
printf '%s\0' "${changed[@]}" | xargs -0 -n 1 -P "$(nproc)" bash -c 'check_one "$1"' tidy
left=0
[ -f "$work/left" ] && left=$(wc -l <"$work/left")
echo "clang-tidy: checked $((${#changed[@]} - left)) of ${#changed[@]} changed files" \
  "(time limit $seconds s)"
if [ -f "$work/bad" ]; then
  echo "errors:" && cat "$work"/errors.*
  echo "errors in:" && sort "$work/bad"
  exit 1
fi
