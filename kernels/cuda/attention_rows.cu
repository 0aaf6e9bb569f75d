// Attention of single rows: decode. A block of threads belongs to one row and up to 8 query heads
// of one kv head; each of its warps takes whole blocks of the cache, in turn, through a ring of its
// own in shared memory. Every element of K and V is read and converted once for all the query
// heads.
//
// What the blocks give is merged in ascending order, one after another, as the contract asks: by
// the warps themselves, who hand the total on from one to the next, or, where rows are so few that
// one has to be spread over multiprocessors, by a second kernel from memory.
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/launch.h"

namespace octet::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kStages = 2;
constexpr uint32_t kStageBytes = 8192;
constexpr uint32_t kAll = 0xffffffffu;

// K and V of one block come in pieces of kStageBytes: first those of K, then those of V.
template <typename Element, int kDim>
struct Pieces {
  static constexpr uint32_t kHeadBytes = kPositions * kDim * sizeof(Element);
  static constexpr int kEach = static_cast<int>(kHeadBytes / kStageBytes);
  static constexpr int kCount = 2 * kEach;
  static constexpr int kKeyRows = kDim / kEach;          // dimensions of a piece of K
  static constexpr int kValueRows = kPositions / kEach;  // positions of a piece of V
  static_assert(kHeadBytes % kStageBytes == 0 && kCount % kStages == 0 && kStages <= kCount);
};

template <int kDim, int kHeads>
struct Shared {
  alignas(128) uint8_t stages[kWarps][kStages][kStageBytes];
  alignas(16) float q[kDim][kHeads];
  alignas(16) float weights[kWarps][kPositions][kHeads];
  // The blocks merged so far.
  alignas(16) float output[kHeads][kDim];
  float max[kHeads];
  float sum[kHeads];
  Barrier full[kWarps][kStages];
  Barrier turn[kWarps];  // warp w may merge its next block
};

// The blocks of the cache that one warp walks, and where in the ring it is.
template <typename Element>
struct Walk {
  const uint8_t* data;  // K of this kv head in block 0
  size_t stride;
  size_t value_offset;   // from K to V
  const uint8_t* block;  // the one being computed
  const uint8_t* next;   // the one after it, null where there is none
  uint32_t round;        // blocks computed before
};

template <typename Element, int kDim>
__device__ __forceinline__ void LoadPiece(const uint8_t* block, size_t value_offset, int piece,
                                          uint8_t (*stages)[kStageBytes], Barrier* full) {
  using P = Pieces<Element, kDim>;
  const size_t offset = piece < P::kEach ? size_t{kStageBytes} * piece
                                         : value_offset + size_t{kStageBytes} * (piece - P::kEach);
  CopyBlock(stages[piece % kStages], block + offset, kStageBytes, &full[piece % kStages]);
}

// Calls use(memory) once `piece` of the block is there, then sends for what its place holds next.
template <typename Element, int kDim, typename Use>
__device__ __forceinline__ void UsePiece(const Walk<Element>& walk, int piece,
                                         uint8_t (*stages)[kStageBytes], Barrier* full,
                                         const Use& use) {
  using P = Pieces<Element, kDim>;
  const int stage = piece % kStages;
  WaitFor(&full[stage], (walk.round * (P::kCount / kStages) + piece / kStages) & 1);
  use(reinterpret_cast<const Element*>(stages[stage]));
  __syncwarp();
  if (threadIdx.x % 32 == 0) {
    const int later = piece + kStages;
    if (later < P::kCount) {
      LoadPiece<Element, kDim>(walk.block, walk.value_offset, later, stages, full);
    } else if (walk.next != nullptr) {
      LoadPiece<Element, kDim>(walk.next, walk.value_offset, later - P::kCount, stages, full);
    }
  }
}

// What one block gives. A lane holds kDim / 32 dimensions of every head; max and sum are of all.
template <int kDim, int kHeads>
struct Part {
  static constexpr int kEach = kDim / 32;
  float max[kHeads];
  float sum[kHeads];
  float output[kHeads][kEach];
};

