#include "kernels/cuda/int_skinny.cuh"

namespace octet::cuda {

int SkinnyProductInt4(uint32_t group, const SkinnyCall& c, const SkinnyTargets& w) {
  return SkinnyProductOf<4, false>(group, c, w);
}
int SkinnyGateUpInt4(uint32_t group, const SkinnyCall& c, const MatrixSet& gate,
                     const MatrixSet& up, const MiddleOut& out) {
  return SkinnyGateUpOf<4, false>(group, c, gate, up, out);
}

}  // namespace octet::cuda
