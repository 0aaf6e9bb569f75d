// Sixteen floats in two registers. Included by level_avx2.cc alone.
#ifndef OCTET_KERNELS_X86_VEC16_AVX2_H_
#define OCTET_KERNELS_X86_VEC16_AVX2_H_

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#define OCTET_LEVEL avx2

namespace octet::avx2 {

struct Vec {
  __m256 a, b;
};

// Independent accumulators that fit the registers, for `rows` rows of a product.
constexpr int ColumnsFor(int rows) { return rows == 1 ? 4 : rows == 2 ? 2 : 1; }
// The same for the 4 vectors of a block of keys or of 64 dimensions.
constexpr int AttentionColumnsFor(int rows) { return ColumnsFor(rows); }

// All ones in the first n of 8 lanes that start at lane `first`.
inline __m256i PrefixMask(size_t n, int first) {
  const __m256i lanes =
      _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(first));
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), lanes);
}

inline Vec Zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline Vec Set1(float f) { return {_mm256_set1_ps(f), _mm256_set1_ps(f)}; }
inline Vec Load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline Vec LoadPrefix(const float* p, size_t n) {
  return {_mm256_maskload_ps(p, PrefixMask(n, 0)), _mm256_maskload_ps(p + 8, PrefixMask(n, 8))};
}
inline void Store(float* p, Vec v) {
  _mm256_storeu_ps(p, v.a);
  _mm256_storeu_ps(p + 8, v.b);
}
inline void StorePrefix(float* p, size_t n, Vec v) {
  _mm256_maskstore_ps(p, PrefixMask(n, 0), v.a);
  _mm256_maskstore_ps(p + 8, PrefixMask(n, 8), v.b);
}
inline Vec LoadHalf(const uint16_t* p) {
  const __m128i* bits = reinterpret_cast<const __m128i*>(p);
  return {_mm256_cvtph_ps(_mm_loadu_si128(bits)), _mm256_cvtph_ps(_mm_loadu_si128(bits + 1))};
}
inline Vec LoadHalfPrefix(const uint16_t* p, size_t n) {
  uint16_t copy[16] = {};
  __builtin_memcpy(copy, p, 2 * n);
  return LoadHalf(copy);
}
inline Vec LoadBfloat(const uint16_t* p) {
  const __m128i* bits = reinterpret_cast<const __m128i*>(p);
  const __m256i a = _mm256_cvtepu16_epi32(_mm_loadu_si128(bits));
  const __m256i b = _mm256_cvtepu16_epi32(_mm_loadu_si128(bits + 1));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(a, 16)),
          _mm256_castsi256_ps(_mm256_slli_epi32(b, 16))};
}
inline Vec LoadInt8(const int8_t* p) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bits)),
          _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bits, 8)))};
}
inline Vec LoadInt8Prefix(const int8_t* p, size_t n) {
  int8_t copy[16] = {};
  __builtin_memcpy(copy, p, n);
  return LoadInt8(copy);
}
inline void StoreHalf(uint16_t* p, Vec v) {
  __m128i* bits = reinterpret_cast<__m128i*>(p);
  _mm_storeu_si128(bits, _mm256_cvtps_ph(v.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  _mm_storeu_si128(bits + 1, _mm256_cvtps_ph(v.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

inline Vec Add(Vec x, Vec y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline Vec Sub(Vec x, Vec y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline Vec Mul(Vec x, Vec y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline Vec Div(Vec x, Vec y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline Vec Fma(Vec x, Vec y, Vec z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
inline Vec Negate(Vec x) {
  const __m256 sign = _mm256_castsi256_ps(_mm256_set1_epi32(INT32_MIN));
  return {_mm256_xor_ps(x.a, sign), _mm256_xor_ps(x.b, sign)};
}
// x > y ? x : y.
inline Vec Max(Vec x, Vec y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
// x < limit ? y : z, and x > limit ? y : z.
inline Vec IfLess(Vec x, Vec limit, Vec y, Vec z) {
  return {_mm256_blendv_ps(z.a, y.a, _mm256_cmp_ps(x.a, limit.a, _CMP_LT_OQ)),
          _mm256_blendv_ps(z.b, y.b, _mm256_cmp_ps(x.b, limit.b, _CMP_LT_OQ))};
}
inline Vec IfGreater(Vec x, Vec limit, Vec y, Vec z) {
  return {_mm256_blendv_ps(z.a, y.a, _mm256_cmp_ps(x.a, limit.a, _CMP_GT_OQ)),
          _mm256_blendv_ps(z.b, y.b, _mm256_cmp_ps(x.b, limit.b, _CMP_GT_OQ))};
}
// Lanes begin <= i < end of v, `fill` elsewhere; 0 <= begin, end <= 16.
inline Vec KeepLanes(Vec v, size_t begin, size_t end, Vec fill) {
  const __m256i a = _mm256_andnot_si256(PrefixMask(begin, 0), PrefixMask(end, 0));
  const __m256i b = _mm256_andnot_si256(PrefixMask(begin, 8), PrefixMask(end, 8));
  return {_mm256_blendv_ps(fill.a, v.a, _mm256_castsi256_ps(a)),
          _mm256_blendv_ps(fill.b, v.b, _mm256_castsi256_ps(b))};
}
inline __m256 ScaleHalf(__m256 p, __m256 shifted, __m256 magic) {
  const __m256i e = _mm256_sub_epi32(_mm256_castps_si256(shifted), _mm256_castps_si256(magic));
  const __m256i half = _mm256_srai_epi32(e, 1);
  const __m256i bias = _mm256_set1_epi32(127);
  const __m256i a = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
  const __m256i b = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(e, half), bias), 23);
  return _mm256_mul_ps(_mm256_mul_ps(p, _mm256_castsi256_ps(a)), _mm256_castsi256_ps(b));
}
// p * 2^e with e the integer in the low bits of `shifted` over those of `magic`, in two factors.
inline Vec ScaleByPower(Vec p, Vec shifted, Vec magic) {
  return {ScaleHalf(p.a, shifted.a, magic.a), ScaleHalf(p.b, shifted.b, magic.b)};
}
// p * 2^e with -126 <= e <= 0 in the low bits of `shifted`, the others being those of a power of 2.
inline __m256 ScaleHalfOnce(__m256 p, __m256 shifted) {
  const __m256i e = _mm256_slli_epi32(_mm256_castps_si256(shifted), 23);
  return _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_add_epi32(e, _mm256_set1_epi32(127 << 23))));
}
inline Vec ScaleByNegativePower(Vec p, Vec shifted) {
  return {ScaleHalfOnce(p.a, shifted.a), ScaleHalfOnce(p.b, shifted.b)};
}
// The lanes in a tree: i + (i + 8), then 4, 2, 1.
inline float SumOf(Vec v) {
  const __m256 eight = _mm256_add_ps(v.a, v.b);
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
// The greatest lane, none of which is NaN.
inline float MaxOfLanes(Vec v) {
  const __m256 eight = _mm256_max_ps(v.a, v.b);
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}
// Bits of |v| as integers, and the greater of each pair.
using IntVec = __m256i;
inline IntVec ZeroInt() { return _mm256_setzero_si256(); }
inline IntVec MaxInt(IntVec a, IntVec b) { return _mm256_max_epi32(a, b); }
inline IntVec AbsBits(Vec v) {
  const __m256i mask = _mm256_set1_epi32(INT32_MAX);
  return MaxInt(_mm256_and_si256(_mm256_castps_si256(v.a), mask),
                _mm256_and_si256(_mm256_castps_si256(v.b), mask));
}
inline int32_t MaxOfInt(IntVec v) {
  __m128i m = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
  m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1));
  return _mm_cvtsi128_si32(m);
}
// Rounds to nearest even and stores 16 bytes; |v| stays below 128.
inline void StoreRoundedBytes(int8_t* p, Vec v) {
  const __m256i words = _mm256_permute4x64_epi64(
      _mm256_packs_epi32(_mm256_cvtps_epi32(v.a), _mm256_cvtps_epi32(v.b)), 0xd8);
  _mm_storeu_si128(
      reinterpret_cast<__m128i*>(p),
      _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}

}  // namespace octet::avx2

#endif  // OCTET_KERNELS_X86_VEC16_AVX2_H_
