// Attention of many rows of one sequence: prefill. A block of threads takes a tile of up to 64
// queries (consecutive rows times the heads of a group) that share K and V of one kv head, and
// walks the blocks of the cache in order. The two products of a block run on the FMA units over
// register tiles: 8 queries x 4 positions, then 8 queries x kDim / 16 dimensions a thread.
//
// 16 threads, half a warp, own 8 queries through both products, so that weights, sums and factors
// pass between them without a barrier of all; only K and V are shared wider.
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/launch.h"

namespace octet::cuda {
namespace {

constexpr uint32_t kQueries = 64;
constexpr int kOwned = 8;  // queries of half a warp
constexpr uint32_t kThreads = kQueries / kOwned * 16;
constexpr int kColumns = 4;  // positions of a thread
constexpr uint32_t kAll = 0xffffffffu;
// Weights of one half warp: [64 positions][8 queries], in units of 16 bytes whose order WeightUnit
// gives; the next half warp's lie in other banks.
constexpr uint32_t kWeightFloats = kPositions * kOwned + 16;

template <typename Element, int kDim>
struct Shared {
  alignas(128) Element keys[kDim * kPositions];
  alignas(128) Element values[kPositions * kDim];
  alignas(16) float q[kDim][kQueries];
  alignas(16) float weights[kQueries / kOwned][kWeightFloats];
  uint32_t positions[kQueries];
  Barrier keys_full;
  Barrier values_full;
};

constexpr uint32_t kNoQuery = 0xffffffffu;  // in Shared::positions

// Where queries 4 half .. + 3 of position 4 * column + i lie. A lane writes the 8 units of its own
// column; neighbours write different banks.
__device__ __forceinline__ uint32_t WeightUnit(uint32_t column, uint32_t i, uint32_t half) {
  return 4 * (8 * column + ((2 * i + half) ^ (column & 7)));
}

// Consecutive rows of one sequence, and the heads of them, that a tile computes together.
struct Run {
  uint32_t row;
  uint32_t rows;
  uint32_t position;  // of the first row
  const uint32_t* blocks;
  uint32_t head;   // the first one
  uint32_t heads;  // of every row; query m is head m % heads of row m / heads
  uint32_t kv_head;
};

template <int kDim>
struct State {
  static constexpr int kEach = kDim / 16;
  float max[kOwned];
  float sum[kOwned];
  float output[kOwned][kEach];
};

template <typename Element, int kDim>
__device__ __forceinline__ void LoadQueries(const AttentionCall& call, const Run& run,
                                            Shared<Element, kDim>* shared) {
  const uint32_t m = threadIdx.x % kQueries;
  const bool live = m < run.rows * run.heads;
  const uint32_t row = m / run.heads;
  const size_t index = (size_t{run.row + row} * call.heads + run.head + m % run.heads) * kDim;
  // Two threads a query: neighbours write neighbouring queries.
#pragma unroll 4
  for (uint32_t d = threadIdx.x / kQueries * 4; d < kDim; d += kThreads / kQueries * 4) {
    float x[4] = {};
    if (live) LoadVector(call.q + index + d, x);
#pragma unroll
    for (int i = 0; i < 4; ++i) shared->q[d + i][m] = x[i];
  }
  if (threadIdx.x < kQueries) shared->positions[m] = live ? run.position + row : kNoQuery;
}

template <typename Element, int kDim>
__device__ __forceinline__ void Scores(const Shared<Element, kDim>& shared, float scale,
                                       float (&scores)[kOwned][kColumns]) {
  const float* q = &shared.q[0][threadIdx.x / 16 * kOwned];
  const Element* keys = shared.keys + threadIdx.x % 16 * kColumns;
#pragma unroll
  for (int m = 0; m < kOwned; ++m) {
#pragma unroll
    for (int c = 0; c < kColumns; ++c) scores[m][c] = 0.0f;
  }
#pragma unroll 8
  for (int d = 0; d < kDim; ++d) {
    float a[kOwned], k[kColumns];
    LoadVector(q + d * kQueries, a);
    LoadVector(keys + d * kPositions, k);
#pragma unroll
    for (int m = 0; m < kOwned; ++m) {
#pragma unroll
      for (int c = 0; c < kColumns; ++c) scores[m][c] = __fmaf_rn(a[m], k[c], scores[m][c]);
    }
  }
#pragma unroll
  for (int m = 0; m < kOwned; ++m) {
#pragma unroll
    for (int c = 0; c < kColumns; ++c) scores[m][c] = __fmul_rn(scores[m][c], scale);
  }
}

// Of a block, the positions [first, first + count) that a query sees.
struct Visible {
  int first;
  int count;
};

__device__ __forceinline__ Visible VisibleIn(uint32_t position, uint32_t window, uint32_t block) {
  const int64_t base = int64_t{block} * kPositions;
  const int64_t begin = max(int64_t{FirstVisible(position, window)} - base, int64_t{0});
  const int64_t end = min(int64_t{position} + 1 - base, int64_t{kPositions});
  if (position == kNoQuery || end <= begin) return {0, 0};
  return {static_cast<int>(begin), static_cast<int>(end - begin)};
}

__device__ __forceinline__ bool Sees(const Visible& v, int j) {
  return static_cast<unsigned>(j - v.first) < static_cast<unsigned>(v.count);
}

// Scores to weights e, and the block's maximum and sum of every query. kWhole: all is visible.
template <bool kWhole>
__device__ __forceinline__ void Weigh(const Visible (&visible)[kOwned],
                                      float (&scores)[kOwned][kColumns], float* weights,
                                      float (&max)[kOwned], float (&sum)[kOwned]) {
  const uint32_t column = threadIdx.x % 16;
#pragma unroll
  for (int m = 0; m < kOwned; ++m) {
    max[m] = __int_as_float(0xff800000);
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      const bool sees = kWhole || Sees(visible[m], kColumns * column + c);
      max[m] = sees ? fmaxf(max[m], scores[m][c]) : max[m];
    }
#pragma unroll
    for (int width = 8; width >= 1; width /= 2) {
      max[m] = fmaxf(max[m], __shfl_xor_sync(kAll, max[m], width));
    }
    float lanes[kColumns];
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      const bool sees = kWhole || Sees(visible[m], kColumns * column + c);
      const float e = ExpNonPositive(__fsub_rn(scores[m][c], max[m]));
      scores[m][c] = sees ? e : 0.0f;
      // Positions j and j + 32 are one lane of the contract; then its tree: 16, 8, 4.
      lanes[c] = scores[m][c];
#pragma unroll
      for (int width = 8; width >= 1; width /= 2) {
        lanes[c] = __fadd_rn(lanes[c], __shfl_xor_sync(kAll, lanes[c], width));
      }
    }
    sum[m] = __fadd_rn(__fadd_rn(lanes[0], lanes[2]), __fadd_rn(lanes[1], lanes[3]));
  }
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float four[4] = {scores[4 * half][c], scores[4 * half + 1][c], scores[4 * half + 2][c],
                             scores[4 * half + 3][c]};
      StoreVector(four, weights + WeightUnit(column, c, half));
    }
  }
  __syncwarp();
}

