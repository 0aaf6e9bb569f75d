// The wide products of each codec (int_wide.cuh), for the file that prepares their images.
#ifndef OCTET_KERNELS_CUDA_INT_WIDE_CALLS_H_
#define OCTET_KERNELS_CUDA_INT_WIDE_CALLS_H_

#include "kernels/cuda/int_kernels.h"

namespace octet::cuda {

inline constexpr uint32_t kImageRows = 64;
inline constexpr uint32_t kWideExpertsMax = 512;

// Where input `k` of a row lies in the chunk of an image: within each 32 inputs in the order in
// which the tensor cores pair them with the words of layout.h, then swizzled by row.
__device__ __forceinline__ uint32_t ImageByte(uint32_t row, uint32_t k) {
  const uint32_t unit = k / 32 * 2 + k / 4 % 2;
  return row * 128 + ((unit ^ row % 8) * 16) + k / 8 % 4 * 4 + k % 4;
}

struct WideShape {
  bool gate_up = false;
  uint32_t n = 0;
  uint32_t panels = 0;
  uint32_t output_tiles = 0;  // of 128 (gate and up) or 256 outputs
  uint32_t chunks = 0;
  uint32_t weight_groups = 0;
  TiledLayout layout{};
};

struct WideCall {
  MatrixSet w[2];  // gate and up, or the one matrix
  WideShape shape;
  uint32_t experts = 0;
  EntryMap map;
  const uint8_t* image = nullptr;     // of the rows, [tiles][chunks][block]
  const float* row_scales = nullptr;  // [tiles][kImageRows], where a scale covers the row
  // What gate and up give: an image in groups of middle_group, or floats in y.
  uint8_t* middle_image = nullptr;
  uint32_t middle_chunks = 0;
  uint32_t middle_group = 0;
  float* y = nullptr;
  size_t y_stride = 0;
};

int LaunchWideInt4(uint32_t group, cudaStream_t stream, const WideCall& call, uint32_t blocks);
int LaunchWideInt8(uint32_t group, cudaStream_t stream, const WideCall& call, uint32_t blocks);
int LaunchWideW4x(uint32_t group, cudaStream_t stream, const WideCall& call, uint32_t blocks);

}  // namespace octet::cuda

#endif  // OCTET_KERNELS_CUDA_INT_WIDE_CALLS_H_
