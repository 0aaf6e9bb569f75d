// The tiled integer formats (layout.h) as the tensor-core kernels take them apart: what the lanes
// of a warp read, and how the exact sum of a group enters a result.
#ifndef OCTET_KERNELS_CUDA_INT_CODEC_CUH_
#define OCTET_KERNELS_CUDA_INT_CODEC_CUH_

#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/int_kernels.h"

namespace octet::cuda {

__device__ __forceinline__ uint4 LoadShared16(uint32_t address) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(address)
               : "memory");
  return v;
}
__device__ __forceinline__ uint2 LoadShared8(uint32_t address) {
  uint2 v;
  asm volatile("ld.shared.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(address) : "memory");
  return v;
}
__device__ __forceinline__ float LoadSharedHalf(uint32_t address) {
  uint16_t h;
  asm volatile("ld.shared.u16 %0, [%1];" : "=h"(h) : "r"(address) : "memory");
  return __half2float(__ushort_as_half(h));
}
__device__ __forceinline__ int LoadSharedByte(uint32_t address) {
  int v;
  asm volatile("ld.shared.s8 %0, [%1];" : "=r"(v) : "r"(address) : "memory");
  return v;
}

// The words of one chunk's values that a lane holds, and the A operands made of them.
template <int kBits>
struct ChunkValues;

// Codes less 8, in the high nibble of a byte: 16 times the weight.
template <>
struct ChunkValues<4> {
  uint4 half[2];
  // `chunk` is the chunk's address in shared memory plus 16 times the lane.
  __device__ __forceinline__ explicit ChunkValues(uint32_t chunk) {
#pragma unroll
    for (int i = 0; i < 2; ++i) half[i] = LoadShared16(chunk + i * 512);
  }
  __device__ __forceinline__ void Step(int s, uint32_t (&a)[4]) const {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t word = s == 0   ? half[i].x
                            : s == 1 ? half[i].y
                            : s == 2 ? half[i].z
                                     : half[i].w;
      a[i] = (word << 4) & 0xf0f0f0f0u;
      a[2 + i] = word & 0xf0f0f0f0u;
    }
  }
};

template <>
struct ChunkValues<8> {
  uint4 part[4];
  __device__ __forceinline__ explicit ChunkValues(uint32_t chunk) {
#pragma unroll
    for (int i = 0; i < 4; ++i) part[i] = LoadShared16(chunk + i * 512);
  }
  __device__ __forceinline__ void Step(int s, uint32_t (&a)[4]) const {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint4 p = part[2 * i + s / 2];
      a[i] = s % 2 == 0 ? p.x : p.z;
      a[2 + i] = s % 2 == 0 ? p.y : p.w;
    }
  }
};

// f16 scales. A group's sum starts at the integer that is the bit pattern of 1.5 * 2^23, so that it
// ends as the bits of a float that lies `sum` above it: conversion is one exact fma, which also
// takes the factor 16 of the 4-bit codes away. |sum| < 2^22 always.
template <int kBits>
struct HalfGroupScales {
  static constexpr int kDotStart = 0x4b400000;
  float scale[2];
  // `scales` is the address of the chunk's scales plus that of output lane / 4 among them.
  __device__ __forceinline__ HalfGroupScales(uint32_t scales, uint32_t group) {
    scale[0] = LoadSharedHalf(scales + group * 32);
    scale[1] = LoadSharedHalf(scales + group * 32 + 16);
  }
  static __device__ __forceinline__ float ToFloat(int dot) {
    constexpr float kUnit = kBits == 4 ? 1.0f / 16 : 1.0f;
    return __fmaf_rn(__int_as_float(dot), kUnit, -12582912.0f * kUnit);
  }
  __device__ __forceinline__ void Add(const int (&dot)[4], const float (&a_scale)[2],
                                      float (&acc)[4]) const {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      acc[j] = __fmaf_rn(ToFloat(dot[j]), __fmul_rn(scale[j / 2], a_scale[j % 2]), acc[j]);
    }
  }
};

// w4x: integer factors, everything summed modulo 2^32.
struct FactorGroupScales {
  static constexpr int kDotStart = 0;
  int factor[2];
  __device__ __forceinline__ FactorGroupScales(uint32_t scales, uint32_t group) {
    factor[0] = LoadSharedByte(scales + group * 16);
    factor[1] = LoadSharedByte(scales + group * 16 + 8);
  }
  __device__ __forceinline__ void Add(const int (&dot)[4], const float (&)[2],
                                      uint32_t (&acc)[4]) const {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      acc[j] += static_cast<uint32_t>(factor[j / 2] * (dot[j] >> 4));
    }
  }
};

template <int kBitsOf, bool kW4xOf, int kGroup>
struct Codec {
  static constexpr int kBits = kBitsOf;
  static constexpr bool kW4x = kW4xOf;
  static constexpr int kGroupsPerChunk = static_cast<int>(kChunk) / kGroup;
  static constexpr int kStepsPerGroup = kGroup / 32;
  // Activation scales of a row in a chunk; w4x has one for the whole row.
  static constexpr int kScalesPerChunk = kW4x ? 1 : kGroupsPerChunk;
  static constexpr int kValueBytes = static_cast<int>(kChunk * kTileOutputs) * kBits / 8;
  static constexpr int kScaleBytes =
      (kGroupsPerChunk * static_cast<int>(kTileOutputs) * (kW4x ? 1 : 2) + 31) / 32 * 32;
  static constexpr int kChunkBytes = kValueBytes + kScaleBytes;
  using LaneValues = ChunkValues<kBits>;
  using GroupScales = std::conditional_t<kW4x, FactorGroupScales, HalfGroupScales<kBits>>;
  using Accumulator = std::conditional_t<kW4x, uint32_t, float>;
  static constexpr int kDotStart = GroupScales::kDotStart;
};

}  // namespace octet::cuda

#endif  // OCTET_KERNELS_CUDA_INT_CODEC_CUH_
