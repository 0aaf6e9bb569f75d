// Integer products with AVX2. A panel is done in two halves of 8 outputs; pairs of products are
// summed in 16 bits for as many steps as cannot overflow, then widened. Included by level_avx2.cc
// alone.
#ifndef OCTET_KERNELS_X86_INT_AVX2_H_
#define OCTET_KERNELS_X86_INT_AVX2_H_

#include "kernels/x86/kernel_table.h"
#include "kernels/x86/vec16_avx2.h"

namespace octet::avx2 {

// By their largest value: 15, 31, 63, or signed bytes.
enum class Codes { kNibbles, kFive, kSix, kSigned };
enum class Scales { kF16, kF16Min, kSuper, kHalves };

inline constexpr int32_t kSignedOffset = 0;
inline constexpr int32_t kNibbleBiasMask = 0xffff;

// Steps of vpmaddubsw whose int16 sums cannot overflow: a step adds at most 2 * 127 * code.
template <Codes kCodes>
constexpr int kSteps = kCodes == Codes::kNibbles ? 8
                       : kCodes == Codes::kFive  ? 4
                       : kCodes == Codes::kSix   ? 2
                                                 : 1;

// Keeps the compiler from moving the computation of v or the loads through p: left alone it
// reassociates sums, or hoists loads out of the loop over rows, and then spills registers.
inline void Pin(__m256i& v) { asm("" : "+x"(v)); }
inline void Pin(const uint8_t*& p) { asm("" : "+r"(p)); }

inline __m256i LoadInts(const uint8_t* p) {
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(p));
}
inline __m256i BroadcastFour(const int8_t* q) {
  int32_t four;
  __builtin_memcpy(&four, q, 4);
  return _mm256_set1_epi32(four);
}

// Where the codes of unit u start.
template <Codes kCodes>
inline const uint8_t* UnitCodes(const uint8_t* values, size_t u) {
  return values + u * (kCodes == Codes::kNibbles ? 256 : 512);
}

// Elements 4j .. 4j+3 of the codes of a unit, for the 8 outputs of a half. kPacked: two codes a
// byte, as they stand in a panel.
template <bool kPacked>
inline __m256i LoadCodes(const uint8_t* codes, int j, int half) {
  if constexpr (kPacked) {
    const __m256i both = LoadInts(codes + j / 2 * 64 + half * 32);
    return _mm256_and_si256(j % 2 == 0 ? both : _mm256_srli_epi32(both, 4), _mm256_set1_epi8(15));
  }
  return LoadInts(codes + j * 64 + half * 32);
}

// The codes of a unit a byte each; `out` has room for 512.
template <Codes kCodes>
inline const uint8_t* UnpackCodes(const uint8_t* codes, uint8_t* out) {
  if constexpr (kCodes != Codes::kNibbles) return codes;
  for (int j = 0; j < 8; ++j) {
    for (int half = 0; half < 2; ++half) {
      _mm256_store_si256(reinterpret_cast<__m256i*>(out + j * 64 + half * 32),
                         LoadCodes<true>(codes, j, half));
    }
  }
  return out;
}