// The outputs of one block, visible positions only.
template <bool kWhole, typename Element, int kDim>
__device__ __forceinline__ void Outputs(const Visible (&visible)[kOwned], const Element* values,
                                        const float* weights, float (&output)[kOwned][kDim / 16]) {
  constexpr int kEach = kDim / 16;
  values += threadIdx.x % 16 * kEach;
#pragma unroll
  for (int m = 0; m < kOwned; ++m) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) output[m][i] = 0.0f;
  }
#pragma unroll(kWhole ? 2 : 1)
  for (uint32_t column = 0; column < 16; ++column) {
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      const int j = kColumns * column + c;
      float e[kOwned], v[kEach];
      LoadVector(values + j * kDim, v);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float four[4];
        LoadVector(weights + WeightUnit(column, c, half), four);
#pragma unroll
        for (int m = 0; m < 4; ++m) e[4 * half + m] = four[m];
      }
#pragma unroll
      for (int m = 0; m < kOwned; ++m) {
        if (!kWhole && !Sees(visible[m], j)) continue;
#pragma unroll
        for (int i = 0; i < kEach; ++i) output[m][i] = __fmaf_rn(e[m], v[i], output[m][i]);
      }
    }
  }
}

// Adds a block's maxima and sums to the state, and gives the factors of its outputs. They are
// computed one a lane: lane p of a half has a of query p, lane p + 8 has b.
//
// A total that holds nothing yet is -0, and the factors 1 and 1 take the block as it is, signs of
// zeros included. Where a query sees nothing of a block, whose sums are +0 then, 1 and -0 leave the
// total as it is.
template <bool kWhole, int kDim>
__device__ __forceinline__ void Factors(const Visible (&visible)[kOwned], uint32_t starts,
                                        const float (&max)[kOwned], const float (&sum)[kOwned],
                                        State<kDim>* state, float (&a)[kOwned],
                                        float (&b)[kOwned]) {
  const uint32_t lane = threadIdx.x % 32;
  float mine = 0.0f;
#pragma unroll
  for (int m = 0; m < kOwned; ++m) {
    const float after = MaxNumber(max[m], state->max[m]);
    const float difference = __fsub_rn((lane & 8) == 0 ? state->max[m] : max[m], after);
    mine = (lane & 7) == m ? difference : mine;
    state->max[m] = after;
  }
  mine = ExpNonPositive(mine);
#pragma unroll
  for (int m = 0; m < kOwned; ++m) {
    a[m] = __shfl_sync(kAll, mine, (lane & 16) + m);
    b[m] = __shfl_sync(kAll, mine, (lane & 16) + 8 + m);
    if (!kWhole) {
      const bool sees = visible[m].count != 0;
      const bool first = (starts >> m & 1) != 0;
      a[m] = sees && !first ? a[m] : 1.0f;
      b[m] = !sees ? -0.0f : first ? 1.0f : b[m];
    }
    state->sum[m] = MergeSum(sum[m], b[m], state->sum[m], a[m]);
  }
}

