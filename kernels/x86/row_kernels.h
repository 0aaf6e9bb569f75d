// Row operations over Vec, once for every level: included after a vec16 header, by level files
// alone. docs/numerics.md fixes the order of every reduction.
#ifndef OCTET_KERNELS_X86_ROW_KERNELS_H_
#define OCTET_KERNELS_X86_ROW_KERNELS_H_

#include "kernels/x86/kernel_table.h"

namespace octet::OCTET_LEVEL {

// Calls fn(i, n) for every vector of a row of `count`: n = 16, less at the end.
template <typename Fn>
inline void ForVectors(size_t count, Fn fn) {
  size_t i = 0;
  for (; i + 16 <= count; i += 16) fn(i, size_t{16});
  if (i < count) fn(i, count - i);
}
inline Vec LoadUpTo(const float* p, size_t n) { return n == 16 ? Load(p) : LoadPrefix(p, n); }
inline void StoreUpTo(float* p, size_t n, Vec v) {
  if (n == 16) {
    Store(p, v);
  } else {
    StorePrefix(p, n, v);
  }
}

// exp(x) = p * 2^e, e in the low bits of `shifted`.
struct ExpParts {
  Vec p, shifted;
};
inline constexpr float kExpMagic = 12582912.0f;
inline constexpr float kExpLowest = -0x1.5d589ep+6f;  // below it the result is 0

[[gnu::always_inline]] inline ExpParts SplitExp(Vec x) {
  const Vec magic = Set1(kExpMagic);
  const Vec shifted = Fma(x, Set1(0x1.715476p+0f), magic);
  const Vec n = Sub(shifted, magic);
  Vec r = Fma(n, Set1(-0x1.62e400p-1f), x);
  r = Fma(n, Set1(-0x1.7f7d1cp-20f), r);
  Vec p = Fma(Set1(1.0f / 5040), r, Set1(1.0f / 720));
  p = Fma(p, r, Set1(1.0f / 120));
  p = Fma(p, r, Set1(1.0f / 24));
  p = Fma(p, r, Set1(1.0f / 6));
  p = Fma(p, r, Set1(0.5f));
  p = Fma(p, r, Set1(1.0f));
  p = Fma(p, r, Set1(1.0f));
  return {p, shifted};
}

[[gnu::always_inline]] inline Vec Exp(Vec x) {
  const ExpParts e = SplitExp(x);
  Vec p = ScaleByPower(e.p, e.shifted, Set1(kExpMagic));
  p = IfGreater(x, Set1(0x1.62e42ep+6f), Set1(__builtin_inff()), p);
  return IfLess(x, Set1(kExpLowest), Zero(), p);
}

// The same where x > 0 is impossible: 2^e and the result are normal, so one factor will do.
[[gnu::always_inline]] inline Vec ExpOfNegative(Vec x) {
  const ExpParts e = SplitExp(x);
  return IfLess(x, Set1(kExpLowest), Zero(), ScaleByNegativePower(e.p, e.shifted));
}

// The fixed tree over 32 lanes, `low` holding lanes 0..15.
inline float SumLanes(Vec low, Vec high) { return SumOf(Add(low, high)); }

inline float MaxOf(const float* x, size_t n) {
  const Vec lowest = Set1(-__builtin_inff());
  Vec max = lowest;
  ForVectors(n, [&](size_t i, size_t count) {
    Vec v = LoadUpTo(x + i, count);
    if (count < 16) v = KeepLanes(v, 0, count, lowest);
    max = Max(v, max);
  });
  return MaxOfLanes(max);
}

inline float SumExp(const float* x, size_t n, float max) {
  Vec sums[2] = {Zero(), Zero()};
  const Vec m = Set1(max);
  ForVectors(n, [&](size_t i, size_t count) {
    Vec e = Exp(Sub(LoadUpTo(x + i, count), m));
    if (count < 16) e = KeepLanes(e, 0, count, Zero());
    Vec& sum = sums[i / 16 % 2];
    sum = Add(sum, e);
  });
  return SumLanes(sums[0], sums[1]);
}

inline void ExpScaled(const float* x, size_t n, float max, float divisor, float* out) {
  const Vec m = Set1(max);
  const Vec d = Set1(divisor);
  ForVectors(n, [&](size_t i, size_t count) {
    StoreUpTo(out + i, count, Exp(Div(Sub(LoadUpTo(x + i, count), m), d)));
  });
}

inline void Softmax(float* x, size_t n) {
  const float max = MaxOf(x, n);
  const Vec sum = Set1(SumExp(x, n, max));
  const Vec m = Set1(max);
  ForVectors(n, [&](size_t i, size_t count) {
    StoreUpTo(x + i, count, Div(Exp(Sub(LoadUpTo(x + i, count), m)), sum));
  });
}

inline void RmsNorm(const float* x, const float* weight, size_t n, float eps, float* y) {
  Vec sums[2] = {Zero(), Zero()};
  ForVectors(n, [&](size_t i, size_t count) {
    const Vec v = LoadUpTo(x + i, count);
    Vec& sum = sums[i / 16 % 2];
    sum = Fma(v, v, sum);
  });
  const float mean = SumLanes(sums[0], sums[1]) / static_cast<float>(n);
  const Vec inverse = Set1(1.0f / __builtin_sqrtf(mean + eps));
  ForVectors(n, [&](size_t i, size_t count) {
    const Vec v = Mul(LoadUpTo(x + i, count), inverse);
    StoreUpTo(y + i, count, Mul(v, LoadUpTo(weight + i, count)));
  });
}

inline void AddRow(const float* x, size_t n, float* y) {
  ForVectors(n, [&](size_t i, size_t count) {
    StoreUpTo(y + i, count, Add(LoadUpTo(x + i, count), LoadUpTo(y + i, count)));
  });
}

inline void SiluMul(const float* gate, const float* up, size_t n, float* out) {
  ForVectors(n, [&](size_t i, size_t count) {
    const Vec g = LoadUpTo(gate + i, count);
    const Vec silu = Div(g, Add(Set1(1.0f), Exp(Negate(g))));
    StoreUpTo(out + i, count, Mul(silu, LoadUpTo(up + i, count)));
  });
}

inline void Rope(const float* cos_row, const float* sin_row, size_t half, float* x) {
  ForVectors(half, [&](size_t i, size_t count) {
    const Vec c = LoadUpTo(cos_row + i, count);
    const Vec s = LoadUpTo(sin_row + i, count);
    const Vec a = LoadUpTo(x + i, count);
    const Vec b = LoadUpTo(x + half + i, count);
    StoreUpTo(x + i, count, Fma(a, c, Negate(Mul(b, s))));
    StoreUpTo(x + half + i, count, Fma(b, c, Mul(a, s)));
  });
}

inline void Combine(const float* x, size_t k, const float* weights, const float* const* replies,
                    size_t n, float* y) {
  ForVectors(n, [&](size_t i, size_t count) {
    Vec acc = Mul(Set1(weights[0]), LoadUpTo(replies[0] + i, count));
    for (size_t s = 1; s < k; ++s) {
      acc = Fma(Set1(weights[s]), LoadUpTo(replies[s] + i, count), acc);
    }
    StoreUpTo(y + i, count, Add(LoadUpTo(x + i, count), acc));
  });
}

inline void ToHalf(const float* x, size_t n, uint16_t* y) {
  ForVectors(n, [&](size_t i, size_t count) {
    if (count == 16) {
      StoreHalf(y + i, Load(x + i));
      return;
    }
    uint16_t halves[16];
    StoreHalf(halves, LoadPrefix(x + i, count));
    __builtin_memcpy(y + i, halves, 2 * count);
  });
}

// Quantises n <= group values to `group` int8 and returns their scale.
inline float QuantizeGroup(const float* x, size_t n, size_t group, int8_t* q) {
  IntVec bits = ZeroInt();
  ForVectors(n,
             [&](size_t i, size_t count) { bits = MaxInt(bits, AbsBits(LoadUpTo(x + i, count))); });
  const int32_t absmax_bits = MaxOfInt(bits);
  float absmax;
  __builtin_memcpy(&absmax, &absmax_bits, 4);
  const bool finite = absmax_bits < 0x7f800000;
  if (!finite || absmax < 0x1p-100f) {
    __builtin_memset(q, 0, group);
    return finite ? 0.0f : __builtin_nanf("");
  }
  const Vec inverse = Set1(127.0f / absmax);
  for (size_t i = 0; i < group; i += 16) {
    const Vec v = i >= n ? Zero() : LoadUpTo(x + i, n - i < 16 ? n - i : 16);
    StoreRoundedBytes(q + i, Mul(v, inverse));
  }
  return absmax / 127.0f;
}

inline void QuantizeRow(const float* x, size_t k, size_t padded_k, size_t group, int8_t* q,
                        float* scales) {
  for (size_t begin = 0; begin < padded_k; begin += group) {
    const size_t left = begin < k ? k - begin : 0;
    scales[begin / group] = QuantizeGroup(x + begin, left < group ? left : group, group, q + begin);
  }
}

// Sums of the first and the last 16 of 32 bytes.
inline void SumUnit(const int8_t* q, int32_t* low, int32_t* high) {
  const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q));
  const __m256i sums =
      _mm256_sad_epu8(_mm256_xor_si256(v, _mm256_set1_epi8(-128)), _mm256_setzero_si256());
  const __m128i a = _mm256_castsi256_si128(sums);
  const __m128i b = _mm256_extracti128_si256(sums, 1);
  *low = _mm_cvtsi128_si32(a) + _mm_extract_epi32(a, 2) - 16 * 128;
  *high = _mm_cvtsi128_si32(b) + _mm_extract_epi32(b, 2) - 16 * 128;
}

inline void PrepareRow(const int8_t* q, const float* scales, size_t units, size_t units_per_scale,
                       IntBias bias, size_t r, const IntTile& tile) {
  for (size_t u = 0; u < units; ++u) {
    const size_t at = u * tile.rows + r;
    __builtin_memcpy(tile.q + at * kUnit, q + u * kUnit, kUnit);
    tile.scales[at] = scales[u / units_per_scale];
    int32_t low, high;
    SumUnit(q + u * kUnit, &low, &high);
    tile.sums[at] = static_cast<float>(low + high);
    if (bias.halves == 2) {
      tile.bias[2 * u * tile.rows + r] = (-bias.offset * low) & bias.mask;
      tile.bias[(2 * u + 1) * tile.rows + r] = (-bias.offset * high) & bias.mask;
    } else {
      tile.bias[at] = (-bias.offset * (low + high)) & bias.mask;
    }
  }
}

}  // namespace octet::OCTET_LEVEL

#endif  // OCTET_KERNELS_X86_ROW_KERNELS_H_
