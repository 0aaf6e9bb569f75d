// The AVX-512 and AMX intrinsics that kernels/x86 uses, computed with AVX2 or one lane at a time,
// under their own names: lets a CPU without AVX-512 run the logic of those kernels in tests, bit
// for bit. Semantics: Intel Intrinsics Guide. Included first, and by tests' builds alone.
#ifndef OCTET_KERNELS_X86_EMULATED_AVX512_INTRINSICS_H_
#define OCTET_KERNELS_X86_EMULATED_AVX512_INTRINSICS_H_

#include <immintrin.h>
#include <stdint.h>

namespace octet::emulated {

struct Floats {
  alignas(64) float lane[16];
};
struct Ints {
  alignas(64) int32_t lane[16];
};
using Mask16 = uint16_t;

template <typename To, typename From>
inline To Bits(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof(to));
  return to;
}
template <typename Fn>
inline Floats MapFloats(Fn fn) {
  Floats out;
  for (int i = 0; i < 16; ++i) out.lane[i] = fn(i);
  return out;
}
template <typename Fn>
inline Ints MapInts(Fn fn) {
  Ints out;
  for (int i = 0; i < 16; ++i) out.lane[i] = fn(i);
  return out;
}
// fn(low or high eight lanes of each) through the AVX2 form of an instruction.
template <typename Fn>
inline Floats Halves(const Floats& a, const Floats& b, Fn fn) {
  Floats out;
  for (int i = 0; i < 16; i += 8) {
    _mm256_store_ps(out.lane + i, fn(_mm256_load_ps(a.lane + i), _mm256_load_ps(b.lane + i)));
  }
  return out;
}
template <typename Fn>
inline Ints Halves(const Ints& a, const Ints& b, Fn fn) {
  Ints out;
  for (int i = 0; i < 16; i += 8) {
    const auto* x = reinterpret_cast<const __m256i*>(a.lane + i);
    const auto* y = reinterpret_cast<const __m256i*>(b.lane + i);
    _mm256_store_si256(reinterpret_cast<__m256i*>(out.lane + i),
                       fn(_mm256_load_si256(x), _mm256_load_si256(y)));
  }
  return out;
}
inline int32_t Wrap(int64_t v) { return static_cast<int32_t>(static_cast<uint64_t>(v)); }

// ---- Loads, stores, constants ----

inline Floats SetZeroPs() {
  return MapFloats([](int) { return 0.0f; });
}
inline Ints SetZeroSi() {
  return MapInts([](int) { return 0; });
}
inline Floats Set1Ps(float f) {
  return MapFloats([=](int) { return f; });
}
inline Ints Set1Epi32(int32_t v) {
  return MapInts([=](int) { return v; });
}
inline Ints Set1Epi16(int16_t v) {
  return Set1Epi32(Bits<int32_t>(0x00010001u * static_cast<uint16_t>(v)));
}
inline Ints Set1Epi8(char v) {
  return Set1Epi32(Bits<int32_t>(0x01010101u * static_cast<uint8_t>(v)));
}
inline Floats LoaduPs(const float* p) {
  Floats out;
  __builtin_memcpy(out.lane, p, 64);
  return out;
}
inline Ints LoadSi(const void* p) {
  Ints out;
  __builtin_memcpy(out.lane, p, 64);
  return out;
}
inline void StoreSi(void* p, Ints v) { __builtin_memcpy(p, v.lane, 64); }
inline Floats MaskzLoaduPs(Mask16 m, const float* p) {
  return MapFloats([=](int i) { return m >> i & 1 ? p[i] : 0.0f; });
}
inline void StoreuPs(float* p, const Floats& v) { __builtin_memcpy(p, v.lane, 64); }
inline void MaskStoreuPs(float* p, Mask16 m, const Floats& v) {
  for (int i = 0; i < 16; ++i) {
    if (m >> i & 1) p[i] = v.lane[i];
  }
}
inline __m256i MaskzLoaduEpi16(Mask16 m, const void* p) {
  alignas(32) uint16_t halves[16];
  for (int i = 0; i < 16; ++i) halves[i] = m >> i & 1 ? static_cast<const uint16_t*>(p)[i] : 0;
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(halves));
}
inline __m128i MaskzLoaduEpi8(uint16_t mask, const void* p) {
  alignas(16) int8_t lanes[16] = {};
  for (int i = 0; i < 16; ++i) {
    if ((mask >> i & 1) != 0) lanes[i] = static_cast<const int8_t*>(p)[i];
  }
  return _mm_load_si128(reinterpret_cast<const __m128i*>(lanes));
}

