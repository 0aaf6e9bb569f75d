// What the attention kernels share: what a call is, which positions a row sees, copies of whole
// blocks into shared memory, and the pieces of arithmetic. Internal to attention*.cu.
#ifndef OCTET_KERNELS_CUDA_ATTENTION_CUH_
#define OCTET_KERNELS_CUDA_ATTENTION_CUH_

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/cuda_api.h"

namespace octet::cuda {

inline constexpr uint32_t kPositions = 64;  // of a block of the cache

// One call of paged_attention, by value to the kernels.
struct AttentionCall {
  Cache cache;
  Rows rows;
  uint32_t heads;
  uint32_t group;  // query heads of a kv head
  uint32_t window;
  float scale;
  const float* q;
  float* out;
};

// How the row kernel cuts a call. A line is a row that it may have to compute.
struct RowPlan {
  // 0: line = row. Else line i is row i % n of sequence i / n, where that has at most n rows.
  uint32_t lines_per_sequence;
  uint32_t lines;
  uint32_t splits;      // blocks of threads that share the cache's blocks of one line
  uint32_t blocks_max;  // of the cache, of one line
  // Where splits > 1: the parts that single blocks give, [lines][heads][blocks_max].
  float* outputs;  // [head_dim] each
  float2* stats;   // maximum and sum
};

// Sequences of at most this many rows are computed row by row in a batch that holds longer ones.
inline constexpr uint32_t kShortRows = 8;

// Each enqueues one or two kernels and returns CUDA's error. head_dim must be 64 or 128, and blocks
// of the cache 16-byte aligned.
int AttendRows(cudaStream_t stream, const AttentionCall& call, const RowPlan& plan);
// All rows of sequences of more than kShortRows rows.
int AttendTiles(cudaStream_t stream, const AttentionCall& call);

struct Target {
  bool active;
  uint32_t row;
  uint32_t position;
  const uint32_t* blocks;
};

__device__ __forceinline__ Target TargetOfLine(const Rows& rows, uint32_t lines_per_sequence,
                                               uint32_t line) {
  const bool by_row = lines_per_sequence == 0;
  const uint32_t index = by_row ? rows.row_sequence[line] : line / lines_per_sequence;
  const Sequence s = rows.sequences[index];
  const uint32_t offset = by_row ? line - s.row_begin : line % lines_per_sequence;
  Target t;
  t.active = by_row || (s.rows <= lines_per_sequence && offset < s.rows);
  t.row = s.row_begin + offset;
  t.position = s.position_begin + offset;
  t.blocks = rows.blocks + s.block_begin;
  return t;
}

// First position that a row at `position` sees.
__device__ __forceinline__ uint32_t FirstVisible(uint32_t position, uint32_t window) {
  return window != 0 && position + 1 > window ? position + 1 - window : 0;
}

// exp(x) of docs/numerics.md for x <= 0 or NaN, which is all that attention needs. 2^e is normal
// here, so that one product gives the bits of the contract's two.
__device__ __forceinline__ float ExpNonPositive(float x) {
  const float magic = 12582912.0f;
  const float shifted = __fmaf_rn(x, 0x1.715476p+0f, magic);
  const float n = __fsub_rn(shifted, magic);
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
  // The low bits of `shifted` are e, those of `magic` are 0.
  const float scale = __int_as_float((__float_as_int(shifted) << 23) + (127 << 23));
  const float result = __fmul_rn(p, scale);
  return x < -0x1.5d589ep+6f ? 0.0f : result;
}

// a * b + c * d of a merge, rounded as the contract says.
__device__ __forceinline__ float MergeSum(float part, float b, float total, float a) {
  return __fmaf_rn(part, b, __fmul_rn(total, a));
}

// N consecutive elements as floats, with the widest loads that N allows; p aligned to them.
template <int N>
__device__ __forceinline__ void LoadVector(const float* p, float (&x)[N]) {
  if constexpr (N == 1) {
    x[0] = p[0];
  } else if constexpr (N == 2) {
    const float2 v = *reinterpret_cast<const float2*>(p);
    x[0] = v.x;
    x[1] = v.y;
  } else {
    static_assert(N % 4 == 0);
#pragma unroll
    for (int i = 0; i < N; i += 4) {
      const float4 v = *reinterpret_cast<const float4*>(p + i);
      x[i] = v.x;
      x[i + 1] = v.y;
      x[i + 2] = v.z;
      x[i + 3] = v.w;
    }
  }
}

__device__ __forceinline__ void UnpackHalves(uint32_t word, float* x) {
  const float2 v = __half22float2(*reinterpret_cast<const __half2*>(&word));
  x[0] = v.x;
  x[1] = v.y;
}

template <int N>
__device__ __forceinline__ void LoadVector(const __half* p, float (&x)[N]) {
  static_assert(N == 2 || N == 4 || N == 8);
  if constexpr (N == 2) {
    UnpackHalves(*reinterpret_cast<const uint32_t*>(p), x);
  } else if constexpr (N == 4) {
    const uint2 v = *reinterpret_cast<const uint2*>(p);
    UnpackHalves(v.x, x);
    UnpackHalves(v.y, x + 2);
  } else {
    const uint4 v = *reinterpret_cast<const uint4*>(p);
    UnpackHalves(v.x, x);
    UnpackHalves(v.y, x + 2);
    UnpackHalves(v.z, x + 4);
    UnpackHalves(v.w, x + 6);
  }
}

template <int N>
__device__ __forceinline__ void StoreVector(const float (&x)[N], float* p) {
  if constexpr (N == 1) {
    p[0] = x[0];
  } else if constexpr (N == 2) {
    *reinterpret_cast<float2*>(p) = make_float2(x[0], x[1]);
  } else {
    static_assert(N % 4 == 0);
#pragma unroll
    for (int i = 0; i < N; i += 4) {
      *reinterpret_cast<float4*>(p + i) = make_float4(x[i], x[i + 1], x[i + 2], x[i + 3]);
    }
  }
}

// ---- Barriers in shared memory, and the copies that complete on them ----

using Barrier = uint64_t;

__device__ __forceinline__ uint32_t SharedAddress(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// For one arrival a phase. Before others use it: FenceBarriers() here, then a barrier of all.
__device__ __forceinline__ void InitBarrier(Barrier* barrier) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(SharedAddress(barrier)) : "memory");
}

__device__ __forceinline__ void FenceBarriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

__device__ __forceinline__ void Arrive(Barrier* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(SharedAddress(barrier)) : "memory");
}

// Until the phase of this parity is over: 0 for the first one.
__device__ __forceinline__ void WaitFor(Barrier* barrier, uint32_t parity) {
  const uint32_t address = SharedAddress(barrier);
  uint32_t done = 0;
  while (done == 0) {
    asm volatile(
        "{\n\t"
        ".reg .pred done;\n\t"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2;\n\t"
        "selp.b32 %0, 1, 0, done;\n\t"
        "}"
        : "=r"(done)
        : "r"(address), "r"(parity)
        : "memory");
  }
}

// By one thread, once all are done with what lay at `to`. Sizes and addresses are multiples of 16.
__device__ __forceinline__ void CopyBlock(void* to, const uint8_t* from, uint32_t bytes,
                                          Barrier* barrier) {
  const uint32_t address = SharedAddress(barrier);
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address), "r"(bytes)
               : "memory");
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(SharedAddress(to)),
      "l"(__cvta_generic_to_global(from)), "r"(bytes), "r"(address)
      : "memory");
}

}  // namespace octet::cuda

#endif  // OCTET_KERNELS_CUDA_ATTENTION_CUH_
