// What the files of the integer path share. Internal to kernels/cuda/; device code.
#ifndef OCTET_KERNELS_CUDA_INT_KERNELS_H_
#define OCTET_KERNELS_CUDA_INT_KERNELS_H_

#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/layout.h"
#include "kernels/packed_weights.h"
#include "kernels/panel_layout.h"

namespace octet::cuda {

// int8 rows and their scales: [..][padded_k], [..][groups], dense.
struct QuantRows {
  const int8_t* q = nullptr;
  const float* scales = nullptr;
  uint32_t padded_k = 0;
  uint32_t groups = 0;
};

// Matrices of one shape, one an expert, or a single one. `which` is 0 gate, 1 up, 2 down.
struct MatrixSet {
  const ExpertMatrices* experts = nullptr;  // on the device; null: `single`
  Matrix single;
  int which = 0;

  __device__ __forceinline__ const uint8_t* data(uint32_t expert) const {
    if (experts == nullptr) return single.data;
    const ExpertMatrices& e = experts[expert];
    return which == 0 ? e.gate.data : which == 1 ? e.up.data : e.down.data;
  }
};

// Which rows an expert computes: entries [offsets[e], offsets[e + 1]); without offsets all `count`
// rows belong to the one matrix. Entry i reads row rows[i], or i itself.
struct EntryMap {
  const uint32_t* offsets = nullptr;
  const uint32_t* rows = nullptr;
  uint32_t count = 0;

  __device__ __forceinline__ uint32_t begin(uint32_t expert) const {
    return offsets != nullptr ? offsets[expert] : 0;
  }
  __device__ __forceinline__ uint32_t end(uint32_t expert) const {
    return offsets != nullptr ? offsets[expert + 1] : count;
  }
  __device__ __forceinline__ uint32_t row(uint32_t entry) const {
    return rows != nullptr ? rows[entry] : entry;
  }
};

// Where a middle row goes once it is computed: quantised in groups of 32, 64 or 128, or as floats.
struct MiddleOut {
  int8_t* q = nullptr;  // null: `h`
  float* scales = nullptr;
  uint32_t padded_k = 0;
  uint32_t group = 0;
  float* h = nullptr;
  uint32_t middle = 0;  // row length of h
};

// The stored code of a weight in the host's panels, less the offset, and its scale and minimum.
__device__ __forceinline__ int PanelCode(const WeightFormat& f, const PanelLayout& p,
                                         const uint8_t* panel, uint32_t k, uint32_t lane) {
  const uint8_t* values = panel + p.values;
  if (f.bits == 4) {
    const int two = values[k / 8 * 64 + lane * 4 + k % 4];
    return (k % 8 >= 4 ? two >> 4 : two & 15) - f.offset;
  }
  const uint8_t byte = values[k / 4 * 64 + lane * 4 + k % 4];
  if (f.bits == 8 && f.offset == 0) return static_cast<int8_t>(byte);
  return int{byte} - f.offset;
}

__device__ __forceinline__ GroupScale PanelScale(const WeightFormat& f, const PanelLayout& p,
                                                 const uint8_t* panel, uint32_t group,
                                                 uint32_t lane) {
  const auto* halves = reinterpret_cast<const __half*>(panel);
  const uint8_t* second = panel + p.second;
  const uint32_t super = group * f.group / static_cast<uint32_t>(kSuperBlock);
  GroupScale out;
  if (f.scale == ScaleEncoding::kF16) {
    out.scale = __half2float(halves[group * 16 + lane]);
    if (f.minimum) {
      out.minimum = __half2float(reinterpret_cast<const __half*>(second)[group * 16 + lane]);
    }
  } else if (f.scale == ScaleEncoding::kF16xU6) {
    const uint8_t* factors = second + group * 32;
    out.scale = __fmul_rn(__half2float(halves[super * 32 + lane]), factors[lane]);
    out.minimum = -__fmul_rn(__half2float(halves[super * 32 + 16 + lane]), factors[16 + lane]);
  } else {
    const auto factor = static_cast<int8_t>(second[group * 16 + lane]);
    out.scale = __fmul_rn(__half2float(halves[super * 16 + lane]), factor);
  }
  return out;
}

// The value of one weight of a matrix in panels, as UnpackRow of packed_weights.h.
__device__ __forceinline__ float PanelWeight(const WeightFormat& f, const PanelLayout& p,
                                             const uint8_t* panel, uint32_t k, uint32_t lane) {
  const size_t index = size_t{k} * kPanelOutputs + lane;
  if (f.kind == WeightKind::kF32) return reinterpret_cast<const float*>(panel)[index];
  if (f.kind == WeightKind::kF16) {
    return __half2float(reinterpret_cast<const __half*>(panel)[index]);
  }
  const GroupScale scale = PanelScale(f, p, panel, k / f.group, lane);
  const float value = __fmul_rn(static_cast<float>(PanelCode(f, p, panel, k, lane)), scale.scale);
  return f.minimum ? __fadd_rn(value, scale.minimum) : value;
}

// ---- Host side ----

// Any integer format in panels.
int PanelProduct(cudaStream_t stream, const MatrixSet& w, uint32_t experts, const EntryMap& map,
                 uint32_t rows_max, const QuantRows& x, float* y, size_t y_stride);

// Many rows of each matrix, on Hopper's tensor cores (int_wide.cu); tiled formats only. An image
// holds up to `entries` rows, of `experts` matrices, for the format that will multiply them.
bool WideSupports(const WeightFormat& format);
size_t WideImageBytes(const WeightFormat& format, uint32_t experts, size_t entries, size_t k);
int WideProduct(cudaStream_t stream, const MatrixSet& w, uint32_t experts, const EntryMap& map,
                uint32_t entries_max, const QuantRows& x, uint8_t* image, float* y,
                size_t y_stride);
// Both products of an expert.
struct WideFfn {
  MatrixSet gate, up, down;
  uint32_t experts;
  EntryMap map;
  uint32_t entries_max;
  QuantRows x;
  uint8_t* image;
  uint8_t* middle_image;
  float* h;  // [entries][middle], where down has one activation scale a row
  float* y;
};
int WideExperts(cudaStream_t stream, const WideFfn& f);

void AddMatrices(CudaApi* api);

}  // namespace octet::cuda

#endif  // OCTET_KERNELS_CUDA_INT_KERNELS_H_
