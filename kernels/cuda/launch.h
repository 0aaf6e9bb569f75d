// What the .cu files of the plugin share on the host side.
#ifndef OCTET_KERNELS_CUDA_LAUNCH_H_
#define OCTET_KERNELS_CUDA_LAUNCH_H_

#include <cuda_runtime.h>

#include <cstddef>

#include "kernels/cuda/cuda_api.h"

namespace octet::cuda {

inline cudaStream_t StreamOf(Stream stream) { return static_cast<cudaStream_t>(stream); }
inline int LaunchError() { return static_cast<int>(cudaGetLastError()); }
inline unsigned CeilDiv(size_t a, size_t b) { return static_cast<unsigned>((a + b - 1) / b); }

CudaApi MakeApi();

// Each file fills in the functions that it implements.
void AddRuntime(CudaApi* api);
void AddIntProducts(CudaApi* api);
void AddBf16Experts(CudaApi* api);
void AddRowKernels(CudaApi* api);
void AddAttention(CudaApi* api);
void AddFusedKernels(CudaApi* api);

}  // namespace octet::cuda

#endif  // OCTET_KERNELS_CUDA_LAUNCH_H_
