#include "kernels/cuda/int_wide.cuh"

namespace octet::cuda {

int LaunchWideW4x(uint32_t group, cudaStream_t stream, const WideCall& call, uint32_t blocks) {
  return LaunchWideOf<4, true>(group, stream, call, blocks);
}

}  // namespace octet::cuda
