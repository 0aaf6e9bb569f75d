#include "kernels/cuda/int_skinny.cuh"

namespace octet::cuda {

int SkinnyProductW4x(uint32_t group, const SkinnyCall& c, const SkinnyTargets& w) {
  return SkinnyProductOf<4, true>(group, c, w);
}
int SkinnyGateUpW4x(uint32_t group, const SkinnyCall& c, const MatrixSet& gate, const MatrixSet& up,
                    const MiddleOut& out) {
  return SkinnyGateUpOf<4, true>(group, c, gate, up, out);
}

}  // namespace octet::cuda
