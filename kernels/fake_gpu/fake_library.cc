// The library as programs open it in the place of liboctet_cuda.so.
#include "kernels/fake_gpu/fake_device.h"

extern "C" __attribute__((visibility("default"))) const octet::cuda::CudaApi* octet_get_cuda_api(
    uint32_t version, size_t bytes) {
  if (version != octet::cuda::kCudaApiVersion || bytes != sizeof(octet::cuda::CudaApi)) {
    return nullptr;
  }
  static const octet::cuda::CudaApi api = [] {
    octet::cuda::CudaApi table{};
    octet::fake_gpu::AddRuntime(&table);
    octet::fake_gpu::AddKernels(&table);
    return table;
  }();
  return &api;
}
