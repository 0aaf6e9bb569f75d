// The cache's writes, attention for any shape, and the choice between the kernels.
#include <algorithm>
#include <cmath>

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/launch.h"

namespace octet::cuda {
namespace {

// ---- append_kv ----

__device__ __forceinline__ void StoreElement(float x, float* to) { *to = x; }
__device__ __forceinline__ void StoreElement(float x, __half* to) { *to = __float2half_rn(x); }

// A thread takes 8 columns of one row: lanes are rows, so that keys of consecutive positions, which
// lie side by side, are written together.
constexpr uint32_t kAppendColumns = 8;

template <typename Element>
__global__ void AppendKernel(const __grid_constant__ Cache cache, const __grid_constant__ Rows rows,
                             const float* __restrict__ k, const float* __restrict__ v) {
  const uint32_t row = blockIdx.x * 32 + threadIdx.x;
  const uint32_t columns = cache.kv_heads * cache.head_dim;
  const uint32_t begin = (blockIdx.y * blockDim.y + threadIdx.y) * kAppendColumns;
  if (row >= rows.rows || begin >= columns) return;
  const size_t source = size_t{row} * columns;
  float key[kAppendColumns], value[kAppendColumns];
#pragma unroll
  for (uint32_t i = 0; i < kAppendColumns; ++i) {
    const size_t at = source + min(begin + i, columns - 1);
    key[i] = k[at];
    value[i] = v[at];
  }
  const Sequence s = rows.sequences[rows.row_sequence[row]];
  const uint32_t position = s.position_begin + (row - s.row_begin);
  const uint32_t slot = position % kPositions;
  const uint32_t block = rows.blocks[s.block_begin + position / kPositions];
  auto* keys = reinterpret_cast<Element*>(cache.data + block * cache.block_stride_bytes);
  Element* values = keys + size_t{columns} * kPositions;
#pragma unroll
  for (uint32_t i = 0; i < kAppendColumns; ++i) {
    const uint32_t column = begin + i;
    if (column >= columns) break;
    const uint32_t head = column / cache.head_dim;
    const uint32_t d = column % cache.head_dim;
    StoreElement(key[i], keys + size_t{column} * kPositions + slot);
    StoreElement(value[i], values + (size_t{head} * kPositions + slot) * cache.head_dim + d);
  }
}

int AppendKv(Stream stream, const Cache& cache, const Rows& rows, const float* k, const float* v) {
  if (rows.rows == 0) return 0;
  const dim3 threads(32, 8);
  const uint32_t columns = cache.kv_heads * cache.head_dim;
  const dim3 grid(CeilDiv(rows.rows, 32), CeilDiv(columns, threads.y * kAppendColumns));
  if (cache.dtype == DType::kF16) {
    AppendKernel<__half><<<grid, threads, 0, StreamOf(stream)>>>(cache, rows, k, v);
  } else if (cache.dtype == DType::kF32) {
    AppendKernel<float><<<grid, threads, 0, StreamOf(stream)>>>(cache, rows, k, v);
  } else {
    return cudaErrorInvalidValue;
  }
  return LaunchError();
}

// ---- Attention of one head of one row a block of threads: any shape ----

constexpr uint32_t kAnyThreads = 128;
constexpr uint32_t kAnyDim = 512;  // the greatest
constexpr uint32_t kAnyEach = kAnyDim / kAnyThreads;

__device__ __forceinline__ float LoadElement(const float* p) { return *p; }
__device__ __forceinline__ float LoadElement(const __half* p) { return __half2float(*p); }

struct BlockSums {
  float max;
  float sum;
};

// Weights of positions [first, last) of a block, and their maximum and sum, for all threads.
template <typename Element>
__device__ BlockSums WeighAny(const Element* keys, const float* q, uint32_t head_dim, float scale,
                              uint32_t first, uint32_t last, float* weights) {
  const uint32_t j = threadIdx.x;
  __syncthreads();  // the weights before these have been used
  if (j >= first && j < last) {
    float dot = 0.0f;
    for (uint32_t d = 0; d < head_dim; ++d) {
      dot = __fmaf_rn(q[d], LoadElement(keys + d * kPositions + j), dot);
    }
    weights[j] = __fmul_rn(dot, scale);
  }
  __syncthreads();
  BlockSums sums;
  sums.max = __int_as_float(0xff800000);
  for (uint32_t i = first; i < last; ++i) sums.max = MaxNumber(weights[i], sums.max);
  __syncthreads();
  if (j < kPositions) {
    const bool visible = j >= first && j < last;
    weights[j] = visible ? ExpF(__fsub_rn(weights[j], sums.max)) : 0.0f;
  }
  __syncthreads();
  const uint32_t lane = threadIdx.x % 32;
  sums.sum = SumLanes(__fadd_rn(weights[lane], weights[lane + 32]));
  return sums;
}

template <typename Element>
__global__ void __launch_bounds__(kAnyThreads)
    AnyKernel(const __grid_constant__ AttentionCall call) {
  __shared__ float q[kAnyDim];
  __shared__ float weights[kPositions];
  const uint32_t head_dim = call.cache.head_dim;
  const uint32_t head = blockIdx.x % call.heads;
  const Target target = TargetOfLine(call.rows, 0, blockIdx.x / call.heads);
  const size_t row_offset = (size_t{target.row} * call.heads + head) * head_dim;
  for (uint32_t d = threadIdx.x; d < head_dim; d += kAnyThreads) q[d] = call.q[row_offset + d];

  const uint32_t begin = FirstVisible(target.position, call.window);
  const uint32_t first_block = begin / kPositions;
  const size_t head_elements = size_t{kPositions} * head_dim;
  float max = 0.0f, sum = 0.0f, total[kAnyEach] = {};
  for (uint32_t block = first_block; block <= target.position / kPositions; ++block) {
    const auto* keys = reinterpret_cast<const Element*>(
                           call.cache.data + target.blocks[block] * call.cache.block_stride_bytes) +
                       head_elements * (head / call.group);
    const Element* values = keys + head_elements * call.cache.kv_heads;
    const uint32_t base = block * kPositions;
    const uint32_t first = ::max(begin, base) - base;
    const uint32_t last = min(target.position + 1 - base, kPositions);
    const BlockSums sums = WeighAny(keys, q, head_dim, call.scale, first, last, weights);
    const bool is_first = block == first_block;
    const float after = is_first ? sums.max : MaxNumber(sums.max, max);
    const float a = ExpF(__fsub_rn(max, after));
    const float b = ExpF(__fsub_rn(sums.max, after));
    max = after;
    sum = is_first ? sums.sum : MergeSum(sums.sum, b, sum, a);
#pragma unroll
    for (uint32_t i = 0; i < kAnyEach; ++i) {
      const uint32_t d = threadIdx.x + i * kAnyThreads;
      if (d >= head_dim) break;
      float part = 0.0f;
      for (uint32_t j = first; j < last; ++j) {
        part = __fmaf_rn(weights[j], LoadElement(values + j * head_dim + d), part);
      }
      total[i] = is_first ? part : MergeSum(part, b, total[i], a);
    }
  }
#pragma unroll
  for (uint32_t i = 0; i < kAnyEach; ++i) {
    const uint32_t d = threadIdx.x + i * kAnyThreads;
    if (d < head_dim) call.out[row_offset + d] = __fdiv_rn(total[i], sum);
  }
}

int AttendAny(cudaStream_t stream, const AttentionCall& call) {
  if (call.cache.head_dim > kAnyDim) return cudaErrorInvalidValue;
  const unsigned blocks = call.rows.rows * call.heads;
  if (call.cache.dtype == DType::kF16) {
    AnyKernel<__half><<<blocks, kAnyThreads, 0, stream>>>(call);
  } else {
    AnyKernel<float><<<blocks, kAnyThreads, 0, stream>>>(call);
  }
  return LaunchError();
}

// ---- Which kernels ----

// Rows x kv heads below which the blocks of one row are shared out, and the most memory that may be
// spent on that.
constexpr size_t kFewLines = 128;
constexpr size_t kScratchMax = size_t{128} << 20;

struct ScratchSize {
  size_t stats;  // bytes, before the outputs
  size_t total;
};

ScratchSize SizeOfScratch(size_t lines, size_t heads, size_t head_dim, size_t positions_max) {
  const size_t parts = lines * heads * CeilDiv(positions_max, kPositions);
  ScratchSize size;
  size.stats = (parts * sizeof(float2) + 255) / 256 * 256;
  size.total = size.stats + parts * head_dim * sizeof(float);
  return size;
}

size_t ScratchBytes(size_t rows, size_t heads, size_t head_dim, uint32_t positions_max) {
  const size_t lines = std::min(rows * kShortRows, kFewLines - 1);
  return std::min(SizeOfScratch(lines, heads, head_dim, positions_max).total, kScratchMax);
}

RowPlan PlanRows(const AttentionCall& call, bool by_row, void* scratch) {
  const Rows& rows = call.rows;
  RowPlan plan{};
  plan.lines_per_sequence = by_row ? 0 : kShortRows;
  plan.lines = by_row ? rows.rows : rows.sequence_count * kShortRows;
  plan.splits = 1;
  plan.blocks_max = CeilDiv(rows.positions_max, kPositions);
  // Of a sequence's lines one or none is real, mostly; the others end at once.
  const size_t items = size_t{by_row ? rows.rows : rows.sequence_count} * call.cache.kv_heads;
  const ScratchSize size =
      SizeOfScratch(plan.lines, call.heads, call.cache.head_dim, rows.positions_max);
  const size_t given = ScratchBytes(rows.rows, call.heads, call.cache.head_dim, rows.positions_max);
  if (items >= kFewLines || size.total > given || plan.blocks_max == 0) return plan;
  int device = 0, processors = 1;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  // No more than run at once, by the shared memory they take, and a block of the cache a warp.
  const size_t at_once = size_t{call.group > 4 ? 2u : 3u} * static_cast<size_t>(processors);
  constexpr size_t kWarps = 4;
  plan.splits = static_cast<uint32_t>(
      std::clamp<size_t>(at_once / items, 1, CeilDiv(plan.blocks_max, kWarps)));
  plan.stats = static_cast<float2*>(scratch);
  plan.outputs = reinterpret_cast<float*>(static_cast<uint8_t*>(scratch) + size.stats);
  return plan;
}

bool Aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

int PagedAttention(Stream stream, const Cache& cache, const Rows& rows, size_t heads,
                   uint32_t window, const float* q, void* scratch, float* out) {
  if (rows.rows == 0) return 0;
  if (cache.dtype != DType::kF32 && cache.dtype != DType::kF16) return cudaErrorInvalidValue;
  AttentionCall call;
  call.cache = cache;
  call.rows = rows;
  call.heads = static_cast<uint32_t>(heads);
  call.group = call.heads / cache.kv_heads;
  call.window = window;
  call.scale = 1.0f / std::sqrt(static_cast<float>(cache.head_dim));
  call.q = q;
  call.out = out;
  const bool fast = (cache.head_dim == 64 || cache.head_dim == 128) && Aligned(cache.data) &&
                    cache.block_stride_bytes % 16 == 0 && Aligned(q) && Aligned(out);
  if (!fast) return AttendAny(StreamOf(stream), call);
  const bool by_row = rows.rows == rows.sequence_count;
  const RowPlan plan = PlanRows(call, by_row, scratch);
  const int error = AttendRows(StreamOf(stream), call, plan);
  if (error != 0 || by_row) return error;
  return AttendTiles(StreamOf(stream), call);
}

}  // namespace

void AddAttention(CudaApi* api) {
  api->append_kv = AppendKv;
  api->attention_scratch_bytes = ScratchBytes;
  api->paged_attention = PagedAttention;
}

}  // namespace octet::cuda
