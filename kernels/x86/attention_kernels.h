// Attention over the paged cache, once for every level: included after row_kernels.h, by level
// files alone. Queries that read the same keys share their loads; each has accumulators of its own,
// so its bits do not depend on its neighbours.
#ifndef OCTET_KERNELS_X86_ATTENTION_KERNELS_H_
#define OCTET_KERNELS_X86_ATTENTION_KERNELS_H_

#include "kernels/x86/kernel_table.h"

namespace octet::OCTET_LEVEL {

inline constexpr size_t kKeys = 64;
inline constexpr int kQueriesMax = 6;

// State of the queries of a task. `output` is [queries][dim]; max and sum have room for a Vec past
// the last query.
struct Attending {
  size_t dim;
  float* max;
  float* sum;
  float* output;
  float* scores;  // [kQueriesMax][64]
};

// Keys and values of one kv head in one block, with their scales ([64] each) where they are int8.
struct HeadBlock {
  const uint8_t* keys;
  const uint8_t* values;
  const float* key_scales;
  const float* value_scales;
};

// Keys of a block that a query sees, as [begin, end); begin >= end: none.
struct KeyRange {
  size_t begin;
  size_t end;
};

template <DType kType>
inline Vec LoadElements(const uint8_t* base, size_t index, size_t count) {
  if constexpr (kType == DType::kI8) {
    const int8_t* p = reinterpret_cast<const int8_t*>(base) + index;
    return count == 16 ? LoadInt8(p) : LoadInt8Prefix(p, count);
  } else if constexpr (kType == DType::kF16) {
    const uint16_t* p = reinterpret_cast<const uint16_t*>(base) + index;
    return count == 16 ? LoadHalf(p) : LoadHalfPrefix(p, count);
  } else {
    const float* p = reinterpret_cast<const float*>(base) + index;
    return count == 16 ? Load(p) : LoadPrefix(p, count);
  }
}

// Scores of keys [16 chunk, 16 (chunk + kChunks)).
template <DType kType, int kQueries, int kChunks>
inline void ScoreChunks(const HeadBlock& block, size_t chunk, size_t dim, const float* const* q,
                        Vec scale, float* scores) {
  Vec acc[kQueries][kChunks];
  for (int i = 0; i < kQueries; ++i) {
    for (int c = 0; c < kChunks; ++c) acc[i][c] = Zero();
  }
  for (size_t d = 0; d < dim; ++d) {
    Vec k[kChunks];
    for (int c = 0; c < kChunks; ++c) {
      k[c] = LoadElements<kType>(block.keys, d * kKeys + 16 * (chunk + c), 16);
    }
    for (int i = 0; i < kQueries; ++i) {
      const Vec v = Set1(q[i][d]);
      for (int c = 0; c < kChunks; ++c) acc[i][c] = Fma(v, k[c], acc[i][c]);
    }
  }
  for (int i = 0; i < kQueries; ++i) {
    for (int c = 0; c < kChunks; ++c) {
      Vec dot = acc[i][c];
      if constexpr (kType == DType::kI8) {
        dot = Mul(dot, Load(block.key_scales + 16 * (chunk + c)));
      }
      Store(scores + i * kKeys + 16 * (chunk + c), Mul(dot, scale));
    }
  }
}

// Turns scores of keys [begin, end) into exp(score - max), zero elsewhere, and multiplies them by
// the values' scales where there are any; `sum` is without these.
inline void BlockSoftmax(float* scores, KeyRange keys, const float* value_scales, float* max,
                         float* sum) {
  constexpr int kVecs = kKeys / 16;
  const Vec lowest = Set1(-__builtin_inff());
  const bool all = keys.begin == 0 && keys.end == kKeys;
  const auto keep = [&](Vec v, size_t first, Vec fill) {
    const auto within = [first](size_t key) {
      return key <= first ? size_t{0} : key - first < 16 ? key - first : size_t{16};
    };
    return KeepLanes(v, within(keys.begin), within(keys.end), fill);
  };
  Vec v[kVecs];
  Vec top = lowest;
  for (int c = 0; c < kVecs; ++c) {
    v[c] = Load(scores + 16 * c);
    if (!all) v[c] = keep(v[c], static_cast<size_t>(16 * c), lowest);
    top = Max(v[c], top);
  }
  *max = MaxOfLanes(top);
  const Vec m = Set1(*max);
  for (int c = 0; c < kVecs; ++c) {
    v[c] = ExpOfNegative(Sub(v[c], m));
    if (!all) v[c] = keep(v[c], static_cast<size_t>(16 * c), Zero());
    Store(scores + 16 * c, value_scales == nullptr ? v[c] : Mul(v[c], Load(value_scales + 16 * c)));
  }
  *sum = SumLanes(Add(v[0], v[2]), Add(v[1], v[3]));
}

// How the sums of a block join those so far: so_far * old + block * own, or the block alone.
struct Merge {
  bool first;
  alignas(64) float old[16];
  alignas(64) float own[16];
};

// Updates max and sum of queries [query, query + kQueries) by a block's.
template <int kQueries>
inline void MergeSums(const Attending& s, size_t query, const float* max, const float* sum,
                      Merge* merge) {
  const Vec m = Load(max);
  if (merge->first) {
    StorePrefix(s.max + query, kQueries, m);
    StorePrefix(s.sum + query, kQueries, Load(sum));
    return;
  }
  const Vec before = Load(s.max + query);
  const Vec top = Max(m, before);
  const Vec a = ExpOfNegative(Sub(before, top));
  const Vec b = ExpOfNegative(Sub(m, top));
  Store(merge->old, a);
  Store(merge->own, b);
  StorePrefix(s.max + query, kQueries, top);
  StorePrefix(s.sum + query, kQueries, Fma(Load(sum), b, Mul(Load(s.sum + query), a)));
}

// Merges dimensions [first, ...) of the sum over keys of score times value into `output`. `count`:
// dimensions of the only chunk where !kFull.
template <DType kType, int kQueries, int kChunks, bool kFull>
inline void ValueChunks(const uint8_t* values, size_t first, size_t count, size_t dim,
                        KeyRange keys, const float* scores, const Merge& merge, float* output) {
  static_assert(kFull || kChunks == 1);
  const size_t n = kFull ? 16 : count;
  Vec acc[kQueries][kChunks];
  for (int i = 0; i < kQueries; ++i) {
    for (int c = 0; c < kChunks; ++c) acc[i][c] = Zero();
  }
  for (size_t j = keys.begin; j < keys.end; ++j) {
    Vec v[kChunks];
    for (int c = 0; c < kChunks; ++c)
      v[c] = LoadElements<kType>(values, j * dim + first + 16 * c, n);
    for (int i = 0; i < kQueries; ++i) {
      const Vec p = Set1(scores[i * kKeys + j]);
      for (int c = 0; c < kChunks; ++c) acc[i][c] = Fma(p, v[c], acc[i][c]);
    }
  }
  for (int i = 0; i < kQueries; ++i) {
    for (int c = 0; c < kChunks; ++c) {
      float* out = output + i * dim + first + 16 * c;
      if (!merge.first) {
        acc[i][c] = Fma(acc[i][c], Set1(merge.own[i]), Mul(LoadUpTo(out, n), Set1(merge.old[i])));
      }
      StoreUpTo(out, n, acc[i][c]);
    }
  }
}

// Queries [query, query + kQueries), which see the same keys of one block.
template <DType kType, int kQueries>
void AttendBlock(const Attending& s, const HeadBlock& block, KeyRange range, bool first,
                 const float* const* q, size_t query) {
  constexpr int kChunks = AttentionColumnsFor(kQueries);
  const Vec scale = Set1(1.0f / __builtin_sqrtf(static_cast<float>(s.dim)));
  for (size_t c = range.begin / (16 * kChunks) * kChunks; 16 * c < range.end; c += kChunks) {
    ScoreChunks<kType, kQueries, kChunks>(block, c, s.dim, q, scale, s.scores);
  }
  alignas(64) float max[16] = {}, sum[16] = {};
  for (int i = 0; i < kQueries; ++i) {
    BlockSoftmax(s.scores + i * kKeys, range, block.value_scales, &max[i], &sum[i]);
  }
  Merge merge;
  merge.first = first;
  MergeSums<kQueries>(s, query, max, sum, &merge);
  float* output = s.output + query * s.dim;
  size_t d = 0;
  for (; d + 16 * kChunks <= s.dim; d += 16 * kChunks) {
    ValueChunks<kType, kQueries, kChunks, true>(block.values, d, 16, s.dim, range, s.scores, merge,
                                                output);
  }
  for (; d + 16 <= s.dim; d += 16) {
    ValueChunks<kType, kQueries, 1, true>(block.values, d, 16, s.dim, range, s.scores, merge,
                                          output);
  }
  if (d < s.dim) {
    ValueChunks<kType, kQueries, 1, false>(block.values, d, s.dim - d, s.dim, range, s.scores,
                                           merge, output);
  }
}

using AttendBlockFn = void (*)(const Attending&, const HeadBlock&, KeyRange, bool,
                               const float* const*, size_t);

template <DType kType>
inline AttendBlockFn AttendBlockOf(size_t queries) {
  constexpr AttendBlockFn kFunctions[kQueriesMax] = {AttendBlock<kType, 1>, AttendBlock<kType, 2>,
                                                     AttendBlock<kType, 3>, AttendBlock<kType, 4>,
                                                     AttendBlock<kType, 5>, AttendBlock<kType, 6>};
  return kFunctions[queries - 1];
}
inline AttendBlockFn AttendBlockFor(DType dtype, size_t queries) {
  if (dtype == DType::kI8) return AttendBlockOf<DType::kI8>(queries);
  if (dtype == DType::kF16) return AttendBlockOf<DType::kF16>(queries);
  return AttendBlockOf<DType::kF32>(queries);
}

inline HeadBlock BlockOf(const AttentionTask& t, size_t block) {
  // Not DTypeBytes: code of a level may not become the program's only copy of a shared function.
  const size_t element = t.dtype == DType::kF32 ? 4 : t.dtype == DType::kF16 ? 2 : 1;
  const size_t head_bytes = kKeys * t.head_dim * element;
  const uint8_t* base = t.cache + t.blocks[block] * t.block_stride;
  HeadBlock head = {base + t.kv_head * head_bytes, base + (t.kv_heads + t.kv_head) * head_bytes,
                    nullptr, nullptr};
  if (t.dtype == DType::kI8) {
    const auto* scales = reinterpret_cast<const float*>(base + 2 * t.kv_heads * head_bytes);
    head.key_scales = scales + t.kv_head * kKeys;
    head.value_scales = scales + (t.kv_heads + t.kv_head) * kKeys;
  }
  return head;
}

// Keys of block `block` that the query row at `position` sees.
inline KeyRange VisibleKeys(size_t position, size_t window, size_t block) {
  const size_t base = block * kKeys;
  const size_t end = position + 1;
  const size_t begin = window != 0 && end > window ? end - window : 0;
  if (end <= base || begin >= base + kKeys) return {0, 0};
  return {begin > base ? begin - base : 0, end - base < kKeys ? end - base : kKeys};
}

inline void Attention(const AttentionTask& t) {
  const size_t dim = t.head_dim;
  const size_t queries = t.rows * t.group;
  Attending s;
  s.dim = dim;
  s.max = t.scratch;
  s.sum = s.max + kAttentionQueries + 16;
  s.scores = s.sum + kAttentionQueries + 16;
  s.output = s.scores + kQueriesMax * kKeys;
  float* packed = s.output + kAttentionQueries * dim;
  const float* q[kAttentionQueries];
  bool started[kAttentionQueries] = {};
  for (size_t i = 0; i < queries; ++i) {
    // Rows of a batch lie far apart, and crowd a few sets of the cache.
    __builtin_memcpy(packed + i * dim, t.q + i / t.group * t.q_stride + i % t.group * dim, 4 * dim);
    q[i] = packed + i * dim;
  }
  const size_t oldest = t.window != 0 && t.position + 1 > t.window ? t.position + 1 - t.window : 0;
  const size_t last = t.position + t.rows - 1;
  for (size_t b = oldest / kKeys; b <= last / kKeys; ++b) {
    const HeadBlock block = BlockOf(t, b);
    for (size_t i = 0; i < queries;) {
      const KeyRange range = VisibleKeys(t.position + i / t.group, t.window, b);
      size_t n = 1;
      while (n < kQueriesMax && i + n < queries && started[i + n] == started[i]) {
        const KeyRange next = VisibleKeys(t.position + (i + n) / t.group, t.window, b);
        if (next.begin != range.begin || next.end != range.end) break;
        ++n;
      }
      if (range.begin < range.end) {
        AttendBlockFor(t.dtype, n)(s, block, range, !started[i], q + i, i);
        for (size_t j = i; j < i + n; ++j) started[j] = true;
      }
      i += n;
    }
  }
  for (size_t i = 0; i < queries; ++i) {
    float* out = t.out + i / t.group * t.out_stride + i % t.group * dim;
    const Vec sum = Set1(s.sum[i]);
    ForVectors(dim, [&](size_t d, size_t n) {
      StoreUpTo(out + d, n, Div(LoadUpTo(s.output + i * dim + d, n), sum));
    });
  }
}

}  // namespace octet::OCTET_LEVEL

#endif  // OCTET_KERNELS_X86_ATTENTION_KERNELS_H_
