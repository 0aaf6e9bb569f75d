// The functions of docs/numerics.md on the device, the same bits as kernels/math.cc. Built with
// --fmad=false, and with every fused step written out.
#ifndef OCTET_KERNELS_CUDA_DEVICE_MATH_CUH_
#define OCTET_KERNELS_CUDA_DEVICE_MATH_CUH_

#include <cstdint>

namespace octet::cuda {

// exp(x) of docs/numerics.md.
__device__ __forceinline__ float ExpF(float x) {
  if (x != x) return x;
  if (x < -0x1.5d589ep+6f) return 0.0f;
  if (x > 0x1.62e42ep+6f) return __int_as_float(0x7f800000);
  const float magic = 12582912.0f;
  const float shifted = __fmaf_rn(x, 0x1.715476p+0f, magic);
  const float n = __fsub_rn(shifted, magic);
  const int exponent = __float_as_int(shifted) - __float_as_int(magic);
  float r = __fmaf_rn(n, -0x1.62e400p-1f, x);
  r = __fmaf_rn(n, -0x1.7f7d1cp-20f, r);
  float p = 1.0f / 5040;
  p = __fmaf_rn(p, r, 1.0f / 720);
  p = __fmaf_rn(p, r, 1.0f / 120);
  p = __fmaf_rn(p, r, 1.0f / 24);
  p = __fmaf_rn(p, r, 1.0f / 6);
  p = __fmaf_rn(p, r, 0.5f);
  p = __fmaf_rn(p, r, 1.0f);
  p = __fmaf_rn(p, r, 1.0f);
  const int half = exponent >> 1;
  const float scale_a = __int_as_float((half + 127) << 23);
  const float scale_b = __int_as_float((exponent - half + 127) << 23);
  return __fmul_rn(__fmul_rn(p, scale_a), scale_b);
}

// silu(gate) * up.
__device__ __forceinline__ float SiluMul(float gate, float up) {
  return __fmul_rn(__fdiv_rn(gate, __fadd_rn(1.0f, ExpF(-gate))), up);
}

// max(a, b) of the contract: NaN never wins over a number in `b`.
__device__ __forceinline__ float MaxNumber(float a, float b) { return a > b ? a : b; }

// The tree that ends a sum over 32 lanes, one lane a thread of a full warp. Every thread gets the
// sum: addition commutes, so both sides of an exchange get the same bits.
__device__ __forceinline__ float SumLanes(float lane) {
#pragma unroll
  for (int width = 16; width >= 1; width /= 2) {
    lane = __fadd_rn(lane, __shfl_xor_sync(0xffffffffu, lane, width));
  }
  return lane;
}

}  // namespace octet::cuda

#endif  // OCTET_KERNELS_CUDA_DEVICE_MATH_CUH_
