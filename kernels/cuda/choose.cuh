// A warp's choice of experts for one row: softmax, the k greatest, their weights.
#ifndef OCTET_KERNELS_CUDA_CHOOSE_CUH_
#define OCTET_KERNELS_CUDA_CHOOSE_CUH_

#include <cstdint>

#include "kernels/cuda/device_math.cuh"

namespace octet::cuda {

inline constexpr uint32_t kWholeWarp = 0xffffffffu;

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
    m = MaxNumber(__shfl_xor_sync(kWholeWarp, m, width), m);
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
    const uint32_t greatest = __reduce_max_sync(kWholeWarp, best);
    const uint32_t chosen =
        __reduce_min_sync(kWholeWarp, best == greatest ? best_expert : 0xffffffffu);
    const float value = __shfl_sync(kWholeWarp, best_value, chosen % 32);
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

}  // namespace octet::cuda

#endif  // OCTET_KERNELS_CUDA_CHOOSE_CUH_
