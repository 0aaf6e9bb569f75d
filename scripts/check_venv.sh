# A Python environment for checks that need packages from PyPI. To be sourced; sets `check_python`.
# Ends the script with status 77 ("not run") where PyPI can't be reached.

make_check_venv() {
  local folder=build/check-venv stamp
  stamp=$(sha256sum tests/check_requirements.txt | cut -c1-16)
  check_python=$folder/bin/python
  [ -f "$folder/$stamp" ] && return 0
  rm -rf "$folder"
  mkdir -p build
  if python3 -m venv "$folder" >/dev/null 2>&1 &&
    "$check_python" -m pip install --quiet --disable-pip-version-check --retries 1 --timeout 20 \
      -r tests/check_requirements.txt; then
    touch "$folder/$stamp"
    return 0
  fi
  rm -rf "$folder"
  echo "not run: the Python packages of tests/check_requirements.txt can't be installed"
  exit 77
}