// ---- Floats ----

inline Floats AddPs(const Floats& a, const Floats& b) {
  return Halves(a, b, [](__m256 x, __m256 y) { return _mm256_add_ps(x, y); });
}
inline Floats SubPs(const Floats& a, const Floats& b) {
  return Halves(a, b, [](__m256 x, __m256 y) { return _mm256_sub_ps(x, y); });
}
inline Floats MulPs(const Floats& a, const Floats& b) {
  return Halves(a, b, [](__m256 x, __m256 y) { return _mm256_mul_ps(x, y); });
}
inline Floats DivPs(const Floats& a, const Floats& b) {
  return Halves(a, b, [](__m256 x, __m256 y) { return _mm256_div_ps(x, y); });
}
inline Floats MaxPs(const Floats& a, const Floats& b) {
  return Halves(a, b, [](__m256 x, __m256 y) { return _mm256_max_ps(x, y); });
}
inline Floats FmaddPs(const Floats& a, const Floats& b, const Floats& c) {
  return MapFloats([&](int i) { return __builtin_fmaf(a.lane[i], b.lane[i], c.lane[i]); });
}
// Only the two ordered, quiet comparisons that are used.
template <int kPredicate>
inline Mask16 CmpPsMask(const Floats& a, const Floats& b) {
  static_assert(kPredicate == _CMP_LT_OQ || kPredicate == _CMP_GT_OQ);
  unsigned mask = 0;
  for (int i = 0; i < 16; ++i) {
    const bool holds = kPredicate == _CMP_LT_OQ ? a.lane[i] < b.lane[i] : a.lane[i] > b.lane[i];
    mask |= static_cast<unsigned>(holds) << i;
  }
  return static_cast<Mask16>(mask);
}
inline Floats MaskBlendPs(Mask16 m, const Floats& a, const Floats& b) {
  return MapFloats([&](int i) { return m >> i & 1 ? b.lane[i] : a.lane[i]; });
}

// ---- Conversions ----

inline Ints CastPsSi(const Floats& v) { return Bits<Ints>(v); }
inline Floats CastSiPs(const Ints& v) { return Bits<Floats>(v); }
inline __m256 LowHalf(const Floats& v) { return _mm256_load_ps(v.lane); }
inline __m256 Half(const Floats& v, int half) { return _mm256_load_ps(v.lane + 8 * half); }
inline Floats CvtEpi32Ps(const Ints& v) {
  return MapFloats([&](int i) { return static_cast<float>(v.lane[i]); });
}
inline Ints CvtPsEpi32(const Floats& v) {
  Ints out;
  for (int i = 0; i < 16; i += 8) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(out.lane + i),
                       _mm256_cvtps_epi32(_mm256_load_ps(v.lane + i)));
  }
  return out;
}
inline Ints CvtEpi8Epi32(__m128i v) {
  return MapInts([b = Bits<__int128>(v)](int i) { return static_cast<int8_t>(b >> (8 * i)); });
}
inline Ints CvtEpu8Epi32(__m128i v) {
  return MapInts([b = Bits<__int128>(v)](int i) { return static_cast<uint8_t>(b >> (8 * i)); });
}
inline Ints CvtEpu16Epi32(__m256i v) {
  alignas(32) uint16_t words[16];
  _mm256_store_si256(reinterpret_cast<__m256i*>(words), v);
  return MapInts([&](int i) { return words[i]; });
}
inline Floats CvtPhPs(__m256i v) {
  Floats out;
  _mm256_store_ps(out.lane, _mm256_cvtph_ps(_mm256_castsi256_si128(v)));
  _mm256_store_ps(out.lane + 8, _mm256_cvtph_ps(_mm256_extracti128_si256(v, 1)));
  return out;
}
template <int kRounding>
inline __m256i CvtPsPh(const Floats& v) {
  return _mm256_set_m128i(_mm256_cvtps_ph(_mm256_load_ps(v.lane + 8), kRounding & 7),
                          _mm256_cvtps_ph(_mm256_load_ps(v.lane), kRounding & 7));
}
inline __m128i CvtsEpi32Epi8(const Ints& v) {
  alignas(16) int8_t bytes[16];
  for (int i = 0; i < 16; ++i) {
    const int32_t x = v.lane[i];
    bytes[i] = static_cast<int8_t>(x < -128 ? -128 : x > 127 ? 127 : x);
  }
  return _mm_load_si128(reinterpret_cast<const __m128i*>(bytes));
}

