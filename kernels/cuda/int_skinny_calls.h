// The skinny products of each codec (int_skinny.cuh), for the file that chooses among them.
#ifndef OCTET_KERNELS_CUDA_INT_SKINNY_CALLS_H_
#define OCTET_KERNELS_CUDA_INT_SKINNY_CALLS_H_

#include "kernels/cuda/int_kernels.h"

namespace octet::cuda {

struct SkinnyShape {
  uint32_t n;
  uint32_t panels;
  uint32_t chunks;
  uint32_t weight_groups;
  TiledLayout layout;
};

// What a product computes: one matrix of every expert, or up to three matrices of one format and k
// over the same rows, in which case `experts` of the call counts them and the map has no offsets.
struct SkinnyTargets {
  static constexpr uint32_t kMax = 3;
  uint32_t count = 1;
  MatrixSet set;                   // count == 1
  const uint8_t* data[kMax] = {};  // count > 1
  uint32_t n[kMax] = {};
  float* y[kMax] = {};
  size_t y_stride[kMax] = {};
};

struct SkinnyCall {
  cudaStream_t stream;
  uint32_t experts;
  uint32_t rows_max;     // of one matrix
  uint32_t entries_max;  // of all
  SkinnyShape shape;
  EntryMap map;
  QuantRows x;
  // May begin while the launch ahead of it drains. That one must be of this file and read nothing
  // that is not complete when it begins.
  bool early;
};

int SkinnyProductInt4(uint32_t group, const SkinnyCall& c, const SkinnyTargets& w);
int SkinnyProductInt8(uint32_t group, const SkinnyCall& c, const SkinnyTargets& w);
int SkinnyProductW4x(uint32_t group, const SkinnyCall& c, const SkinnyTargets& w);
int SkinnyGateUpInt4(uint32_t group, const SkinnyCall& c, const MatrixSet& gate,
                     const MatrixSet& up, const MiddleOut& out);
int SkinnyGateUpInt8(uint32_t group, const SkinnyCall& c, const MatrixSet& gate,
                     const MatrixSet& up, const MiddleOut& out);
int SkinnyGateUpW4x(uint32_t group, const SkinnyCall& c, const MatrixSet& gate, const MatrixSet& up,
                    const MiddleOut& out);

}  // namespace octet::cuda

#endif  // OCTET_KERNELS_CUDA_INT_SKINNY_CALLS_H_
