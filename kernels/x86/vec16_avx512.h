// Sixteen floats in one register. Included by level_avx512.cc alone.
#ifndef OCTET_KERNELS_X86_VEC16_AVX512_H_
#define OCTET_KERNELS_X86_VEC16_AVX512_H_

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#define OCTET_LEVEL avx512

namespace octet::avx512 {

using Vec = __m512;

// Independent accumulators that fit the registers, for `rows` rows of a product.
constexpr int ColumnsFor(int rows) { return rows <= 2 ? 8 : 4; }
// The same for the 4 vectors of a block of keys or of 64 dimensions.
constexpr int AttentionColumnsFor(int rows) { return rows > 0 ? 4 : 0; }

inline __mmask16 Prefix(size_t n) { return static_cast<__mmask16>((1u << n) - 1); }

inline Vec Zero() { return _mm512_setzero_ps(); }
inline Vec Set1(float f) { return _mm512_set1_ps(f); }
inline Vec Load(const float* p) { return _mm512_loadu_ps(p); }
inline Vec LoadPrefix(const float* p, size_t n) { return _mm512_maskz_loadu_ps(Prefix(n), p); }
inline void Store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
inline void StorePrefix(float* p, size_t n, Vec v) { _mm512_mask_storeu_ps(p, Prefix(n), v); }
inline Vec LoadHalf(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline Vec LoadHalfPrefix(const uint16_t* p, size_t n) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(Prefix(n), p));
}
inline Vec LoadBfloat(const uint16_t* p) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
inline Vec LoadInt8(const int8_t* p) {
  return _mm512_cvtepi32_ps(
      _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
inline Vec LoadInt8Prefix(const int8_t* p, size_t n) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(Prefix(n), p)));
}
inline void StoreHalf(uint16_t* p, Vec v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

inline Vec Add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
inline Vec Sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
inline Vec Mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
inline Vec Div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
inline Vec Fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
inline Vec Negate(Vec a) {
  return _mm512_castsi512_ps(
      _mm512_xor_si512(_mm512_castps_si512(a), _mm512_set1_epi32(INT32_MIN)));
}
// a > b ? a : b.
inline Vec Max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
// x < limit ? a : b, and x > limit ? a : b.
inline Vec IfLess(Vec x, Vec limit, Vec a, Vec b) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, limit, _CMP_LT_OQ), b, a);
}
inline Vec IfGreater(Vec x, Vec limit, Vec a, Vec b) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, limit, _CMP_GT_OQ), b, a);
}
// Lanes begin <= i < end of v, `fill` elsewhere; 0 <= begin, end <= 16.
inline Vec KeepLanes(Vec v, size_t begin, size_t end, Vec fill) {
  return _mm512_mask_blend_ps(static_cast<__mmask16>(Prefix(end) & ~Prefix(begin)), fill, v);
}
// p * 2^e with e the integer in the low bits of `shifted` over those of `magic`, in two factors.
inline Vec ScaleByPower(Vec p, Vec shifted, Vec magic) {
  const __m512i e = _mm512_sub_epi32(_mm512_castps_si512(shifted), _mm512_castps_si512(magic));
  const __m512i half = _mm512_srai_epi32(e, 1);
  const __m512i bias = _mm512_set1_epi32(127);
  const __m512i a = _mm512_slli_epi32(_mm512_add_epi32(half, bias), 23);
  const __m512i b = _mm512_slli_epi32(_mm512_add_epi32(_mm512_sub_epi32(e, half), bias), 23);
  return Mul(Mul(p, _mm512_castsi512_ps(a)), _mm512_castsi512_ps(b));
}
// p * 2^e with -126 <= e <= 0 in the low bits of `shifted`, the others being those of a power of 2.
inline Vec ScaleByNegativePower(Vec p, Vec shifted) {
  const __m512i e = _mm512_slli_epi32(_mm512_castps_si512(shifted), 23);
  return Mul(p, _mm512_castsi512_ps(_mm512_add_epi32(e, _mm512_set1_epi32(127 << 23))));
}
// The lanes in a tree: i + (i + 8), then 4, 2, 1.
inline float SumOf(Vec v) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
// The greatest lane, none of which is NaN.
inline float MaxOfLanes(Vec v) {
  const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}
// Bits of |v| as integers, and the greater of each pair.
using IntVec = __m512i;
inline IntVec ZeroInt() { return _mm512_setzero_si512(); }
inline IntVec AbsBits(Vec v) {
  return _mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(INT32_MAX));
}
inline IntVec MaxInt(IntVec a, IntVec b) { return _mm512_max_epi32(a, b); }
inline int32_t MaxOfInt(IntVec v) { return _mm512_reduce_max_epi32(v); }
// Rounds to nearest even and stores 16 bytes; |v| stays below 128.
inline void StoreRoundedBytes(int8_t* p, Vec v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(v)));
}

}  // namespace octet::avx512

#endif  // OCTET_KERNELS_X86_VEC16_AVX512_H_
