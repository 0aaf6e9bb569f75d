#!/usr/bin/env bash
# Gathers what a machine with a GPU needs to run every device check without building anything:
# programs, the CUDA plugin, and the shared libraries that such a machine may lack.
#   scripts/device-bundle.sh [BUILD [TO]]        # default: build, build/device
# Take TO and scripts/ there and run scripts/device-check.sh.
set -eu -o pipefail
cd "$(dirname "$0")/.."
build=${1:-build}
to=${2:-$build/device}
rm -rf "$to"
mkdir -p "$to/bin" "$to/lib"
programs=()
for program in kernels/cuda/kernels_cuda_test expert_worker/expert_worker_cuda_worker_test router/router_cuda_transformer_test \
  bench/octet_cuda_bench transport/nccl_smoke octet; do
  if [ -x "$build/$program" ]; then programs+=("$build/$program"); fi
done
cp "${programs[@]}" "$to/bin"
cp "$build/kernels/liboctet_cuda.so" "$to/lib"
strip --strip-unneeded "$to"/bin/* "$to"/lib/*.so
# The C and C++ runtimes are the machine's own; all else comes along.
ldd "${programs[@]}" | awk '$2 == "=>" && $3 ~ /^\// {print $3}' | sort -u |
  grep -v -E '/(libc|libm|libgcc_s|libstdc\+\+|libpthread|libdl|librt|ld-linux[^/]*)\.so' |
  xargs -r cp -L -t "$to/lib"
pwd >"$to/source" # where router_cuda_transformer_test looks for its models
du -sh "$to"