inline __m256 LoadF16Half(const uint8_t* p, int half) {
  return _mm256_cvtph_ps(_mm_load_si128(reinterpret_cast<const __m128i*>(p) + half));
}
inline __m256 BytesToFloat(const uint8_t* p) {
  return _mm256_cvtepi32_ps(
      _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
inline __m256 SignedBytesToFloat(const uint8_t* p) {
  return _mm256_cvtepi32_ps(
      _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}

// Scales of a unit: of its weight group, or of both halves of K where groups are 16 long.
struct UnitScales {
  __m256 scale;
  __m256 other;  // minimum, or the scale of the second 16
};

// `group` is that of unit u where groups are longer than a unit.
template <Scales kScales>
inline UnitScales LoadScales(const IntMatrix& w, const uint8_t* panel, size_t u, size_t group,
                             int half) {
  UnitScales out;
  const uint8_t* second = panel + w.second;
  if constexpr (kScales == Scales::kF16 || kScales == Scales::kF16Min) {
    out.scale = LoadF16Half(panel + group * 32, half);
    out.other =
        kScales == Scales::kF16Min ? LoadF16Half(second + group * 32, half) : _mm256_setzero_ps();
  } else if constexpr (kScales == Scales::kSuper) {
    const uint8_t* f = second + u * 32 + 8 * half;
    const __m256 m =
        _mm256_mul_ps(LoadF16Half(panel + u / 8 * 64 + 32, half), BytesToFloat(f + 16));
    out.scale = _mm256_mul_ps(LoadF16Half(panel + u / 8 * 64, half), BytesToFloat(f));
    out.other = _mm256_xor_ps(m, _mm256_castsi256_ps(_mm256_set1_epi32(INT32_MIN)));
  } else {
    const uint8_t* f = second + u * 32 + 8 * half;
    const __m256 d = LoadF16Half(panel + u / 8 * 32, half);
    out.scale = _mm256_mul_ps(d, SignedBytesToFloat(f));
    out.other = _mm256_mul_ps(d, SignedBytesToFloat(f + 16));
  }
  return out;
}

// 16 sums of two products of codes and four activations.
template <Codes kCodes>
inline __m256i MultiplyPairs(__m256i w, __m256i x) {
  if constexpr (kCodes == Codes::kSigned) {
    // |w| * (x with w's sign): a pair is at most 2 * 128 * 127.
    return _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
  }
  return _mm256_maddubs_epi16(w, x);
}

// Adds to `dot` (kRows rows, 2 halves) the products of elements [4 begin, 4 end) of a unit, whose
// rows start at q. Of nibbles `dot` comes in as 16-bit lanes and leaves as 32-bit ones, else it is
// 32-bit throughout.
template <Codes kCodes, bool kPacked, int kRows>
inline void AddProducts(const uint8_t* codes, const int8_t* q, int begin, int end,
                        __m256i (&dot)[kRows][2]) {
  const __m256i ones = _mm256_set1_epi16(1);
  constexpr int kStep = kSteps<kCodes>;
  constexpr bool kSeeded = kCodes == Codes::kNibbles;
#pragma GCC unroll 8
  for (int first = begin; first < end; first += kStep) {
    __m256i sum[kRows][2];
#pragma GCC unroll 8
    for (int j = first; j < first + kStep; ++j) {
      const __m256i w[2] = {LoadCodes<kPacked>(codes, j, 0), LoadCodes<kPacked>(codes, j, 1)};
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        const __m256i x = BroadcastFour(q + i * kUnit + 4 * j);
#pragma GCC unroll 2
        for (int h = 0; h < 2; ++h) {
          __m256i& s = sum[i][h];
          const __m256i pairs = MultiplyPairs<kCodes>(w[h], x);
          s = j > first ? _mm256_add_epi16(s, pairs)
              : kSeeded ? _mm256_add_epi16(dot[i][h], pairs)
                        : pairs;
          Pin(s);
        }
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) {
        const __m256i wide = _mm256_madd_epi16(sum[i][h], ones);
        dot[i][h] = kSeeded ? wide : _mm256_add_epi32(dot[i][h], wide);
        Pin(dot[i][h]);
      }
    }
  }
}

// acc = fma(dot, scale * a, acc), both halves of kRows rows; acc is [row][16].
template <bool kMinimum, int kRows>
inline void AddScaled(const __m256i (&dot)[kRows][2], const float* a_scales, const float* sums,
                      const __m256 (&scale)[2], const __m256 (&minimum)[2], float* acc) {
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
    const __m256 a = _mm256_set1_ps(a_scales[i]);
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      float* out = acc + 16 * i + 8 * h;
      __m256 v = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[i][h]), _mm256_mul_ps(scale[h], a),
                                 _mm256_loadu_ps(out));
      if constexpr (kMinimum) {
        v = _mm256_fmadd_ps(_mm256_set1_ps(sums[i]), _mm256_mul_ps(minimum[h], a), v);
      }
      _mm256_storeu_ps(out, v);
    }
  }
}

// Where a unit of one panel is: its place in its weight group, its codes and scales.
struct UnitWeights {
  const uint8_t* codes;
  __m256 scale[2];
  __m256 other[2];
  bool first;  // of its group
  bool last;
};

template <Codes kCodes, Scales kScales, bool kWide>
inline UnitWeights LoadUnit(const IntMatrix& w, const uint8_t* panel, size_t u, size_t group,
                            size_t part) {
  UnitWeights out;
  out.codes = UnitCodes<kCodes>(panel + w.values, u);
#pragma GCC unroll 2
  for (int h = 0; h < 2; ++h) {
    const UnitScales s = LoadScales<kScales>(w, panel, u, group, h);
    out.scale[h] = s.scale;
    out.other[h] = s.other;
  }
  out.first = !kWide || part == 0;
  out.last = !kWide || part + 1 == w.units_per_group;
  return out;
}