// Lane l has positions 2 l and 2 l + 1, of which [first, last) are visible. Leaves the weights e in
// shared memory.
template <int kDim, int kHeads>
__device__ __forceinline__ void Weigh(float (&scores)[2][kHeads], uint32_t first, uint32_t last,
                                      float scale, float (*weights)[kHeads],
                                      Part<kDim, kHeads>* part) {
  const uint32_t lane = threadIdx.x % 32;
  const bool visible[2] = {2 * lane >= first && 2 * lane < last,
                           2 * lane + 1 >= first && 2 * lane + 1 < last};
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    float max = __int_as_float(0xff800000);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      scores[i][h] = __fmul_rn(scores[i][h], scale);
      max = visible[i] ? fmaxf(max, scores[i][h]) : max;
    }
#pragma unroll
    for (int width = 16; width >= 1; width /= 2) {
      max = fmaxf(max, __shfl_xor_sync(kAll, max, width));
    }
    part->max[h] = max;
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float e[kHeads];
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      const float value = ExpNonPositive(__fsub_rn(scores[i][h], part->max[h]));
      e[h] = visible[i] ? value : 0.0f;
    }
    StoreVector(e, weights[2 * lane + i]);
  }
  __syncwarp();
  float low[kHeads], high[kHeads];
  LoadVector(weights[lane], low);
  LoadVector(weights[lane + 32], high);
#pragma unroll
  for (int h = 0; h < kHeads; ++h) part->sum[h] = SumLanes(__fadd_rn(low[h], high[h]));
}

template <typename Element, int kDim, int kHeads>
__device__ __forceinline__ void AttendBlock(const Walk<Element>& walk, uint32_t first,
                                            uint32_t last, float scale,
                                            Shared<kDim, kHeads>* shared,
                                            Part<kDim, kHeads>* part) {
  using P = Pieces<Element, kDim>;
  constexpr int kEach = Part<kDim, kHeads>::kEach;
  const uint32_t warp = threadIdx.x / 32;
  const uint32_t lane = threadIdx.x % 32;
  auto* stages = shared->stages[warp];
  Barrier* full = shared->full[warp];
  float(*weights)[kHeads] = shared->weights[warp];

  float scores[2][kHeads] = {};
#pragma unroll
  for (int piece = 0; piece < P::kEach; ++piece) {
    UsePiece<Element, kDim>(walk, piece, stages, full, [&](const Element* keys) {
#pragma unroll 16
      for (int d = 0; d < P::kKeyRows; ++d) {
        float k[2], q[kHeads];
        LoadVector(keys + d * kPositions + 2 * lane, k);
        LoadVector(shared->q[piece * P::kKeyRows + d], q);
#pragma unroll
        for (int h = 0; h < kHeads; ++h) {
          scores[0][h] = __fmaf_rn(q[h], k[0], scores[0][h]);
          scores[1][h] = __fmaf_rn(q[h], k[1], scores[1][h]);
        }
      }
    });
  }
  Weigh(scores, first, last, scale, weights, part);
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) part->output[h][i] = 0.0f;
  }
#pragma unroll
  for (int piece = 0; piece < P::kEach; ++piece) {
    UsePiece<Element, kDim>(walk, P::kEach + piece, stages, full, [&](const Element* values) {
      const auto add = [&](int j) {
        float v[kEach], e[kHeads];
        LoadVector(values + j * kDim + kEach * lane, v);
        LoadVector(weights[piece * P::kValueRows + j], e);
#pragma unroll
        for (int h = 0; h < kHeads; ++h) {
#pragma unroll
          for (int i = 0; i < kEach; ++i) {
            part->output[h][i] = __fmaf_rn(e[h], v[i], part->output[h][i]);
          }
        }
      };
      const int base = piece * P::kValueRows;
      const int begin = max(static_cast<int>(first) - base, 0);
      const int end = min(static_cast<int>(last) - base, P::kValueRows);
      if (end - begin == P::kValueRows) {
#pragma unroll 8
        for (int j = 0; j < P::kValueRows; ++j) add(j);
      } else {
#pragma unroll 1
        for (int j = begin; j < end; ++j) add(j);
      }
    });
  }
}

