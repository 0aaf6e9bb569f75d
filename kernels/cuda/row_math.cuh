// Steps on rows that kernels of several files share: vectors of four, the sum of squares of a norm,
// the quantising of four values.
#ifndef OCTET_KERNELS_CUDA_ROW_MATH_CUH_
#define OCTET_KERNELS_CUDA_ROW_MATH_CUH_

#include <cstdint>

#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/quantize.cuh"

namespace octet::cuda {

inline bool Aligned16(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

__device__ __forceinline__ float4 Load4(const float* p) {
  return *reinterpret_cast<const float4*>(p);
}
__device__ __forceinline__ void Store4(float* p, float4 v) { *reinterpret_cast<float4*>(p) = v; }

__device__ __forceinline__ float Mul(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ float Add(float a, float b) { return __fadd_rn(a, b); }
__device__ __forceinline__ float Fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
__device__ __forceinline__ float4 Mul(float a, float4 b) {
  return {Mul(a, b.x), Mul(a, b.y), Mul(a, b.z), Mul(a, b.w)};
}
__device__ __forceinline__ float4 Add(float4 a, float4 b) {
  return {Add(a.x, b.x), Add(a.y, b.y), Add(a.z, b.z), Add(a.w, b.w)};
}
__device__ __forceinline__ float4 Fma(float a, float4 b, float4 c) {
  return {Fma(a, b.x, c.x), Fma(a, b.y, c.y), Fma(a, b.z, c.z), Fma(a, b.w, c.w)};
}

// Adds the squares of row[lane], row[lane + 32], .. to this lane's sum. What takes the time is the
// chain of fused steps, so that the next values are read while the last ones are added.
__device__ __forceinline__ float AddSquares(const float* row, uint32_t n, uint32_t lane,
                                            float sum) {
  constexpr uint32_t kAhead = 16;
  const uint32_t batches = n / (32 * kAhead);
  float now[kAhead] = {};
  if (batches > 0) {
#pragma unroll
    for (uint32_t j = 0; j < kAhead; ++j) now[j] = row[32 * j + lane];
  }
#pragma unroll 2
  for (uint32_t b = 0; b < batches; ++b) {
    // The last batch is read once more, and not used.
    const float* ahead = row + min(b + 1, batches - 1) * (32 * kAhead) + lane;
    float next[kAhead];
#pragma unroll
    for (uint32_t j = 0; j < kAhead; ++j) next[j] = ahead[32 * j];
#pragma unroll
    for (uint32_t j = 0; j < kAhead; ++j) {
      sum = Fma(now[j], now[j], sum);
      now[j] = next[j];
    }
  }
  for (uint32_t i = batches * 32 * kAhead + lane; i < n; i += 32) sum = Fma(row[i], row[i], sum);
  return sum;
}

// By a full warp, of its lanes' sums.
__device__ __forceinline__ float InverseRms(float lane_sum, uint32_t cols, float eps) {
  const float mean = __fdiv_rn(SumLanes(lane_sum), static_cast<float>(cols));
  return __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(mean, eps)));
}

__device__ __forceinline__ float Scaled(float x, float inverse, float weight) {
  return Mul(Mul(x, inverse), weight);
}

__device__ __forceinline__ uint32_t Magnitude4(float4 v) {
  return max(max(MagnitudeBits(v.x), MagnitudeBits(v.y)),
             max(MagnitudeBits(v.z), MagnitudeBits(v.w)));
}

__device__ __forceinline__ void StoreQuantized4(const GroupQuant& g, float4 v, int8_t* q) {
  *reinterpret_cast<char4*>(q) = make_char4(static_cast<signed char>(QuantizeValue(g, v.x)),
                                            static_cast<signed char>(QuantizeValue(g, v.y)),
                                            static_cast<signed char>(QuantizeValue(g, v.z)),
                                            static_cast<signed char>(QuantizeValue(g, v.w)));
}

}  // namespace octet::cuda

#endif  // OCTET_KERNELS_CUDA_ROW_MATH_CUH_
