// Gates, from logits to chosen experts, and the plan of a step: which rows go to which expert.
#include <type_traits>

#include "kernels/cuda/choose.cuh"
#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/row_kernels.h"

namespace octet::cuda {
namespace {

constexpr uint32_t kExpertsPerRowMax = 512;

constexpr unsigned kLinearWarps = 4;

// One warp a row.
template <int kSteps>
__global__ void __launch_bounds__(32 * kLinearWarps)
    ChooseLinearKernel(const float* logits, uint32_t rows, uint32_t experts, uint32_t k,
                       uint32_t* out_experts, float* out_weights) {
  const uint32_t lane = threadIdx.x % 32;
  const size_t row = blockIdx.x * kLinearWarps + threadIdx.x / 32;
  if (row >= rows) return;
  WarpRow<kSteps> p = LoadWarpRow<kSteps>(logits + row * experts, experts, lane);
  Softmax(experts, lane, &p);
  TakeBest(p, experts, lane, k, out_experts + row * k, out_weights + row * k);
}

// One block a row. Its warps share out the experts i whose attention over all experts j gives a
// logit each; the first one chooses.
template <int kSteps>
__global__ void ChooseAttentionKernel(const float* q, const float* k, const float* v,
                                      uint32_t experts, uint32_t top_k, uint32_t* out_experts,
                                      float* out_weights) {
  __shared__ float logits[32 * kSteps];
  const uint32_t lane = threadIdx.x % 32;
  const size_t row = blockIdx.x;
  const WarpRow<kSteps> key = LoadWarpRow<kSteps>(k + row * experts, experts, lane);
  const WarpRow<kSteps> value = LoadWarpRow<kSteps>(v + row * experts, experts, lane);
  for (uint32_t i = threadIdx.x / 32; i < experts; i += blockDim.x / 32) {
    const float query = q[row * experts + i];
    WarpRow<kSteps> a;
#pragma unroll
    for (int s = 0; s < kSteps; ++s) a.value[s] = __fmul_rn(query, key.value[s]);
    Softmax(experts, lane, &a);
    float logit = 0.0f;
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
#pragma unroll 8
      for (uint32_t j = 0; j < 32 && 32 * s + j < experts; ++j) {
        logit = __fmaf_rn(__shfl_sync(kWholeWarp, a.value[s], j),
                          __shfl_sync(kWholeWarp, value.value[s], j), logit);
      }
    }
    if (lane == 0) logits[i] = logit;
  }
  __syncthreads();
  if (threadIdx.x >= 32) return;
  WarpRow<kSteps> p = LoadWarpRow<kSteps>(logits, experts, lane);
  Softmax(experts, lane, &p);
  TakeBest(p, experts, lane, top_k, out_experts + row * top_k, out_weights + row * top_k);
}

// Calls fn with the number of values a lane holds, as a constant.
template <typename Fn>
int WithSteps(size_t experts, Fn fn) {
  if (experts <= 32) return fn(std::integral_constant<int, 1>());
  if (experts <= 64) return fn(std::integral_constant<int, 2>());
  if (experts <= 128) return fn(std::integral_constant<int, 4>());
  if (experts <= 256) return fn(std::integral_constant<int, 8>());
  return fn(std::integral_constant<int, 16>());
}

bool ValidChoice(size_t experts, size_t k) {
  return k >= 1 && k <= 32 && k <= experts && experts <= kExpertsPerRowMax;
}

// ---- The plan ----

// The entries of one warp: a run of whole words of 32, the same length for every warp of a block.
struct WarpRun {
  uint32_t begin;
  uint32_t end;
};
__device__ __forceinline__ WarpRun RunOfWarp(uint32_t entries) {
  const uint32_t warps = blockDim.x / 32;
  const uint32_t length = (entries + blockDim.x - 1) / (warps * 32) * 32;
  const uint32_t begin = min(threadIdx.x / 32 * length, entries);
  return {begin, min(begin + length, entries)};
}

// One block an expert, and all of them read all choices: a block needs how many entries belong to
// experts before its own, and the places of its own ones. Nothing passes between blocks.
__global__ void __launch_bounds__(1024)
    PlanRowsKernel(const uint32_t* __restrict__ chosen, uint32_t entries, uint32_t k,
                   uint32_t* offsets, uint32_t* sorted_rows, uint32_t* slots) {
  __shared__ uint32_t warp_less[32];
  __shared__ uint32_t warp_equal[32];
  const uint32_t expert = blockIdx.x;
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t warp = threadIdx.x / 32;
  const WarpRun run = RunOfWarp(entries);
  uint32_t less = 0;
  uint32_t equal = 0;
#pragma unroll 8
  for (uint32_t i = run.begin + lane; i < run.end; i += 32) {
    const uint32_t e = chosen[i];
    less += e < expert ? 1 : 0;
    equal += e == expert ? 1 : 0;
  }
  less = __reduce_add_sync(kWholeWarp, less);
  equal = __reduce_add_sync(kWholeWarp, equal);
  if (lane == 0) {
    warp_less[warp] = less;
    warp_equal[warp] = equal;
  }
  __syncthreads();
  // Every warp adds up what it needs: all that is less, and its own expert's in warps before it.
  const bool present = lane < blockDim.x / 32;
  const uint32_t begin = __reduce_add_sync(kWholeWarp, present ? warp_less[lane] : 0);
  const uint32_t own = present ? warp_equal[lane] : 0;
  uint32_t place = begin + __reduce_add_sync(kWholeWarp, lane < warp ? own : 0);
  if (warp == 0) {
    const uint32_t end = begin + __reduce_add_sync(kWholeWarp, own);
    if (lane == 0) offsets[expert] = begin;
    if (lane == 0 && expert + 1 == gridDim.x) offsets[expert + 1] = end;
  }
  if (equal == 0) return;
#pragma unroll 4
  for (uint32_t at = run.begin; at < run.end; at += 32) {
    const uint32_t i = at + lane;
    const bool mine = i < run.end && chosen[i] == expert;
    const uint32_t all = __ballot_sync(kWholeWarp, mine);
    if (mine) {
      const uint32_t to = place + __popc(all & ((1u << lane) - 1));
      sorted_rows[to] = i / k;
      slots[i] = to;
    }
    place += __popc(all);
  }
}

}  // namespace