// One block: K and V are waited for here, and `release_keys` and `release_values` called by all
// threads once they are done with them.
template <bool kWhole, typename Element, int kDim, typename Keys, typename Values>
__device__ __forceinline__ void AttendBlock(const AttentionCall& call, uint32_t block,
                                            uint32_t parity, Shared<Element, kDim>* shared,
                                            State<kDim>* state, const Keys& release_keys,
                                            const Values& release_values) {
  constexpr int kEach = kDim / 16;
  const uint32_t owner = threadIdx.x / 16;
  Visible visible[kOwned] = {};
  uint32_t starts = 0;
  if constexpr (!kWhole) {
#pragma unroll
    for (int m = 0; m < kOwned; ++m) {
      const uint32_t position = shared->positions[owner * kOwned + m];
      visible[m] = VisibleIn(position, call.window, block);
      if (FirstVisible(position, call.window) / kPositions == block) starts |= 1u << m;
    }
  }
  float a[kOwned], b[kOwned];
  {
    float scores[kOwned][kColumns], max[kOwned], sum[kOwned];
    WaitFor(&shared->keys_full, parity);
    Scores(*shared, call.scale, scores);
    release_keys();
    Weigh<kWhole>(visible, scores, shared->weights[owner], max, sum);
    Factors<kWhole>(visible, starts, max, sum, state, a, b);
  }
  float output[kOwned][kEach];
  WaitFor(&shared->values_full, parity);
  Outputs<kWhole, Element, kDim>(visible, shared->values, shared->weights[owner], output);
  release_values();
#pragma unroll
  for (int m = 0; m < kOwned; ++m) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      state->output[m][i] = MergeSum(output[m][i], b[m], state->output[m][i], a[m]);
    }
  }
}

