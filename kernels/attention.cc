#include <algorithm>
#include <cstring>

#include "core/check.h"
#include "core/limits.h"
#include "kernels/dispatch.h"
#include "kernels/kernels.h"
#include "kernels/parallel.h"
#include "kernels/reference/reference.h"

namespace octet {
namespace {

constexpr size_t kBlock = kKvBlockPositions;

// Codes of a head while they are made: whole vectors of 16.
size_t PaddedHead(size_t head_dim) { return (head_dim + 15) / 16 * 16; }

void CheckSequences(const KvLayer& cache, absl::Span<const SequenceRows> sequences, size_t rows) {
  OCTET_CHECK(cache.dtype == DType::kF32 || cache.dtype == DType::kF16 ||
              cache.dtype == DType::kI8);
  for (const SequenceRows& s : sequences) {
    OCTET_CHECK_LE(s.row_begin + s.rows, rows);
    OCTET_CHECK_GE(s.blocks.size() * kBlock, size_t{s.position_begin} + s.rows);
  }
}

// Rounds a row to the cache's elements. `out` holds n of them.
void RoundRow(const KernelTable* table, DType dtype, const float* x, size_t n, uint8_t* out) {
  if (dtype == DType::kF32) {
    std::memcpy(out, x, 4 * n);
  } else if (table != nullptr) {
    table->to_half(x, n, reinterpret_cast<uint16_t*>(out));
  } else {
    for (size_t i = 0; i < n; ++i) {
      const uint16_t h = F32ToF16(x[i]);
      std::memcpy(out + 2 * i, &h, 2);
    }
  }
}

// Element: as wide as one of the cache's. Consecutive heads of `k_row` and `v_row` are
// `head_stride` elements apart.
template <typename Element>
void StoreRow(const KvLayer& cache, const uint8_t* k_row, const uint8_t* v_row, size_t head_stride,
              size_t slot, uint8_t* block) {
  const size_t head_dim = cache.head_dim;
  const auto* k = reinterpret_cast<const Element*>(k_row);
  const auto* v = reinterpret_cast<const Element*>(v_row);
  auto* keys = reinterpret_cast<Element*>(block);
  auto* values = keys + cache.kv_heads * head_dim * kBlock;
  for (size_t h = 0; h < cache.kv_heads; ++h) {
    Element* key = keys + h * head_dim * kBlock + slot;
    for (size_t d = 0; d < head_dim; ++d) key[d * kBlock] = k[h * head_stride + d];
    std::memcpy(values + (h * kBlock + slot) * head_dim, v + h * head_stride,
                head_dim * sizeof(Element));
  }
}

// Bytes that one rounded row of k or of v takes before it is stored.
size_t RoundedRowBytes(const KvLayer& cache) {
  if (cache.dtype == DType::kI8) return cache.kv_heads * PaddedHead(cache.head_dim);
  return cache.kv_heads * cache.head_dim * DTypeBytes(cache.dtype);
}

// Quantises each head of a row as one group; `scales` are those of kv head 0 at the row's slot, one
// block apart for each further head.
void QuantizeHeads(const KernelTable* table, const KvLayer& cache, const float* x, uint8_t* out,
                   float* scales) {
  const size_t padded = PaddedHead(cache.head_dim);
  const auto quantize = table != nullptr ? table->quantize_row : reference::QuantizeRow;
  for (size_t h = 0; h < cache.kv_heads; ++h) {
    quantize(x + h * cache.head_dim, cache.head_dim, padded, padded,
             reinterpret_cast<int8_t*>(out + h * padded), scales + h * kBlock);
  }
}

void AppendRow(const KernelTable* table, const KvLayer& cache, const float* k, const float* v,
               size_t slot, uint8_t* rounded, uint8_t* block) {
  const size_t columns = cache.kv_heads * cache.head_dim;
  uint8_t* rounded_v = rounded + RoundedRowBytes(cache);
  if (cache.dtype == DType::kI8) {
    auto* scales = reinterpret_cast<float*>(block + 2 * columns * kBlock) + slot;
    QuantizeHeads(table, cache, k, rounded, scales);
    QuantizeHeads(table, cache, v, rounded_v, scales + cache.kv_heads * kBlock);
    return StoreRow<uint8_t>(cache, rounded, rounded_v, PaddedHead(cache.head_dim), slot, block);
  }
  RoundRow(table, cache.dtype, k, columns, rounded);
  RoundRow(table, cache.dtype, v, columns, rounded_v);
  if (cache.dtype == DType::kF32) {
    StoreRow<uint32_t>(cache, rounded, rounded_v, cache.head_dim, slot, block);
  } else {
    StoreRow<uint16_t>(cache, rounded, rounded_v, cache.head_dim, slot, block);
  }
}

// Rows [begin, end) of one sequence.
void AppendRows(const KernelTable* table, const KvLayer& cache, const SequenceRows& s, size_t begin,
                size_t end, ConstTensorF32 k, ConstTensorF32 v, uint8_t* rounded) {
  for (size_t i = begin; i < end; ++i) {
    const size_t position = s.position_begin + i;
    uint8_t* block = cache.data + s.blocks[position / kBlock].value() * cache.block_stride_bytes;
    AppendRow(table, cache, k.row(s.row_begin + i), v.row(s.row_begin + i), position % kBlock,
              rounded, block);
  }
}

// A share of the queries of one sequence that read one kv head.
struct Share {
  const SequenceRows* sequence;
  size_t first_row;
  size_t rows;
  size_t kv_head;
};

struct AttentionCall {
  const KernelTable& table;
  const KvLayer& cache;
  size_t group;
  uint32_t window;
  ConstTensorF32 q;
  TensorF32 out;
};

void AttendShare(const AttentionCall& call, const Share& share, float* scratch) {
  static_assert(sizeof(BlockId) == sizeof(uint32_t));
  const SequenceRows& s = *share.sequence;
  const size_t row = s.row_begin + share.first_row;
  AttentionTask task;
  task.cache = call.cache.data;
  task.block_stride = call.cache.block_stride_bytes;
  task.blocks = reinterpret_cast<const uint32_t*>(s.blocks.data());
  task.dtype = call.cache.dtype;
  task.kv_heads = call.cache.kv_heads;
  task.head_dim = call.cache.head_dim;
  task.kv_head = share.kv_head;
  task.position = s.position_begin + share.first_row;
  task.rows = share.rows;
  task.window = call.window;
  task.q_stride = call.q.stride;
  task.out_stride = call.out.stride;
  task.scratch = scratch;
  // More query heads a kv head than a task holds go in parts.
  const size_t first_head = share.kv_head * call.group;
  for (size_t h = 0; h < call.group; h += kAttentionQueries) {
    task.group = std::min(kAttentionQueries, call.group - h);
    const size_t column = (first_head + h) * call.cache.head_dim;
    task.q = call.q.row(row) + column;
    task.out = call.out.row(row) + column;
    call.table.attention(task);
  }
}

void FastAttention(const ExecContext& ctx, const AttentionCall& call,
                   absl::Span<const SequenceRows> sequences) {
  const size_t rows_max = std::max<size_t>(1, kAttentionQueries / call.group);
  size_t count = 0;
  size_t work = 0;  // multiply-adds, about
  for (const SequenceRows& s : sequences) {
    count += (s.rows + rows_max - 1) / rows_max * call.cache.kv_heads;
    work += s.rows * (s.position_begin + s.rows) * call.q.cols;
  }
  Scratch scratch(ctx);
  Share* shares = scratch.Alloc<Share>(count);
  Share* share = shares;
  for (const SequenceRows& s : sequences) {
    for (size_t head = 0; head < call.cache.kv_heads; ++head) {
      // The last rows see the most keys: first, so that no thread starts on them at the end.
      for (size_t end = s.rows; end > 0; end -= std::min(rows_max, end)) {
        const size_t rows = std::min(rows_max, end);
        *share++ = {&s, end - rows, rows, head};
      }
    }
  }
  const size_t floats = AttentionScratchFloats(call.cache.head_dim);
  float* memory = scratch.Alloc<float>(floats * static_cast<size_t>(PoolThreads(ctx)));
  const auto run = [&](size_t i, int thread) {
    AttendShare(call, shares[i], memory + floats * static_cast<size_t>(thread));
  };
  constexpr size_t kInlineWork = 200'000;
  if (ctx.pool == nullptr || work < kInlineWork) {
    for (size_t i = 0; i < count; ++i) run(i, 0);
  } else {
    ctx.pool->ParallelFor(count, run);
  }
}

}  // namespace

size_t KvBlockLayerBytes(DType dtype, size_t kv_heads, size_t head_dim) {
  const size_t scale_bytes = dtype == DType::kI8 ? sizeof(float) : 0;
  return 2 * kBlock * kv_heads * (head_dim * DTypeBytes(dtype) + scale_bytes);
}

void AppendKv(const ExecContext& ctx, const KvLayer& cache,
              absl::Span<const SequenceRows> sequences, ConstTensorF32 k, ConstTensorF32 v) {
  CheckSequences(cache, sequences, k.rows);
  OCTET_CHECK(k.cols == cache.kv_heads * cache.head_dim && v.cols == k.cols && v.rows == k.rows);
  const KernelTable* table = FastKernels(ctx.level);
  Scratch scratch(ctx);
  const size_t row_bytes = 2 * RoundedRowBytes(cache);
  uint8_t* rounded = scratch.Alloc<uint8_t>(row_bytes * static_cast<size_t>(PoolThreads(ctx)));
  for (const SequenceRows& s : sequences) {
    ParallelRange(ctx, s.rows, 8192 / (k.cols + 1) + 1, [&](size_t begin, size_t end, int thread) {
      AppendRows(table, cache, s, begin, end, k, v,
                 rounded + row_bytes * static_cast<size_t>(thread));
    });
  }
}

void PagedAttention(const ExecContext& ctx, const KvLayer& cache,
                    absl::Span<const SequenceRows> sequences, size_t heads, uint32_t window,
                    ConstTensorF32 q, TensorF32 out) {
  CheckSequences(cache, sequences, q.rows);
  OCTET_CHECK(heads % cache.kv_heads == 0 && q.cols == heads * cache.head_dim);
  OCTET_CHECK(out.rows == q.rows && out.cols == q.cols);
  const size_t group = heads / cache.kv_heads;
  const KernelTable* table = FastKernels(ctx.level);
  if (table != nullptr) {
    FastAttention(ctx, {*table, cache, group, window, q, out}, sequences);
    return;
  }
  for (const SequenceRows& s : sequences) {
    ParallelRange(ctx, s.rows * heads, 4, [&](size_t begin, size_t end, int) {
      for (size_t i = begin; i < end; ++i) {
        const size_t row = i / heads;
        const size_t head = i % heads;
        const size_t column = head * cache.head_dim;
        reference::AttendHead(
            cache, s.blocks, head / group, static_cast<uint32_t>(s.position_begin + row), window,
            q.row(s.row_begin + row) + column, out.row(s.row_begin + row) + column);
      }
    });
  }
}

}  // namespace octet
