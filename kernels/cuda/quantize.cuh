// Quantising activations on the device: the rule of docs/numerics.md, for one group.
#ifndef OCTET_KERNELS_CUDA_QUANTIZE_CUH_
#define OCTET_KERNELS_CUDA_QUANTIZE_CUH_

#include <cstdint>

namespace octet::cuda {

// The bits of |x|, ordered as unsigned integers are; infinity and NaN come out on top. So the
// maximum of a group, in whatever order, is its greatest magnitude, or says that it is not finite.
__device__ __forceinline__ uint32_t MagnitudeBits(float x) {
  return __float_as_uint(x) & 0x7fffffffu;
}

// What a group's greatest magnitude makes of it: q = rne(x * inverse), or all zeros.
struct GroupQuant {
  float scale;
  float inverse;
  bool zero;
};

__device__ __forceinline__ GroupQuant MakeGroupQuant(uint32_t magnitude_bits) {
  const float a = __uint_as_float(magnitude_bits);
  if (magnitude_bits >= 0x7f800000u) return {__uint_as_float(0x7fc00000u), 0.0f, true};
  if (a < 0x1p-100f) return {0.0f, 0.0f, true};
  return {__fdiv_rn(a, 127.0f), __fdiv_rn(127.0f, a), false};
}

__device__ __forceinline__ int QuantizeValue(const GroupQuant& g, float x) {
  if (g.zero) return 0;
  const float r = rintf(__fmul_rn(x, g.inverse));
  return static_cast<int>(fminf(fmaxf(r, -127.0f), 127.0f));
}

}  // namespace octet::cuda

#endif  // OCTET_KERNELS_CUDA_QUANTIZE_CUH_
