// Launches that may overlap with the end of the one ahead of them in their stream.
#ifndef OCTET_KERNELS_CUDA_LAUNCH_EARLY_CUH_
#define OCTET_KERNELS_CUDA_LAUNCH_EARLY_CUH_

#include <cstddef>

#include "kernels/cuda/launch.h"

namespace octet::cuda {

// Launches `kernel` with `shared` bytes of dynamic shared memory. With `early` it may begin once
// every block of the launch ahead has called GridTrigger; what that one writes is there after
// GridWait (pipeline.cuh). Without, both calls in the kernel do nothing.
template <typename... Params, typename... Args>
int LaunchEarly(void (*kernel)(Params...), dim3 grid, unsigned threads, size_t shared,
                cudaStream_t stream, bool early, Args... args) {
  if (shared > 48 * 1024) {
    const cudaError_t error = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
    if (error != cudaSuccess) return error;
  }
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = early ? 1 : 0;
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, Params(args)...);
  const int last = LaunchError();
  return error != cudaSuccess ? error : last;
}

}  // namespace octet::cuda

#endif  // OCTET_KERNELS_CUDA_LAUNCH_EARLY_CUH_
