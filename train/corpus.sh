#!/usr/bin/env bash
# Makes the training text out of Debian 12's packages: downloads the packages named below (installs
# none), unpacks what can hold text, and runs corpus.py over it. What is there already is kept, so
# a second run only repeats the cleaning. Where the texts come from and their licences: CORPUS.md.
#
#   train/corpus.sh             # → train/data/corpus-train.jsonl, corpus-heldout.jsonl,
#                               #   corpus-sizes.json
set -euo pipefail
cd "$(dirname "$0")"

packages=(
  # Books and essays.
  anarchism bible-kjv-text r-cran-janeaustenr debian-handbook debian-history
  debian-kernel-handbook debian-reference-en debian-faq debian-policy developers-reference
  harden-doc maint-guide debmake-doc installation-guide-amd64 debian-edu-doc-en
  freedombox-doc-en png-definitive-guide abs-guide c++-annotations-html gnu-standards
  # Dictionaries, sayings and lore.
  dict-gcide wordnet-base dict-foldoc dict-devil jargon-text fortunes
  fortune-anarchism stellarium-data
  # Stories and dialogue in games.
  wesnoth-1.16-data wesnoth-1.16-httt wesnoth-1.16-utbs wesnoth-1.16-low wesnoth-1.16-did
  wesnoth-1.16-dm wesnoth-1.16-dw wesnoth-1.16-ei wesnoth-1.16-l wesnoth-1.16-nr
  wesnoth-1.16-sof wesnoth-1.16-sota wesnoth-1.16-sotbe wesnoth-1.16-thot wesnoth-1.16-trow
  wesnoth-1.16-ttb wesnoth-1.16-tsg
  endless-sky-data crawl-common freeciv-data
  colobot-common angband-data freedroidrpg-data widelands-data freeorion-data fillets-ng-data
  crossfire-maps naev-data
  # Manuals for people at a desktop.
  gnome-user-docs gnome-devel-docs gimp-help-en libreoffice-help-en-us gnucash-docs
  kmymoney-common kstars-data khelpcenter gnumeric-doc lilypond-doc-html
  solfege-doc tellico-doc kicad-doc-en claws-mail-doc fontforge-doc renpy-doc
  # Manuals for programmers and administrators.
  linux-doc-6.1 manpages manpages-dev python3.11-doc perl-doc rust-doc git-doc
  postgresql-doc-15 apache2-doc sqlite3-doc python-django-doc python-sqlalchemy-doc
  python-celery-doc twisted-doc buildbot-doc borgbackup-doc brz-doc snakemake-doc sphinx-doc
  python-scipy-doc python-sklearn-doc python-statsmodels-doc python-pandas-doc python-dask-doc
  python-sympy-doc r-doc-html octave-doc maxima-doc tcl8.6-doc bash-doc
  vim-runtime racket-doc guile-3.0-doc mit-scheme-doc sbcl-doc swi-prolog-doc
  exim4-doc-html postfix-doc bind9-doc kea-doc ntpsec-doc krb5-doc openafs-doc shorewall-doc
  nut-doc rsyslog-doc ganeti-doc slurm-wlm-doc icinga2-doc rt5-doc-html zoneminder-doc
  wireshark-doc nova-doc neutron-doc cinder-doc keystone-doc swift-doc llvm-15-doc clang-15-doc
  swig4.0-doc povray-doc
  ffmpeg-doc graphviz-doc grass-doc ghc-doc erlang-doc systemd
)

mkdir -p data/debs data/text
fail() { echo "corpus.sh: $*" >&2; exit 1; }
deb_of() { find data/debs -name "$1_*.deb" | sort | tail -n 1; }

missing=()
for name in "${packages[@]}"; do
  [ -n "$(deb_of "$name")" ] || missing+=("$name")
done
if [ "${#missing[@]}" -gt 0 ]; then
  # One call for all: apt keeps its connection, and says which name it can't find.
  # Without the option, root would drop to a user who can't write here.
  if ! errors=$(cd data/debs &&
      apt-get -qq -o APT::Sandbox::User=root download "${missing[@]}" 2>&1 >/dev/null); then
    reason=$(grep '^E: ' <<<"$errors" | head -n 1 || true)
    fail "cannot download: ${reason:-$errors} (is this Debian 12, and was apt-get update run?)"
  fi
fi

# Pictures, sound and code are most of the bytes and hold no prose.
unpack() {
  local deb=$1 text="data/text/$2"
  [ -e "$text.done" ] && return 0
  rm -rf "$text" && mkdir -p "$text"
  dpkg-deb --fsys-tarfile "$deb" |
    tar -x -C "$text" --no-same-owner --no-same-permissions \
      --exclude='*.png' --exclude='*.jp*g' --exclude='*.gif' --exclude='*.svg*' \
      --exclude='*.webp' --exclude='*.ogg' --exclude='*.wav' --exclude='*.mp3' \
      --exclude='*.[ot]tf' --exclude='*.woff*' --exclude='*.pdf*' --exclude='*.ps*' \
      --exclude='*.epub' --exclude='*.ipynb' --exclude='*.js' --exclude='*.css' \
      --exclude='*.mo' --exclude='*.[ch]' --exclude='*/_sources' --exclude='*/html/core' \
      --exclude='*/html/src' ||
    { echo "corpus.sh: cannot unpack '$deb'" >&2; return 1; }
  touch "$text.done"
}
export -f unpack
for name in "${packages[@]}"; do
  echo "$(deb_of "$name") $name"
done | xargs -P 2 -L 1 bash -euo pipefail -c 'unpack "$1" "$2"' _ || exit 1

python3 corpus.py data/text data "${packages[@]}"