int ChooseLinear(Stream stream, const float* logits, size_t rows, size_t experts, size_t k,
                 uint32_t* out_experts, float* out_weights) {
  if (!ValidChoice(experts, k)) return cudaErrorInvalidValue;
  if (rows == 0) return 0;
  return WithSteps(experts, [&](auto steps) {
    ChooseLinearKernel<steps.value>
        <<<CeilDiv(rows, kLinearWarps), 32 * kLinearWarps, 0, StreamOf(stream)>>>(
            logits, static_cast<uint32_t>(rows), static_cast<uint32_t>(experts),
            static_cast<uint32_t>(k), out_experts, out_weights);
    return LaunchError();
  });
}

int ChooseAttention(Stream stream, const float* q, const float* k, const float* v, size_t rows,
                    size_t experts, size_t top_k, uint32_t* out_experts, float* out_weights) {
  if (!ValidChoice(experts, top_k)) return cudaErrorInvalidValue;
  if (rows == 0) return 0;
  const unsigned warps = experts < 16 ? static_cast<unsigned>(experts) : 16;
  return WithSteps(experts, [&](auto steps) {
    ChooseAttentionKernel<steps.value>
        <<<static_cast<unsigned>(rows), 32 * warps, 0, StreamOf(stream)>>>(
            q, k, v, static_cast<uint32_t>(experts), static_cast<uint32_t>(top_k), out_experts,
            out_weights);
    return LaunchError();
  });
}

int PlanRows(Stream stream, const uint32_t* chosen, size_t rows, size_t k, size_t experts,
             uint32_t* offsets, uint32_t* sorted_rows, uint32_t* slots) {
  if (experts == 0) return cudaErrorInvalidValue;
  const size_t entries = rows * k;
  const unsigned threads = entries < 1024 ? 32 * (entries == 0 ? 1 : CeilDiv(entries, 32)) : 1024;
  PlanRowsKernel<<<static_cast<unsigned>(experts), threads, 0, StreamOf(stream)>>>(
      chosen, static_cast<uint32_t>(entries), static_cast<uint32_t>(k), offsets, sorted_rows,
      slots);
  return LaunchError();
}

}  // namespace octet::cuda