// Adds unit u of rows [r, r + kRows) to acc, [kRows][16], and with kCheck its dots to check,
// [kRows]. `carry` [kRows][2] holds the dots of the units of a wide group that came before.
template <Codes kCodes, Scales kScales, bool kWide, bool kPacked, bool kCheck, int kRows>
inline void AddUnit(const IntTile& t, size_t u, size_t r, const UnitWeights& w, float* acc,
                    __m256i* carry, __m256i* check) {
  constexpr bool kHalves = kScales == Scales::kHalves;
  constexpr bool kMinimum = kScales == Scales::kF16Min || kScales == Scales::kSuper;
  const size_t at = u * t.rows + r;
  const int8_t* q = t.q + at * kUnit;
  const uint8_t* codes = w.codes;
  Pin(codes);
#pragma GCC unroll 2
  for (int pass = 0; pass < (kHalves ? 2 : 1); ++pass) {
    const int32_t* bias =
        kHalves ? t.bias + (2 * u + static_cast<size_t>(pass)) * t.rows + r : t.bias + at;
    __m256i dot[kRows][2];
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const bool none = kCodes == Codes::kSigned;
      dot[i][0] = dot[i][1] = none ? _mm256_setzero_si256() : _mm256_set1_epi32(bias[i]);
    }
    AddProducts<kCodes, kPacked>(codes, q, kHalves ? 4 * pass : 0, kHalves ? 4 * pass + 4 : 8, dot);
    if constexpr (kWide) {
      for (int i = 0; i < 2 * kRows && !w.first; ++i) {
        dot[i / 2][i % 2] = _mm256_add_epi32(dot[i / 2][i % 2], carry[i]);
      }
      if (!w.last) {
        for (int i = 0; i < 2 * kRows; ++i) carry[i] = dot[i / 2][i % 2];
        return;
      }
    }
    for (int i = 0; kCheck && i < kRows; ++i) {
      check[i] = _mm256_add_epi32(check[i], _mm256_add_epi32(dot[i][0], dot[i][1]));
    }
    AddScaled<kMinimum>(dot, t.scales + at, t.sums + at, pass == 0 ? w.scale : w.other, w.other,
                        acc);
  }
}

inline void AddCheck(__m256i check, uint32_t* sum) {
  __m128i four = _mm_add_epi32(_mm256_castsi256_si128(check), _mm256_extracti128_si256(check, 1));
  four = _mm_add_epi32(four, _mm_srli_si128(four, 8));
  four = _mm_add_epi32(four, _mm_srli_si128(four, 4));
  *sum += static_cast<uint32_t>(_mm_cvtsi128_si32(four));
}

inline uint32_t ColumnDot(const uint32_t* column, const int8_t* q, size_t units, size_t stride) {
  __m256i sum = _mm256_setzero_si256();
  for (size_t u = 0; u < units; ++u) {
    for (size_t i = 0; i < kUnit; i += 8) {
      const __m256i x = _mm256_cvtepi8_epi32(
          _mm_loadl_epi64(reinterpret_cast<const __m128i*>(q + u * stride + i)));
      const __m256i c =
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(column + u * kUnit + i));
      sum = _mm256_add_epi32(sum, _mm256_mullo_epi32(x, c));
    }
  }
  uint32_t all = 0;
  AddCheck(sum, &all);
  return all;
}

// Bytes ahead at which the value area is prefetched: into the second-level cache (several
// streams would crowd the first), past the page that hardware stops at.
inline constexpr size_t kPrefetchBytes = 4096;

// Prefetches for unit u of a panel that is one of `stride` that go side by side. What lies past
// its end is taken from the panel that follows it in the same stream.
template <Codes kCodes>
inline void PrefetchUnit(const IntMatrix& w, const uint8_t* panel, size_t u, size_t stride) {
  constexpr size_t kBytes = kCodes == Codes::kNibbles ? 256 : 512;
  size_t ahead = w.values + u * kBytes + kPrefetchBytes;
  if (ahead >= w.panel_bytes) ahead += (stride - 1) * w.panel_bytes;
  const uint8_t* p = panel + ahead;
  for (size_t i = 0; i < kBytes; i += 64)
    _mm_prefetch(reinterpret_cast<const char*>(p + i), _MM_HINT_T1);
}

