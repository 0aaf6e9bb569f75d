#include "kernels/cuda/int_skinny.cuh"

namespace octet::cuda {

int SkinnyProductInt8(uint32_t group, const SkinnyCall& c, const SkinnyTargets& w) {
  return SkinnyProductOf<8, false>(group, c, w);
}
int SkinnyGateUpInt8(uint32_t group, const SkinnyCall& c, const MatrixSet& gate,
                     const MatrixSet& up, const MiddleOut& out) {
  return SkinnyGateUpOf<8, false>(group, c, gate, up, out);
}

}  // namespace octet::cuda