// `used` counts the copies of K, and of V, that went before.
template <typename Element, int kDim>
__device__ __forceinline__ void AttendRun(const AttentionCall& call, const Run& run,
                                          Shared<Element, kDim>* shared, uint32_t* used) {
  constexpr int kEach = kDim / 16;
  constexpr uint32_t kHeadBytes = kPositions * kDim * sizeof(Element);
  const uint32_t last_position = run.position + run.rows - 1;
  const uint32_t first_block = FirstVisible(run.position, call.window) / kPositions;
  const uint32_t last_block = last_position / kPositions;
  // From here on every query has seen an earlier block.
  const uint32_t whole_begin = FirstVisible(last_position, call.window) / kPositions + 1;
  const uint32_t whole_end = (run.position + 1) / kPositions;
  const uint8_t* data = call.cache.data + size_t{kHeadBytes} * run.kv_head;
  const size_t value_offset = size_t{kHeadBytes} * call.cache.kv_heads;
  const auto at = [&](uint32_t block) {
    return data + run.blocks[block] * call.cache.block_stride_bytes;
  };
  __syncthreads();  // an earlier run's queries have been read, and the barriers are there
  if (threadIdx.x == 0) {
    CopyBlock(shared->keys, at(first_block), kHeadBytes, &shared->keys_full);
    CopyBlock(shared->values, at(first_block) + value_offset, kHeadBytes, &shared->values_full);
  }
  LoadQueries(call, run, shared);
  __syncthreads();

  State<kDim> state;
#pragma unroll
  for (int m = 0; m < kOwned; ++m) {
    state.max[m] = __int_as_float(0xff800000);
    state.sum[m] = -0.0f;
#pragma unroll
    for (int i = 0; i < kEach; ++i) state.output[m][i] = -0.0f;
  }
  for (uint32_t block = first_block; block <= last_block; ++block, ++*used) {
    const bool more = block < last_block;
    const uint8_t* next = more ? at(block + 1) : nullptr;
    const auto release_keys = [&] {
      __syncthreads();
      if (threadIdx.x == 0 && more) {
        CopyBlock(shared->keys, next, kHeadBytes, &shared->keys_full);
      }
    };
    const auto release_values = [&] {
      __syncthreads();
      if (threadIdx.x == 0 && more) {
        CopyBlock(shared->values, next + value_offset, kHeadBytes, &shared->values_full);
      }
    };
    if (block >= whole_begin && block < whole_end) {
      AttendBlock<true>(call, block, *used & 1, shared, &state, release_keys, release_values);
    } else {
      AttendBlock<false>(call, block, *used & 1, shared, &state, release_keys, release_values);
    }
  }
#pragma unroll
  for (int m = 0; m < kOwned; ++m) {
    const uint32_t query = threadIdx.x / 16 * kOwned + m;
    if (query >= run.rows * run.heads) continue;
    const size_t row = run.row + query / run.heads;
    const size_t head = run.head + query % run.heads;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      state.output[m][i] = __fdiv_rn(state.output[m][i], state.sum[m]);
    }
    StoreVector(state.output[m],
                call.out + (row * call.heads + head) * kDim + threadIdx.x % 16 * kEach);
  }
}

// `heads` query heads of a group and `rows` rows make a tile.
template <typename Element, int kDim>
__global__ void __launch_bounds__(kThreads, 2)
    TileKernel(const __grid_constant__ AttentionCall call, uint32_t heads, uint32_t rows) {
  extern __shared__ __align__(128) uint8_t memory[];
  auto* shared = reinterpret_cast<Shared<Element, kDim>*>(memory);
  const uint32_t parts = (call.group + heads - 1) / heads;
  const uint32_t per_tile = parts * call.cache.kv_heads;
  // The last rows see the most positions: first, so that none of them starts at the end.
  const uint32_t tile = (gridDim.x - 1 - blockIdx.x) / per_tile;
  const uint32_t piece = blockIdx.x % per_tile;
  const uint32_t head_in_group = piece % parts * heads;
  Run run;
  run.kv_head = piece / parts;
  run.head = run.kv_head * call.group + head_in_group;
  run.heads = min(heads, call.group - head_in_group);
  if (threadIdx.x == 0) {
    InitBarrier(&shared->keys_full);
    InitBarrier(&shared->values_full);
    FenceBarriers();
  }
  uint32_t used = 0;
  const uint32_t end = min(call.rows.rows, (tile + 1) * rows);
  for (uint32_t row = tile * rows; row < end; row += run.rows) {
    const Sequence s = call.rows.sequences[call.rows.row_sequence[row]];
    run.row = row;
    run.rows = min(end, s.row_begin + s.rows) - row;
    run.position = s.position_begin + (row - s.row_begin);
    run.blocks = call.rows.blocks + s.block_begin;
    if (s.rows > kShortRows) AttendRun(call, run, shared, &used);
  }
}

template <typename Element, int kDim>
int Launch(cudaStream_t stream, const AttentionCall& call) {
  constexpr int kBytes = sizeof(Shared<Element, kDim>);
  const auto kernel = TileKernel<Element, kDim>;
  if (const cudaError_t error =
          cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
      error != cudaSuccess) {
    return error;
  }
  const uint32_t heads = call.group < kQueries ? call.group : kQueries;
  const uint32_t rows = kQueries / heads;
  const unsigned blocks =
      CeilDiv(call.rows.rows, rows) * call.cache.kv_heads * CeilDiv(call.group, heads);
  kernel<<<blocks, kThreads, kBytes, stream>>>(call, heads, rows);
  return LaunchError();
}

}  // namespace

int AttendTiles(cudaStream_t stream, const AttentionCall& call) {
  const bool half = call.cache.dtype == DType::kF16;
  if (call.cache.head_dim == 64) {
    return half ? Launch<__half, 64>(stream, call) : Launch<float, 64>(stream, call);
  }
  return half ? Launch<__half, 128>(stream, call) : Launch<float, 128>(stream, call);
}

}  // namespace octet::cuda
