// A gate's choice and the plan of the step in one launch of one block, for the few rows of a decode
// step: logits in shared memory, a warp chooses for a row, a thread places an entry.
#include <algorithm>

#include "kernels/cuda/choose.cuh"
#include "kernels/cuda/fused_kernels.h"
#include "kernels/cuda/launch_early.cuh"
#include "kernels/cuda/pipeline.cuh"
#include "kernels/cuda/row_kernels.h"

namespace octet::cuda {
namespace {

constexpr uint32_t kWarpsMax = 32;
constexpr uint32_t kEntriesMax = kWarpsMax * 32;
constexpr uint32_t kExpertsMax = 64;
// More rows than these take one block longer than a second launch does. An attention gate computes
// rows * experts^2 weights.
constexpr uint32_t kRowsMax = 128;
constexpr uint32_t kAttendExpertsMax = 32;
constexpr size_t kAttendWeightsMax = 16384;

struct PlanMemory {
  float logits[kRowsMax * kExpertsMax];
  uint32_t chosen[kEntriesMax];
  // Entries of an expert in each warp, then how many of them lie in warps before.
  uint32_t counts[kExpertsMax][kWarpsMax];
  uint32_t totals[kExpertsMax];
};

// Attention of one expert over all, by one thread. Lanes of the contract's sum past the experts
// hold +0, and so do all lanes past kHeld, whose steps of the tree change nothing.
template <int kHeld>
__device__ __forceinline__ float AttendExperts(float query, const float* k, const float* v,
                                               uint32_t experts) {
  float e[kHeld];
  float m = __uint_as_float(0xff800000u);
#pragma unroll
  for (int j = 0; j < kHeld; ++j) {
    e[j] = j < experts ? __fmul_rn(query, k[j]) : 0.0f;
    if (j < experts) m = MaxNumber(e[j], m);
  }
  float lane[kHeld];
#pragma unroll
  for (int j = 0; j < kHeld; ++j) {
    e[j] = j < experts ? ExpF(__fsub_rn(e[j], m)) : 0.0f;
    lane[j] = e[j];
  }
#pragma unroll
  for (int width = kHeld / 2; width >= 1; width /= 2) {
#pragma unroll
    for (int i = 0; i < kHeld / 2; ++i) {
      if (i < width) lane[i] = __fadd_rn(lane[i], lane[i + width]);
    }
  }
  float logit = 0.0f;
#pragma unroll
  for (int j = 0; j < kHeld; ++j) {
    if (j < experts) logit = __fmaf_rn(__fdiv_rn(e[j], lane[0]), v[j], logit);
  }
  return logit;
}

// Logits of all rows. kHeld is 0 for a linear gate, which has them.
template <int kHeld>
__device__ __forceinline__ void FindLogits(const ChoosePlan& c, PlanMemory* memory) {
  const uint32_t experts = c.experts, count = c.rows * experts;
  for (uint32_t i = threadIdx.x; i < count; i += blockDim.x) {
    if constexpr (kHeld == 0) {
      memory->logits[i] = c.logits[i];
    } else {
      const uint32_t row = i / experts * experts;
      memory->logits[i] = AttendExperts<kHeld>(c.q[i], c.k + row, c.v + row, experts);
    }
  }
}

template <int kSteps>
__device__ __forceinline__ void ChooseAll(const ChoosePlan& c, PlanMemory* memory) {
  const uint32_t lane = threadIdx.x % 32, experts = c.experts, k = c.top_k;
  for (uint32_t row = threadIdx.x / 32; row < c.rows; row += blockDim.x / 32) {
    WarpRow<kSteps> p = LoadWarpRow<kSteps>(memory->logits + row * experts, experts, lane);
    Softmax(experts, lane, &p);
    TakeBest(p, experts, lane, k, memory->chosen + row * k, c.weights + row * k);
  }
}

// The sum of the lanes before this one, and of all.
struct LaneScan {
  uint32_t before;
  uint32_t all;
};
__device__ __forceinline__ LaneScan ScanLanes(uint32_t value) {
  uint32_t sum = value;
#pragma unroll
  for (int width = 1; width < 32; width *= 2) {
    const uint32_t lower = __shfl_up_sync(kWholeWarp, sum, width);
    if (threadIdx.x % 32 >= width) sum += lower;
  }
  return {sum - value, __shfl_sync(kWholeWarp, sum, 31)};
}

// Thread i places entry i: after all entries of lower experts, then its expert's of warps before,
// then those of lanes before. All counts are zero when it starts.
__device__ __forceinline__ void PlaceEntries(const ChoosePlan& c, PlanMemory* memory) {
  const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  const uint32_t experts = c.experts, entries = c.rows * c.top_k;
  const bool present = threadIdx.x < entries;
  const uint32_t expert = present ? memory->chosen[threadIdx.x] : kExpertsMax;
  const uint32_t same = __match_any_sync(kWholeWarp, expert);
  const uint32_t rank = __popc(same & ((1u << lane) - 1));
  if (present && rank == 0) memory->counts[expert][warp] = __popc(same);
  __syncthreads();
#pragma unroll 2
  for (uint32_t e = warp; e < experts; e += warps) {
    const LaneScan scan = ScanLanes(memory->counts[e][lane]);
    memory->counts[e][lane] = scan.before;
    if (lane == 0) memory->totals[e] = scan.all;
  }
  __syncthreads();
  // Every warp finds where each expert begins: those from 32 on after all before.
  const LaneScan low = ScanLanes(lane < experts ? memory->totals[lane] : 0);
  const LaneScan high = ScanLanes(lane + 32 < experts ? memory->totals[lane + 32] : 0);
  const uint32_t low_begin = __shfl_sync(kWholeWarp, low.before, expert % 32);
  const uint32_t high_begin = __shfl_sync(kWholeWarp, low.all + high.before, expert % 32);
  if (warp == 0) {
    if (lane < experts) c.offsets[lane] = low.before;
    if (lane + 32 < experts) c.offsets[lane + 32] = low.all + high.before;
    if (lane == 0) c.offsets[experts] = entries;
  }
  if (!present) return;
  const uint32_t place =
      (expert < 32 ? low_begin : high_begin) + memory->counts[expert][warp] + rank;
  c.chosen[threadIdx.x] = expert;
  c.sorted_rows[place] = threadIdx.x / static_cast<uint32_t>(c.top_k);
  c.slots[threadIdx.x] = place;
}

template <int kSteps, int kHeld, uint32_t kWarps>
__global__ void __launch_bounds__(kWarps * 32)
    ChoosePlanKernel(const __grid_constant__ ChoosePlan c) {
  __shared__ PlanMemory memory;
  for (uint32_t i = threadIdx.x; i < c.experts * kWarpsMax; i += blockDim.x) {
    memory.counts[i / kWarpsMax][i % kWarpsMax] = 0;
  }
  GridWait();
  GridTrigger();
  FindLogits<kHeld>(c, &memory);
  __syncthreads();
  ChooseAll<kSteps>(c, &memory);
  __syncthreads();
  PlaceEntries(c, &memory);
}

template <int kSteps, int kHeld, uint32_t kWarps = kWarpsMax>
int Launch(cudaStream_t stream, const ChoosePlan& c) {
  size_t warps = std::max({c.rows, (c.rows * c.top_k + 31) / 32, std::min<size_t>(c.experts, 8)});
  if (kHeld > 0) warps = std::max(warps, (c.rows * c.experts + 31) / 32);
  const unsigned threads = 32 * static_cast<unsigned>(std::min<size_t>(warps, kWarps));
  return LaunchEarly(ChoosePlanKernel<kSteps, kHeld, kWarps>, dim3(1), threads, 0, stream, c.early,
                     c);
}

// Whether one block does it, and does it sooner than two launches.
bool FitsOneBlock(const ChoosePlan& c) {
  if (c.rows == 0 || c.rows > kRowsMax || c.top_k == 0 || c.top_k > 32) return false;
  if (c.top_k > c.experts || c.experts > kExpertsMax) return false;
  const bool attends = c.logits == nullptr;
  // More than 16 values a thread take the registers of half the warps.
  const uint32_t entries_max = attends && c.experts > 16 ? kEntriesMax / 2 : kEntriesMax;
  if (c.rows * c.top_k > entries_max) return false;
  return !attends ||
         (c.experts <= kAttendExpertsMax && c.rows * c.experts * c.experts <= kAttendWeightsMax);
}

}  // namespace

int ChooseAndPlan(Stream stream, const ChoosePlan& c) {
  if (FitsOneBlock(c)) {
    if (c.logits != nullptr) {
      return c.experts <= 32 ? Launch<1, 0>(StreamOf(stream), c)
                             : Launch<2, 0>(StreamOf(stream), c);
    }
    if (c.experts <= 8) return Launch<1, 8>(StreamOf(stream), c);
    return c.experts <= 16 ? Launch<1, 16>(StreamOf(stream), c)
                           : Launch<1, 32, kWarpsMax / 2>(StreamOf(stream), c);
  }
  const int error =
      c.logits != nullptr
          ? ChooseLinear(stream, c.logits, c.rows, c.experts, c.top_k, c.chosen, c.weights)
          : ChooseAttention(stream, c.q, c.k, c.v, c.rows, c.experts, c.top_k, c.chosen, c.weights);
  if (error != 0) return error;
  return PlanRows(stream, c.chosen, c.rows, c.top_k, c.experts, c.offsets, c.sorted_rows, c.slots);
}

}  // namespace octet::cuda