// Adds a block to the total in shared memory; the last one is written out. `out` is of the first
// head, `live` heads are real.
template <int kDim, int kHeads>
__device__ __forceinline__ void MergeInTurn(const Part<kDim, kHeads>& part, bool is_first,
                                            bool is_last, uint32_t live,
                                            Shared<kDim, kHeads>* shared, float* out) {
  constexpr int kEach = Part<kDim, kHeads>::kEach;
  const uint32_t lane = threadIdx.x % 32;
  float max[kHeads], sum[kHeads];
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    float total[kEach];
    max[h] = part.max[h];
    sum[h] = part.sum[h];
    if (is_first) {
#pragma unroll
      for (int i = 0; i < kEach; ++i) total[i] = part.output[h][i];
    } else {
      const float before = shared->max[h];
      max[h] = MaxNumber(part.max[h], before);
      const float a = ExpNonPositive(__fsub_rn(before, max[h]));
      const float b = ExpNonPositive(__fsub_rn(part.max[h], max[h]));
      sum[h] = MergeSum(part.sum[h], b, shared->sum[h], a);
      LoadVector(&shared->output[h][kEach * lane], total);
#pragma unroll
      for (int i = 0; i < kEach; ++i) total[i] = MergeSum(part.output[h][i], b, total[i], a);
    }
    if (!is_last) {
      StoreVector(total, &shared->output[h][kEach * lane]);
    } else if (h < live) {
#pragma unroll
      for (int i = 0; i < kEach; ++i) total[i] = __fdiv_rn(total[i], sum[h]);
      StoreVector(total, out + h * kDim + kEach * lane);
    }
  }
  __syncwarp();
  if (lane == 0 && !is_last) {
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      shared->max[h] = max[h];
      shared->sum[h] = sum[h];
    }
  }
  __syncwarp();
}

// Keeps a block's part for FoldKernel. `index` is that of the first head's first block.
template <int kDim, int kHeads>
__device__ __forceinline__ void KeepPart(const Part<kDim, kHeads>& part, size_t index,
                                         uint32_t live, const RowPlan& plan) {
  constexpr int kEach = Part<kDim, kHeads>::kEach;
  const uint32_t lane = threadIdx.x % 32;
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    if (h >= live) break;
    const size_t at = index + size_t{plan.blocks_max} * h;
    StoreVector(part.output[h], plan.outputs + at * kDim + kEach * lane);
    if (lane == 0) plan.stats[at] = make_float2(part.max[h], part.sum[h]);
  }
}

template <int kDim, int kHeads>
__device__ __forceinline__ void Prepare(const float* q, uint32_t live,
                                        Shared<kDim, kHeads>* shared) {
  for (uint32_t i = threadIdx.x; i < kHeads * kDim; i += kThreads) {
    shared->q[i % kDim][i / kDim] = i / kDim < live ? q[i] : 0.0f;
  }
  if (threadIdx.x == 0) {
    for (int w = 0; w < kWarps; ++w) {
      for (int s = 0; s < kStages; ++s) InitBarrier(&shared->full[w][s]);
      InitBarrier(&shared->turn[w]);
    }
    FenceBarriers();
  }
  __syncthreads();
}

