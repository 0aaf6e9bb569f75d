# Debian packages that Octet needs, in one place. To be sourced:
#   . scripts/packages.sh
#   install_packages build test     # installs what is missing, as root
# Kinds: build (compile and run), model (fetch a model from PyPI), test (every check of
# scripts/test.sh), fuzz (scripts/fuzz.sh).

packages_of() {
  case "$1" in
    build)
      echo ca-certificates g++ cmake ninja-build pkg-config ccache mold \
        libgrpc++-dev protobuf-compiler-grpc protobuf-compiler libprotobuf-dev libabsl-dev \
        libyaml-cpp-dev libcli11-dev nlohmann-json3-dev libsentencepiece-dev libpcre2-dev \
        libsqlite3-dev libhwloc-dev libssl-dev libutf8proc-dev libgtest-dev libgmock-dev libbenchmark-dev
      ;;
    model) echo python3 python3-venv python3-pip ;;
    test) echo git procps iproute2 nftables python3 python3-venv python3-pip clang-format-14 clang-tidy-14 kubectl spin ;;
    fuzz) echo clang-14 libclang-rt-14-dev ;;
    *)
      echo "packages.sh: unknown kind '$1' (allowed: build, model, test, fuzz)" >&2
      return 1
      ;;
  esac
}

# A package counts as present when dpkg has it, or when what it would bring is already there by
# other means: several packagings of kubectl conflict with each other, for instance.
package_present() {
  case "$1" in
    kubectl) command -v kubectl >/dev/null ;;
    cmake | git | mold | ccache | python3 | spin) command -v "$1" >/dev/null ;;
    ninja-build) command -v ninja >/dev/null ;;
    python3-venv) python3 -c 'import ensurepip, venv' 2>/dev/null ;;
    python3-pip) python3 -m pip --version >/dev/null 2>&1 ;;
    *) [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ] ;;
  esac
}

install_packages() {
  local kind package list missing=""
  for kind in "$@"; do
    list=$(packages_of "$kind") || return 1
    for package in $list; do
      package_present "$package" && continue
      # The Debian package that contains kubectl has another name.
      [ "$package" = kubectl ] && package=kubernetes-client
      missing="$missing $package"
    done
  done
  [ -z "$missing" ] && return 0
  if ! command -v apt-get >/dev/null; then
    echo "packages.sh: this system has no apt-get; install by other means:$missing" >&2
    return 1
  fi
  if [ "$(id -u)" -ne 0 ]; then
    echo "packages.sh: root is needed once, to run: apt-get install$missing" >&2
    return 1
  fi
  echo "installing:$missing"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq &&
    # shellcheck disable=SC2086 -- the list is meant to split into words
    apt-get install -y -qq --no-install-recommends $missing >/dev/null
}
