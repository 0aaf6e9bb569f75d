#include "kernels/cuda/int_skinny.cuh"
#include "kernels/cuda/int_skinny_calls.h"

namespace octet::cuda {

int SkinnyProductInt8(uint32_t group, const SkinnyCall& c, const MatrixSet& w, float* y,
                      size_t y_stride) {
  return SkinnyProductOf<8, false>(group, c, w, y, y_stride);
}
int SkinnyGateUpInt8(uint32_t group, const SkinnyCall& c, const MatrixSet& gate,
                     const MatrixSet& up, const MiddleOut& out) {
  return SkinnyGateUpOf<8, false>(group, c, gate, up, out);
}

}  // namespace octet::cuda