// ---- Integers ----

inline Ints AddEpi32(const Ints& a, const Ints& b) {
  return Halves(a, b, [](__m256i x, __m256i y) { return _mm256_add_epi32(x, y); });
}
inline Ints SubEpi32(const Ints& a, const Ints& b) {
  return Halves(a, b, [](__m256i x, __m256i y) { return _mm256_sub_epi32(x, y); });
}
inline Ints SubEpi8(const Ints& a, const Ints& b) {
  return Halves(a, b, [](__m256i x, __m256i y) { return _mm256_sub_epi8(x, y); });
}
inline Ints MulloEpi16(const Ints& a, const Ints& b) {
  return Halves(a, b, [](__m256i x, __m256i y) { return _mm256_mullo_epi16(x, y); });
}
inline Ints MulloEpi32(const Ints& a, const Ints& b) {
  return Halves(a, b, [](__m256i x, __m256i y) { return _mm256_mullo_epi32(x, y); });
}
inline Ints AndSi(const Ints& a, const Ints& b) {
  return MapInts([&](int i) { return a.lane[i] & b.lane[i]; });
}
inline Ints OrSi(const Ints& a, const Ints& b) {
  return MapInts([&](int i) { return a.lane[i] | b.lane[i]; });
}
inline Ints XorSi(const Ints& a, const Ints& b) {
  return MapInts([&](int i) { return a.lane[i] ^ b.lane[i]; });
}
inline Ints SlliEpi32(const Ints& a, unsigned n) {
  return MapInts([&](int i) { return Bits<int32_t>(Bits<uint32_t>(a.lane[i]) << n); });
}
inline Ints SrliEpi32(const Ints& a, unsigned n) {
  return MapInts([&](int i) { return Bits<int32_t>(Bits<uint32_t>(a.lane[i]) >> n); });
}
inline Ints SraiEpi32(const Ints& a, unsigned n) {
  return MapInts([&](int i) { return a.lane[i] >> n; });
}
inline Ints SlliEpi16(const Ints& a, int n) {
  return Halves(a, a, [=](__m256i x, __m256i) { return _mm256_slli_epi16(x, n); });
}
inline Ints SrliEpi16(const Ints& a, int n) {
  return Halves(a, a, [=](__m256i x, __m256i) { return _mm256_srli_epi16(x, n); });
}
inline Ints MaxEpi32(const Ints& a, const Ints& b) {
  return MapInts([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
}
inline int32_t ReduceAddEpi32(const Ints& a) {
  uint32_t sum = 0;
  for (const int32_t v : a.lane) sum += Bits<uint32_t>(v);
  return Bits<int32_t>(sum);
}
inline int32_t ReduceMaxEpi32(const Ints& a) {
  int32_t max = a.lane[0];
  for (const int32_t v : a.lane) max = v > max ? v : max;
  return max;
}
// Four products of an unsigned byte of a and a signed one of b are added to a lane, wrapping.
inline Ints DpbusdEpi32(const Ints& sum, const Ints& a, const Ints& b) {
  return MapInts([&](int i) {
    int64_t s = sum.lane[i];
    for (int byte = 0; byte < 32; byte += 8) {
      const auto u = static_cast<uint8_t>(Bits<uint32_t>(a.lane[i]) >> byte);
      const auto v = static_cast<int8_t>(Bits<uint32_t>(b.lane[i]) >> byte);
      s += int64_t{u} * v;
    }
    return Wrap(s);
  });
}

// AMX: the eight tiles of a thread.
struct Tiles {
  uint8_t rows[8] = {};
  uint16_t bytes[8] = {};
  alignas(64) uint8_t data[8][16][64] = {};
};
inline thread_local Tiles tiles;

inline void TileLoadConfig(const void* config) {
  const uint8_t* bytes = static_cast<const uint8_t*>(config);
  for (int t = 0; t < 8; ++t) {
    __builtin_memcpy(&tiles.bytes[t], bytes + 16 + 2 * t, 2);
    tiles.rows[t] = bytes[48 + t];
  }
  __builtin_memset(tiles.data, 0, sizeof(tiles.data));
}
inline void TileRelease() { tiles = Tiles(); }
inline void TileZero(int t) { __builtin_memset(tiles.data[t], 0, sizeof(tiles.data[t])); }
inline void TileLoad(int t, const void* base, long stride) {
  TileZero(t);
  for (int r = 0; r < tiles.rows[t]; ++r) {
    __builtin_memcpy(tiles.data[t][r], static_cast<const uint8_t*>(base) + r * stride,
                     tiles.bytes[t]);
  }
}
inline void TileStore(int t, void* base, long stride) {
  for (int r = 0; r < tiles.rows[t]; ++r) {
    __builtin_memcpy(static_cast<uint8_t*>(base) + r * stride, tiles.data[t][r], tiles.bytes[t]);
  }
}
inline void TileDpbssd(int to, int a, int b) {
  for (int r = 0; r < tiles.rows[to]; ++r) {
    for (int n = 0; n < tiles.bytes[to] / 4; ++n) {
      int32_t sum = 0;
      __builtin_memcpy(&sum, tiles.data[to][r] + 4 * n, 4);
      for (int k = 0; k < tiles.bytes[a]; ++k) {
        sum += static_cast<int8_t>(tiles.data[a][r][k]) *
               static_cast<int8_t>(tiles.data[b][k / 4][4 * n + k % 4]);
      }
      __builtin_memcpy(tiles.data[to][r] + 4 * n, &sum, 4);
    }
  }
}

}  // namespace octet::emulated

#define __m512 ::octet::emulated::Floats
#define __m512i ::octet::emulated::Ints
#define __mmask16 ::octet::emulated::Mask16
#define _mm_maskz_loadu_epi8 ::octet::emulated::MaskzLoaduEpi8
#define _mm256_maskz_loadu_epi16 ::octet::emulated::MaskzLoaduEpi16
#define _mm512_add_epi32 ::octet::emulated::AddEpi32
#define _mm512_add_ps ::octet::emulated::AddPs
#define _mm512_and_si512 ::octet::emulated::AndSi
#define _mm512_castps512_ps256 ::octet::emulated::LowHalf
#define _mm512_castps_si512 ::octet::emulated::CastPsSi
#define _mm512_castsi512_ps ::octet::emulated::CastSiPs
// GCC makes macros of these two where it does not optimise.
#undef _mm512_cmp_ps_mask
#define _mm512_cmp_ps_mask(a, b, predicate) ::octet::emulated::CmpPsMask<predicate>(a, b)
#undef _mm512_cvtps_ph
#define _mm512_cvtps_ph(v, rounding) ::octet::emulated::CvtPsPh<rounding>(v)
#define _mm512_cvtepi32_ps ::octet::emulated::CvtEpi32Ps
#define _mm512_cvtepi8_epi32 ::octet::emulated::CvtEpi8Epi32
#define _mm512_cvtepu16_epi32 ::octet::emulated::CvtEpu16Epi32
#define _mm512_cvtepu8_epi32 ::octet::emulated::CvtEpu8Epi32
#define _mm512_cvtph_ps ::octet::emulated::CvtPhPs
#define _mm512_cvtps_epi32 ::octet::emulated::CvtPsEpi32
#define _mm512_cvtsepi32_epi8 ::octet::emulated::CvtsEpi32Epi8
#define _mm512_div_ps ::octet::emulated::DivPs
#define _mm512_dpbusd_epi32 ::octet::emulated::DpbusdEpi32
#undef _mm512_extractf32x8_ps
#define _mm512_extractf32x8_ps ::octet::emulated::Half
#define _mm512_fmadd_ps ::octet::emulated::FmaddPs
#define _mm512_load_si512 ::octet::emulated::LoadSi
#define _mm512_loadu_si512 ::octet::emulated::LoadSi
#define _mm512_loadu_ps ::octet::emulated::LoaduPs
#define _mm512_mask_blend_ps ::octet::emulated::MaskBlendPs
#define _mm512_mask_storeu_ps ::octet::emulated::MaskStoreuPs
#define _mm512_maskz_loadu_ps ::octet::emulated::MaskzLoaduPs
#define _mm512_max_epi32 ::octet::emulated::MaxEpi32
#define _mm512_max_ps ::octet::emulated::MaxPs
#define _mm512_mul_ps ::octet::emulated::MulPs
#define _mm512_mullo_epi16 ::octet::emulated::MulloEpi16
#define _mm512_mullo_epi32 ::octet::emulated::MulloEpi32
#define _mm512_or_si512 ::octet::emulated::OrSi
#define _mm512_reduce_add_epi32 ::octet::emulated::ReduceAddEpi32
#define _mm512_reduce_max_epi32 ::octet::emulated::ReduceMaxEpi32
#define _mm512_set1_epi16 ::octet::emulated::Set1Epi16
#define _mm512_set1_epi32 ::octet::emulated::Set1Epi32
#define _mm512_set1_epi8 ::octet::emulated::Set1Epi8
#define _mm512_set1_ps ::octet::emulated::Set1Ps
#define _mm512_setzero_ps ::octet::emulated::SetZeroPs
#define _mm512_setzero_si512 ::octet::emulated::SetZeroSi
#undef _mm512_slli_epi16
#undef _mm512_srli_epi16
#undef _mm512_slli_epi32
#undef _mm512_srai_epi32
#undef _mm512_srli_epi32
#define _mm512_slli_epi16 ::octet::emulated::SlliEpi16
#define _mm512_srli_epi16 ::octet::emulated::SrliEpi16
#define _mm512_slli_epi32 ::octet::emulated::SlliEpi32
#define _mm512_srai_epi32 ::octet::emulated::SraiEpi32
#define _mm512_srli_epi32 ::octet::emulated::SrliEpi32
#define _mm512_store_si512 ::octet::emulated::StoreSi
#define _mm512_storeu_ps ::octet::emulated::StoreuPs
#define _mm512_sub_epi8 ::octet::emulated::SubEpi8
#define _mm512_sub_epi32 ::octet::emulated::SubEpi32
#define _mm512_sub_ps ::octet::emulated::SubPs
#define _mm512_xor_si512 ::octet::emulated::XorSi
#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbssd
#define _tile_loadconfig ::octet::emulated::TileLoadConfig
#define _tile_release ::octet::emulated::TileRelease
#define _tile_loadd ::octet::emulated::TileLoad
#define _tile_stored ::octet::emulated::TileStore
#define _tile_zero ::octet::emulated::TileZero
#define _tile_dpbssd ::octet::emulated::TileDpbssd

#endif  // OCTET_KERNELS_X86_EMULATED_AVX512_INTRINSICS_H_
