// Gates, from logits to chosen experts, and the plan of a step: which rows go to which expert.
#include <type_traits>

#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/row_kernels.h"

namespace octet::cuda {
namespace {

constexpr uint32_t kFullWarp = 0xffffffffu;
constexpr uint32_t kExpertsPerRowMax = 512;

// The values of a row of at most 32 * kSteps experts, spread over a warp: expert 32 s + lane is
// value s of a lane. So a lane holds the elements that the contract's lane sums. Values past the
// experts are never read.
template <int kSteps>
struct WarpRow {
  float value[kSteps];
};

template <int kSteps>
__device__ __forceinline__ WarpRow<kSteps> LoadWarpRow(const float* row, uint32_t experts,
                                                       uint32_t lane) {
  WarpRow<kSteps> out;
#pragma unroll
  for (int s = 0; s < kSteps; ++s) {
    const uint32_t e = 32 * s + lane;
    out.value[s] = e < experts ? row[e] : 0.0f;
  }
  return out;
}

template <int kSteps>
__device__ __forceinline__ void Softmax(uint32_t experts, uint32_t lane, WarpRow<kSteps>* row) {
  float m = __uint_as_float(0xff800000u);
#pragma unroll
  for (int s = 0; s < kSteps; ++s) {
    if (32 * s + lane < experts) m = MaxNumber(row->value[s], m);
  }
  // No NaN has got into `m`, so the order of the exchanges does not matter.
#pragma unroll
  for (int width = 16; width >= 1; width /= 2) {
    m = MaxNumber(__shfl_xor_sync(kFullWarp, m, width), m);
  }
  float sum = 0.0f;
#pragma unroll
  for (int s = 0; s < kSteps; ++s) {
    if (32 * s + lane >= experts) continue;
    row->value[s] = ExpF(__fsub_rn(row->value[s], m));
    sum = __fadd_rn(sum, row->value[s]);
  }
  sum = SumLanes(sum);
#pragma unroll
  for (int s = 0; s < kSteps; ++s) row->value[s] = __fdiv_rn(row->value[s], sum);
}

// The k greatest, one after another. Probabilities are all numbers >= 0 or all NaN, so their bits
// order them; NaN ones count as equal. 0 marks what is taken or no expert.
template <int kSteps>
__device__ __forceinline__ void TakeBest(const WarpRow<kSteps>& p, uint32_t experts, uint32_t lane,
                                         uint32_t k, uint32_t* out_experts, float* out_weights) {
  uint32_t rank[kSteps];
#pragma unroll
  for (int s = 0; s < kSteps; ++s) {
    const float v = p.value[s];
    rank[s] = 32 * s + lane >= experts ? 0 : v != v ? 1 : __float_as_uint(v) + 1;
  }
  float sum = 0.0f;
  // Lane i keeps choice i.
  float weight = 0.0f;
  uint32_t expert = 0;
  for (uint32_t slot = 0; slot < k; ++slot) {
    uint32_t best = 0;
    uint32_t best_expert = 0;
    float best_value = 0.0f;
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      if (rank[s] <= best) continue;
      best = rank[s];
      best_expert = 32 * s + lane;
      best_value = p.value[s];
    }
    const uint32_t greatest = __reduce_max_sync(kFullWarp, best);
    const uint32_t chosen =
        __reduce_min_sync(kFullWarp, best == greatest ? best_expert : 0xffffffffu);
    const float value = __shfl_sync(kFullWarp, best_value, chosen % 32);
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      if (32 * s + lane == chosen) rank[s] = 0;
    }
    sum = __fadd_rn(sum, value);
    if (lane == slot) {
      weight = value;
      expert = chosen;
    }
  }
  if (lane < k) {
    out_experts[lane] = expert;
    out_weights[lane] = __fdiv_rn(weight, sum);
  }
}

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
        logit = __fmaf_rn(__shfl_sync(kFullWarp, a.value[s], j),
                          __shfl_sync(kFullWarp, value.value[s], j), logit);
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
  less = __reduce_add_sync(kFullWarp, less);
  equal = __reduce_add_sync(kFullWarp, equal);
  if (lane == 0) {
    warp_less[warp] = less;
    warp_equal[warp] = equal;
  }
  __syncthreads();
  // Every warp adds up what it needs: all that is less, and its own expert's in warps before it.
  const bool present = lane < blockDim.x / 32;
  const uint32_t begin = __reduce_add_sync(kFullWarp, present ? warp_less[lane] : 0);
  const uint32_t own = present ? warp_equal[lane] : 0;
  uint32_t place = begin + __reduce_add_sync(kFullWarp, lane < warp ? own : 0);
  if (warp == 0) {
    const uint32_t end = begin + __reduce_add_sync(kFullWarp, own);
    if (lane == 0) offsets[expert] = begin;
    if (lane == 0 && expert + 1 == gridDim.x) offsets[expert + 1] = end;
  }
  if (equal == 0) return;
#pragma unroll 4
  for (uint32_t at = run.begin; at < run.end; at += 32) {
    const uint32_t i = at + lane;
    const bool mine = i < run.end && chosen[i] == expert;
    const uint32_t all = __ballot_sync(kFullWarp, mine);
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
