// Attention over the paged cache, once for every level: included after row_kernels.h, by level
// files alone. Queries that read the same keys share their loads; each has accumulators of its own,
// so its bits do not depend on its neighbours.
#ifndef OCTET_KERNELS_X86_ATTENTION_KERNELS_H_
#define OCTET_KERNELS_X86_ATTENTION_KERNELS_H_

#include "kernels/x86/kernel_table.h"

namespace octet::OCTET_LEVEL {

inline constexpr size_t kKeys = 64;
inline constexpr int kQueriesMax = 6;

// State of the queries of a task. `output` is [queries][dim].
struct Attending {
  size_t dim;
  float* max;
  float* sum;
  float* output;
  float* block_output;  // [kQueriesMax][dim]
  float* scores;        // [kQueriesMax][64]
};

template <bool kHalf>
inline Vec LoadElements(const uint8_t* base, size_t index, size_t count) {
  if constexpr (kHalf) {
    const uint16_t* p = reinterpret_cast<const uint16_t*>(base) + index;
    return count == 16 ? LoadHalf(p) : LoadHalfPrefix(p, count);
  } else {
    const float* p = reinterpret_cast<const float*>(base) + index;
    return count == 16 ? Load(p) : LoadPrefix(p, count);
  }
}

// Scores of keys [16 chunk, 16 (chunk + kChunks)).
template <bool kHalf, int kQueries, int kChunks>
inline void ScoreChunks(const uint8_t* keys, size_t chunk, size_t dim, const float* const* q,
                        Vec scale, float* scores) {
  Vec acc[kQueries][kChunks];
  for (int i = 0; i < kQueries; ++i) {
    for (int c = 0; c < kChunks; ++c) acc[i][c] = Zero();
  }
  for (size_t d = 0; d < dim; ++d) {
    Vec k[kChunks];
    for (int c = 0; c < kChunks; ++c) {
      k[c] = LoadElements<kHalf>(keys, d * kKeys + 16 * (chunk + c), 16);
    }
    for (int i = 0; i < kQueries; ++i) {
      const Vec v = Set1(q[i][d]);
      for (int c = 0; c < kChunks; ++c) acc[i][c] = Fma(v, k[c], acc[i][c]);
    }
  }
  for (int i = 0; i < kQueries; ++i) {
    for (int c = 0; c < kChunks; ++c) {
      Store(scores + i * kKeys + 16 * (chunk + c), Mul(acc[i][c], scale));
    }
  }
}

// Turns scores of keys [begin, end) into exp(score - max), zero elsewhere.
inline void BlockSoftmax(float* scores, size_t begin, size_t end, float* max, float* sum) {
  const Vec lowest = Set1(-__builtin_inff());
  const auto from = [begin](size_t c) { return begin <= c ? 0 : begin - c < 16 ? begin - c : 16; };
  const auto until = [end](size_t c) { return end <= c ? 0 : end - c < 16 ? end - c : 16; };
  Vec top = lowest;
  for (size_t c = 0; c < kKeys; c += 16) {
    top = Max(KeepLanes(Load(scores + c), from(c), until(c), lowest), top);
  }
  *max = MaxLanes(top);
  const Vec m = Set1(*max);
  Vec e[4];
  for (size_t c = 0; c < 4; ++c) {
    e[c] = Exp(Sub(Load(scores + 16 * c), m));
    e[c] = KeepLanes(e[c], from(16 * c), until(16 * c), Zero());
    Store(scores + 16 * c, e[c]);
  }
  *sum = SumLanes(Add(e[0], e[2]), Add(e[1], e[3]));
}

// Dimensions [16 chunk, ...) of the sum over keys [begin, end) of score times value.
template <bool kHalf, int kQueries, int kChunks>
inline void ValueChunks(const uint8_t* values, size_t chunk, size_t dim, size_t begin, size_t end,
                        const float* scores, float* output) {
  const size_t first = 16 * chunk;
  const size_t left = dim - first;
  const size_t count = left < 16 ? left : 16;  // of a lone chunk, else 16
  Vec acc[kQueries][kChunks];
  for (int i = 0; i < kQueries; ++i) {
    for (int c = 0; c < kChunks; ++c) acc[i][c] = Zero();
  }
  for (size_t j = begin; j < end; ++j) {
    Vec v[kChunks];
    for (int c = 0; c < kChunks; ++c) {
      v[c] = LoadElements<kHalf>(values, j * dim + first + 16 * c, kChunks == 1 ? count : 16);
    }
    for (int i = 0; i < kQueries; ++i) {
      const Vec p = Set1(scores[i * kKeys + j]);
      for (int c = 0; c < kChunks; ++c) acc[i][c] = Fma(p, v[c], acc[i][c]);
    }
  }
  for (int i = 0; i < kQueries; ++i) {
    for (int c = 0; c < kChunks; ++c) {
      StoreUpTo(output + i * dim + first + 16 * c, kChunks == 1 ? count : 16, acc[i][c]);
    }
  }
}

// Appends a block's (max, sum, output) to the state of query i.
inline void MergeBlock(const Attending& s, size_t i, bool first, float max, float sum,
                       const float* block) {
  float* output = s.output + i * s.dim;
  if (first) {
    s.max[i] = max;
    s.sum[i] = sum;
    ForVectors(s.dim,
               [&](size_t d, size_t n) { StoreUpTo(output + d, n, LoadUpTo(block + d, n)); });
    return;
  }
  const float top = max > s.max[i] ? max : s.max[i];
  const Vec a = Set1(First(Exp(Set1(s.max[i] - top))));
  const Vec b = Set1(First(Exp(Set1(max - top))));
  s.max[i] = top;
  s.sum[i] = First(Fma(Set1(sum), b, Mul(Set1(s.sum[i]), a)));
  ForVectors(s.dim, [&](size_t d, size_t n) {
    StoreUpTo(output + d, n, Fma(LoadUpTo(block + d, n), b, Mul(LoadUpTo(output + d, n), a)));
  });
}

// Queries [query, query + kQueries) over keys [begin, end) of one block.
template <bool kHalf, int kQueries>
void AttendBlock(const Attending& s, const uint8_t* keys, const uint8_t* values, size_t begin,
                 size_t end, bool first, const float* const* q, size_t query) {
  constexpr int kChunks = AttentionColumnsFor(kQueries);
  const Vec scale = Set1(1.0f / __builtin_sqrtf(static_cast<float>(s.dim)));
  const size_t chunk_begin = begin / (16 * kChunks) * kChunks;
  for (size_t c = chunk_begin; 16 * c < end; c += kChunks) {
    ScoreChunks<kHalf, kQueries, kChunks>(keys, c, s.dim, q, scale, s.scores);
  }
  float max[kQueries], sum[kQueries];
  for (int i = 0; i < kQueries; ++i) {
    BlockSoftmax(s.scores + i * kKeys, begin, end, &max[i], &sum[i]);
  }
  size_t c = 0;
  for (; 16 * (c + kChunks) <= s.dim; c += kChunks) {
    ValueChunks<kHalf, kQueries, kChunks>(values, c, s.dim, begin, end, s.scores, s.block_output);
  }
  for (; 16 * c < s.dim; ++c) {
    ValueChunks<kHalf, kQueries, 1>(values, c, s.dim, begin, end, s.scores, s.block_output);
  }
  for (int i = 0; i < kQueries; ++i) {
    MergeBlock(s, query + i, first, max[i], sum[i], s.block_output + i * s.dim);
  }
}

using AttendBlockFn = void (*)(const Attending&, const uint8_t*, const uint8_t*, size_t, size_t,
                               bool, const float* const*, size_t);

template <bool kHalf>
inline AttendBlockFn AttendBlockFor(size_t queries) {
  constexpr AttendBlockFn kFunctions[kQueriesMax] = {AttendBlock<kHalf, 1>, AttendBlock<kHalf, 2>,
                                                     AttendBlock<kHalf, 3>, AttendBlock<kHalf, 4>,
                                                     AttendBlock<kHalf, 5>, AttendBlock<kHalf, 6>};
  return kFunctions[queries - 1];
}

// Keys of block `block` that the query row at `position` sees, as [begin, end); begin >= end: none.
struct KeyRange {
  size_t begin;
  size_t end;
};
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
  s.sum = s.max + kAttentionQueries;
  s.output = s.sum + kAttentionQueries;
  s.block_output = s.output + kAttentionQueries * dim;
  s.scores = s.block_output + kQueriesMax * dim;
  const float* q[kAttentionQueries];
  bool started[kAttentionQueries] = {};
  for (size_t i = 0; i < queries; ++i) {
    q[i] = t.q + i / t.group * t.q_stride + i % t.group * dim;
  }
  const size_t element = t.half ? 2 : 4;
  const size_t head_bytes = kKeys * dim * element;
  const size_t oldest = t.window != 0 && t.position + 1 > t.window ? t.position + 1 - t.window : 0;
  const size_t last = t.position + t.rows - 1;
  for (size_t b = oldest / kKeys; b <= last / kKeys; ++b) {
    const uint8_t* block = t.cache + t.blocks[b] * t.block_stride;
    const uint8_t* keys = block + t.kv_head * head_bytes;
    const uint8_t* values = block + (t.kv_heads + t.kv_head) * head_bytes;
    for (size_t i = 0; i < queries;) {
      const KeyRange range = VisibleKeys(t.position + i / t.group, t.window, b);
      size_t n = 1;
      while (n < kQueriesMax && i + n < queries && started[i + n] == started[i]) {
        const KeyRange next = VisibleKeys(t.position + (i + n) / t.group, t.window, b);
        if (next.begin != range.begin || next.end != range.end) break;
        ++n;
      }
      if (range.begin < range.end) {
        const AttendBlockFn fn = t.half ? AttendBlockFor<true>(n) : AttendBlockFor<false>(n);
        fn(s, keys, values, range.begin, range.end, !started[i], q + i, i);
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