template <typename Element, int kDim, int kHeads>
__global__ void __launch_bounds__(kThreads, kHeads == 8 ? 2 : 3)
    RowKernel(const __grid_constant__ AttentionCall call, const __grid_constant__ RowPlan plan) {
  extern __shared__ __align__(128) uint8_t memory[];
  auto* shared = reinterpret_cast<Shared<kDim, kHeads>*>(memory);
  const uint32_t parts = (call.group + kHeads - 1) / kHeads;  // of a group of heads
  const uint32_t per_line = parts * call.cache.kv_heads;
  const uint32_t line = blockIdx.x / per_line;
  const uint32_t kv_head = blockIdx.x % per_line / parts;
  const uint32_t head_in_group = blockIdx.x % parts * kHeads;
  const uint32_t live = min(call.group - head_in_group, uint32_t{kHeads});
  const uint32_t head = kv_head * call.group + head_in_group;

  const Target target = TargetOfLine(call.rows, plan.lines_per_sequence, line);
  if (!target.active) return;
  const uint32_t begin = FirstVisible(target.position, call.window);
  const uint32_t first_block = begin / kPositions;
  const uint32_t count = target.position / kPositions + 1 - first_block;
  if (blockIdx.y * kWarps >= count) return;
  const size_t row_offset = (size_t{target.row} * call.heads + head) * kDim;
  Prepare(call.q + row_offset, live, shared);

  const uint32_t warp = threadIdx.x / 32;
  const uint32_t* blocks = target.blocks + first_block;
  constexpr size_t kHeadBytes = Pieces<Element, kDim>::kHeadBytes;
  Walk<Element> walk;
  walk.data = call.cache.data + kHeadBytes * kv_head;
  walk.stride = call.cache.block_stride_bytes;
  walk.value_offset = kHeadBytes * call.cache.kv_heads;
  walk.round = 0;
  const uint32_t step = kWarps * plan.splits;
  uint32_t i = blockIdx.y * kWarps + warp;
  if (i >= count) return;
  walk.block = walk.data + blocks[i] * walk.stride;
  if (threadIdx.x % 32 == 0) {
#pragma unroll
    for (int piece = 0; piece < kStages; ++piece) {
      LoadPiece<Element, kDim>(walk.block, walk.value_offset, piece, shared->stages[warp],
                               shared->full[warp]);
    }
  }
  for (; i < count; i += step, ++walk.round) {
    walk.next = i + step < count ? walk.data + blocks[i + step] * walk.stride : nullptr;
    const uint32_t base = (first_block + i) * kPositions;
    const uint32_t first = max(begin, base) - base;
    const uint32_t last = min(target.position + 1 - base, kPositions);
    Part<kDim, kHeads> part;
    AttendBlock(walk, first, last, call.scale, shared, &part);
    if (plan.splits > 1) {
      const size_t index = (size_t{line} * call.heads + head) * plan.blocks_max + i;
      KeepPart(part, index, live, plan);
    } else {
      // Warp 0 starts; from then on each is called by the one before it.
      if (i > 0) WaitFor(&shared->turn[warp], (warp == 0 ? walk.round - 1 : walk.round) & 1);
      MergeInTurn(part, i == 0, i + 1 == count, live, shared, call.out + row_offset);
      if (threadIdx.x % 32 == 0) Arrive(&shared->turn[(warp + 1) % kWarps]);
    }
    walk.block = walk.next;
  }
}

// Inclusive maxima over the kDim threads of the block, seeded with `before`; *exclusive is that of
// the thread before. `of_warps` holds one float a warp.
template <int kDim>
__device__ __forceinline__ float ScanMax(float value, float before, float* of_warps,
                                         float* exclusive) {
  const uint32_t lane = threadIdx.x % 32;
#pragma unroll
  for (int width = 1; width < 32; width *= 2) {
    const float other = __shfl_up_sync(kAll, value, width);
    value = lane >= width ? MaxNumber(value, other) : value;
  }
  if (lane == 31) of_warps[threadIdx.x / 32] = value;
  __syncthreads();
  for (uint32_t w = 0; w < threadIdx.x / 32; ++w) before = MaxNumber(of_warps[w], before);
  const float left = __shfl_up_sync(kAll, value, 1);
  *exclusive = lane == 0 ? before : MaxNumber(left, before);
  return MaxNumber(value, before);
}

