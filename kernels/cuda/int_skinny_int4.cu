#include "kernels/cuda/int_skinny.cuh"
#include "kernels/cuda/int_skinny_calls.h"

namespace octet::cuda {

int SkinnyProductInt4(uint32_t group, const SkinnyCall& c, const MatrixSet& w, float* y,
                      size_t y_stride) {
  return SkinnyProductOf<4, false>(group, c, w, y, y_stride);
}
int SkinnyGateUpInt4(uint32_t group, const SkinnyCall& c, const MatrixSet& gate,
                     const MatrixSet& up, const MiddleOut& out) {
  return SkinnyGateUpOf<4, false>(group, c, gate, up, out);
}

}  // namespace octet::cuda