// kRows rows of kPanels panels. Panels go side by side: each is a stream of memory of its own, and
// several together hide its latency.
template <Codes kCodes, Scales kScales, bool kWide, bool kCheck, int kRows, int kPanels>
inline void FewRows(const IntMatrix& w, const IntTile& t, const uint8_t* panel, float* out) {
  __m256i carry[kPanels][2 * kRows];
  __m256i check[kRows];
  for (int i = 0; i < kRows; ++i) check[i] = _mm256_setzero_si256();
  for (int i = 0; i < kPanels * kRows; ++i) Store(out + 16 * i, Zero());
  size_t group = 0, part = 0;
  for (size_t u = 0; u < w.units; ++u) {
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) {
      const uint8_t* own = panel + static_cast<size_t>(p) * w.panel_bytes;
      PrefetchUnit<kCodes>(w, own, u, kPanels);
      const UnitWeights unit = LoadUnit<kCodes, kScales, kWide>(w, own, u, kWide ? group : u, part);
      AddUnit<kCodes, kScales, kWide, kCodes == Codes::kNibbles, kCheck, kRows>(
          t, u, 0, unit, out + 16 * p * kRows, carry[p], check);
    }
    if (kWide && ++part == w.units_per_group) part = 0, ++group;
  }
  for (int i = 0; kCheck && i < kRows; ++i) AddCheck(check[i], t.checks + i);
}

// Any number of rows: the codes of a unit are unpacked once for all of them.
template <Codes kCodes, Scales kScales, bool kWide, bool kCheck>
inline void ManyRows(const IntMatrix& w, const IntTile& t, const uint8_t* panel, float* out) {
  alignas(64) uint8_t unpacked[512];
  __m256i carry[kWide ? 2 * kTileRows : 2];
  __m256i check[kCheck ? kTileRows : 1];
  for (size_t i = 0; kCheck && i < t.rows; ++i) check[i] = _mm256_setzero_si256();
  for (size_t i = 0; i < t.rows; ++i) Store(out + 16 * i, Zero());
  size_t group = 0, part = 0;
  for (size_t u = 0; u < w.units; ++u) {
    PrefetchUnit<kCodes>(w, panel, u, 1);
    UnitWeights unit = LoadUnit<kCodes, kScales, kWide>(w, panel, u, kWide ? group : u, part);
    unit.codes = UnpackCodes<kCodes>(unit.codes, unpacked);
    const auto add = [&]<int kRows>(size_t r) {
      AddUnit<kCodes, kScales, kWide, false, kCheck, kRows>(
          t, u, r, unit, out + 16 * r, carry + (kWide ? 2 * r : 0), check + (kCheck ? r : 0));
    };
    size_t r = 0;
    for (; r + 4 <= t.rows; r += 4) add.template operator()<4>(r);
    if (r + 2 <= t.rows) add.template operator()<2>(r), r += 2;
    if (r < t.rows) add.template operator()<1>(r);
    if (kWide && ++part == w.units_per_group) part = 0, ++group;
  }
  for (size_t i = 0; kCheck && i < t.rows; ++i) AddCheck(check[i], t.checks + i);
}

template <Codes kCodes, Scales kScales, bool kWide, bool kCheck, int kRows>
void PanelGroup(const IntMatrix& w, const IntTile& t, size_t p, size_t count, float* out) {
  constexpr int kPanels = kRows == 1 ? 4 : 2;
  for (; count >= kPanels; count -= kPanels, p += kPanels, out += kPanels * kRows * 16) {
    FewRows<kCodes, kScales, kWide, kCheck, kRows, kPanels>(w, t, w.data + p * w.panel_bytes, out);
  }
  for (; count > 0; --count, ++p, out += kRows * 16) {
    FewRows<kCodes, kScales, kWide, kCheck, kRows, 1>(w, t, w.data + p * w.panel_bytes, out);
  }
}

template <Codes kCodes, Scales kScales, bool kWide, bool kCheck>
void PanelsOfRows(const IntMatrix& w, const IntTile& t, size_t p, size_t count, float* out) {
  switch (t.rows) {
    case 1:
      return PanelGroup<kCodes, kScales, kWide, kCheck, 1>(w, t, p, count, out);
    case 2:
      return PanelGroup<kCodes, kScales, kWide, kCheck, 2>(w, t, p, count, out);
    case 3:
      return PanelGroup<kCodes, kScales, kWide, kCheck, 3>(w, t, p, count, out);
    case 4:
      return PanelGroup<kCodes, kScales, kWide, kCheck, 4>(w, t, p, count, out);
    default:
      for (; count > 0; --count, ++p, out += t.rows * 16) {
        ManyRows<kCodes, kScales, kWide, kCheck>(w, t, w.data + p * w.panel_bytes, out);
      }
  }
}

template <Codes kCodes, Scales kScales, bool kWide>
void IntPanels(const IntMatrix& w, const IntTile& t, size_t p, size_t count, float* out) {
  if (t.checks != nullptr) {
    PanelsOfRows<kCodes, kScales, kWide, true>(w, t, p, count, out);
  } else {
    PanelsOfRows<kCodes, kScales, kWide, false>(w, t, p, count, out);
  }
}

}  // namespace octet::avx2

#endif  // OCTET_KERNELS_X86_INT_AVX2_H_