// Merges what RowKernel kept: a thread a dimension of one head. The factors of kDim blocks at a
// time are computed side by side, as they hang on the maxima alone.
template <int kDim>
__global__ void __launch_bounds__(kDim)
    FoldKernel(const __grid_constant__ AttentionCall call, const __grid_constant__ RowPlan plan) {
  constexpr int kBatch = 32;
  __shared__ float4 factors[kDim];  // a, b, sum
  __shared__ float of_warps[kDim / 32];
  __shared__ float carried;
  const uint32_t line = blockIdx.x / call.heads;
  const uint32_t head = blockIdx.x % call.heads;
  const Target target = TargetOfLine(call.rows, plan.lines_per_sequence, line);
  if (!target.active) return;
  const uint32_t first_block = FirstVisible(target.position, call.window) / kPositions;
  const uint32_t count = target.position / kPositions + 1 - first_block;
  const size_t index = size_t{blockIdx.x} * plan.blocks_max;
  const float* outputs = plan.outputs + index * kDim + threadIdx.x;

  float max = __int_as_float(0xff800000), sum = 0, total = 0;
  for (uint32_t base = 0; base < count; base += kDim) {
    const uint32_t here = min(count - base, uint32_t{kDim});
    float2 stat = make_float2(__int_as_float(0xff800000), 0);
    if (threadIdx.x < here) stat = plan.stats[index + base + threadIdx.x];
    float before;
    const float after = ScanMax<kDim>(stat.x, max, of_warps, &before);
    factors[threadIdx.x] = make_float4(ExpNonPositive(__fsub_rn(before, after)),
                                       ExpNonPositive(__fsub_rn(stat.x, after)), stat.y, 0);
    if (threadIdx.x == kDim - 1) carried = after;
    __syncthreads();
    max = carried;
    for (uint32_t b = 0; b < here; b += kBatch) {
      float output[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        output[i] = b + i < here ? outputs[size_t{base + b + i} * kDim] : 0.0f;
      }
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        if (b + i >= here) continue;
        const float4 f = factors[b + i];
        const bool is_first = base + b + i == 0;
        sum = is_first ? f.z : MergeSum(f.z, f.y, sum, f.x);
        total = is_first ? output[i] : MergeSum(output[i], f.y, total, f.x);
      }
    }
    __syncthreads();
  }
  call.out[(size_t{target.row} * call.heads + head) * kDim + threadIdx.x] = __fdiv_rn(total, sum);
}

template <typename Element, int kDim, int kHeads>
int Launch(cudaStream_t stream, const AttentionCall& call, const RowPlan& plan) {
  constexpr int kBytes = sizeof(Shared<kDim, kHeads>);
  const auto kernel = RowKernel<Element, kDim, kHeads>;
  if (const cudaError_t error =
          cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
      error != cudaSuccess) {
    return error;
  }
  const dim3 grid(plan.lines * call.cache.kv_heads * CeilDiv(call.group, kHeads), plan.splits);
  kernel<<<grid, kThreads, kBytes, stream>>>(call, plan);
  if (const int error = LaunchError(); error != 0 || plan.splits == 1) return error;
  FoldKernel<kDim><<<plan.lines * call.heads, kDim, 0, stream>>>(call, plan);
  return LaunchError();
}

template <typename Element, int kDim>
int LaunchGroup(cudaStream_t stream, const AttentionCall& call, const RowPlan& plan) {
  if (call.group == 1) return Launch<Element, kDim, 1>(stream, call, plan);
  if (call.group == 2) return Launch<Element, kDim, 2>(stream, call, plan);
  if (call.group <= 4) return Launch<Element, kDim, 4>(stream, call, plan);
  return Launch<Element, kDim, 8>(stream, call, plan);
}

}  // namespace

int AttendRows(cudaStream_t stream, const AttentionCall& call, const RowPlan& plan) {
  const bool half = call.cache.dtype == DType::kF16;
  if (call.cache.head_dim == 64) {
    return half ? LaunchGroup<__half, 64>(stream, call, plan)
                : LaunchGroup<float, 64>(stream, call, plan);
  }
  return half ? LaunchGroup<__half, 128>(stream, call, plan)
              : LaunchGroup<float, 128>(stream, call, plan);
}

}  // namespace octet::cuda
