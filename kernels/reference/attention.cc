#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "core/limits.h"
#include "kernels/math.h"
#include "kernels/reference/reference.h"

namespace octet::reference {
namespace {

constexpr size_t kBlock = kKvBlockPositions;

float LoadElement(DType dtype, const uint8_t* base, size_t index) {
  if (dtype == DType::kF32) {
    float f;
    std::memcpy(&f, base + 4 * index, 4);
    return f;
  }
  if (dtype == DType::kI8) return static_cast<float>(static_cast<int8_t>(base[index]));
  uint16_t h;
  std::memcpy(&h, base + 2 * index, 2);
  return F16ToF32(h);
}

// Keys and values of one kv head in one block. `k` is [head_dim][64], `v` is [64][head_dim]; the
// scales, [64] each, only where the elements are int8.
struct HeadBlock {
  const uint8_t* k;
  const uint8_t* v;
  const float* k_scales = nullptr;
  const float* v_scales = nullptr;
};

HeadBlock BlockOf(const KvLayer& cache, BlockId id, size_t kv_head) {
  const uint8_t* block = cache.data + id.value() * cache.block_stride_bytes;
  const size_t head_bytes = kBlock * cache.head_dim * DTypeBytes(cache.dtype);
  HeadBlock head;
  head.k = block + kv_head * head_bytes;
  head.v = block + (cache.kv_heads + kv_head) * head_bytes;
  if (cache.dtype == DType::kI8) {
    const auto* scales = reinterpret_cast<const float*>(block + 2 * cache.kv_heads * head_bytes);
    head.k_scales = scales + kv_head * kBlock;
    head.v_scales = scales + (cache.kv_heads + kv_head) * kBlock;
  }
  return head;
}

// What one block, or the blocks so far, contribute.
struct Partial {
  float max = 0;
  float sum = 0;
  std::vector<float> output;
};

// Positions [begin, end) of one block.
Partial AttendBlock(const KvLayer& cache, const HeadBlock& block, size_t begin, size_t end,
                    float scale, const float* q) {
  const size_t head_dim = cache.head_dim;
  float scores[kBlock];
  Partial out;
  out.max = -std::numeric_limits<float>::infinity();
  for (size_t j = begin; j < end; ++j) {
    float dot = 0.0f;
    for (size_t d = 0; d < head_dim; ++d) {
      dot = std::fma(q[d], LoadElement(cache.dtype, block.k, d * kBlock + j), dot);
    }
    if (block.k_scales != nullptr) dot *= block.k_scales[j];
    scores[j] = dot * scale;
    out.max = scores[j] > out.max ? scores[j] : out.max;
  }
  float lanes[kLanes] = {};
  for (size_t j = begin; j < end; ++j) {
    scores[j] = ExpF(scores[j] - out.max);
    lanes[j % kLanes] += scores[j];
  }
  out.sum = SumLanes(lanes);
  out.output.assign(head_dim, 0.0f);
  for (size_t j = begin; j < end; ++j) {
    const float weight = block.v_scales == nullptr ? scores[j] : scores[j] * block.v_scales[j];
    for (size_t d = 0; d < head_dim; ++d) {
      out.output[d] =
          std::fma(weight, LoadElement(cache.dtype, block.v, j * head_dim + d), out.output[d]);
    }
  }
  return out;
}

// Appends `block` to `total`, in ascending order of positions.
void Merge(const Partial& block, Partial* total) {
  const float max = block.max > total->max ? block.max : total->max;
  const float a = ExpF(total->max - max);
  const float b = ExpF(block.max - max);
  total->max = max;
  total->sum = std::fma(block.sum, b, total->sum * a);
  for (size_t d = 0; d < total->output.size(); ++d) {
    total->output[d] = std::fma(block.output[d], b, total->output[d] * a);
  }
}

}  // namespace

void AttendHead(const KvLayer& cache, absl::Span<const BlockId> blocks, size_t kv_head,
                uint32_t position, uint32_t window, const float* q, float* out) {
  const size_t end = static_cast<size_t>(position) + 1;
  const size_t begin = window != 0 && end > window ? end - window : 0;
  const float scale = 1.0f / std::sqrt(static_cast<float>(cache.head_dim));
  Partial total;
  for (size_t b = begin / kBlock; b * kBlock < end; ++b) {
    const size_t first = std::max(begin, b * kBlock) - b * kBlock;
    const size_t last = std::min(end - b * kBlock, kBlock);
    const Partial partial =
        AttendBlock(cache, BlockOf(cache, blocks[b], kv_head), first, last, scale, q);
    if (total.output.empty()) {
      total = partial;
    } else {
      Merge(partial, &total);
    }
  }
  for (size_t d = 0; d < cache.head_dim; ++d) out[d] = total.output[d] / total.sum;
}

}  // namespace octet::reference
