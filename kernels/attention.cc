#include <cstring>

#include "core/check.h"
#include "core/limits.h"
#include "kernels/kernels.h"
#include "kernels/parallel.h"
#include "kernels/reference/reference.h"

namespace octet {
namespace {

constexpr size_t kBlock = kKvBlockPositions;

void CheckSequences(const KvLayer& cache, absl::Span<const SequenceRows> sequences, size_t rows) {
  OCTET_CHECK(cache.dtype == DType::kF32 || cache.dtype == DType::kF16);
  for (const SequenceRows& s : sequences) {
    OCTET_CHECK_LE(s.row_begin + s.rows, rows);
    OCTET_CHECK_GE(s.blocks.size() * kBlock, size_t{s.position_begin} + s.rows);
  }
}

void StoreElement(DType dtype, uint8_t* base, size_t index, float value) {
  if (dtype == DType::kF32) {
    std::memcpy(base + 4 * index, &value, 4);
  } else {
    const uint16_t h = F32ToF16(value);
    std::memcpy(base + 2 * index, &h, 2);
  }
}

void AppendRow(const KvLayer& cache, uint8_t* block, size_t slot, const float* k, const float* v) {
  const size_t head_dim = cache.head_dim;
  const size_t head_bytes = kBlock * head_dim * DTypeBytes(cache.dtype);
  for (size_t h = 0; h < cache.kv_heads; ++h) {
    uint8_t* k_head = block + h * head_bytes;
    uint8_t* v_head = block + (cache.kv_heads + h) * head_bytes;
    for (size_t d = 0; d < head_dim; ++d) {
      StoreElement(cache.dtype, k_head, d * kBlock + slot, k[h * head_dim + d]);
      StoreElement(cache.dtype, v_head, slot * head_dim + d, v[h * head_dim + d]);
    }
  }
}

}  // namespace

size_t KvBlockLayerBytes(DType dtype, size_t kv_heads, size_t head_dim) {
  return 2 * kBlock * kv_heads * head_dim * DTypeBytes(dtype);
}

void AppendKv(const ExecContext& ctx, const KvLayer& cache,
              absl::Span<const SequenceRows> sequences, ConstTensorF32 k, ConstTensorF32 v) {
  CheckSequences(cache, sequences, k.rows);
  OCTET_CHECK(k.cols == cache.kv_heads * cache.head_dim && v.cols == k.cols && v.rows == k.rows);
  for (const SequenceRows& s : sequences) {
    for (size_t i = 0; i < s.rows; ++i) {
      const size_t position = s.position_begin + i;
      uint8_t* block = cache.data + s.blocks[position / kBlock].value() * cache.block_stride_bytes;
      AppendRow(cache, block, position % kBlock, k.row(s.row_begin + i), v.row(s.row_begin + i));
    }
  }
}

void PagedAttention(const ExecContext& ctx, const KvLayer& cache,
                    absl::Span<const SequenceRows> sequences, size_t heads, uint32_t window,
                    ConstTensorF32 q, TensorF32 out) {
  CheckSequences(cache, sequences, q.rows);
  OCTET_CHECK(heads % cache.kv_heads == 0 && q.cols == heads * cache.head_dim);
  OCTET_CHECK(out.rows == q.rows && out.cols == q.cols);
  const size_t group = heads / cache.kv_heads;
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
