// Integer products with AVX-512 VNNI: unsigned codes times signed activations, 16 outputs a
// register. Included by level_avx512.cc alone.
#ifndef OCTET_KERNELS_X86_INT_AVX512_H_
#define OCTET_KERNELS_X86_INT_AVX512_H_

#include "kernels/x86/kernel_table.h"
#include "kernels/x86/vec16_avx512.h"

namespace octet::avx512 {

enum class Codes { kNibbles, kBytes, kSigned };
enum class Scales { kF16, kF16Min, kSuper, kHalves };

inline constexpr int32_t kSignedOffset = 128;
inline constexpr int32_t kNibbleBiasMask = -1;

// Eight registers hold the codes of a unit: register j the elements k = 4j .. 4j+3 of 16 outputs.
template <Codes kCodes>
inline void LoadCodes(const uint8_t* values, size_t u, __m512i* codes) {
  if constexpr (kCodes == Codes::kNibbles) {
    const __m512i* p = reinterpret_cast<const __m512i*>(values + u * 256);
    const __m512i mask = _mm512_set1_epi8(15);
    for (int j = 0; j < 4; ++j) {
      const __m512i both = _mm512_load_si512(p + j);
      codes[2 * j] = _mm512_and_si512(both, mask);
      codes[2 * j + 1] = _mm512_and_si512(_mm512_srli_epi32(both, 4), mask);
    }
  } else {
    const __m512i* p = reinterpret_cast<const __m512i*>(values + u * 512);
    for (int j = 0; j < 8; ++j) {
      codes[j] = _mm512_load_si512(p + j);
      if constexpr (kCodes == Codes::kSigned) {
        codes[j] = _mm512_xor_si512(codes[j], _mm512_set1_epi8(-128));
      }
    }
  }
}

inline __m512 LoadF16Row(const uint8_t* p) {
  return _mm512_cvtph_ps(_mm256_load_si256(reinterpret_cast<const __m256i*>(p)));
}

// Scales of a unit: of its weight group, or of both halves where groups are 16 long.
struct UnitScales {
  __m512 scale;
  __m512 other;  // minimum, or the scale of the second half
};

template <Scales kScales>
inline UnitScales LoadScales(const IntMatrix& w, const uint8_t* panel, size_t u) {
  UnitScales out;
  const uint8_t* second = panel + w.second;
  if constexpr (kScales == Scales::kF16 || kScales == Scales::kF16Min) {
    const size_t group = u / w.units_per_group;
    out.scale = LoadF16Row(panel + group * 32);
    out.other = kScales == Scales::kF16Min ? LoadF16Row(second + group * 32) : Zero();
  } else if constexpr (kScales == Scales::kSuper) {
    const __m128i* f = reinterpret_cast<const __m128i*>(second + u * 32);
    const __m512 d = LoadF16Row(panel + u / 8 * 64);
    const __m512 m = LoadF16Row(panel + u / 8 * 64 + 32);
    out.scale = Mul(d, _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_load_si128(f))));
    out.other = Negate(Mul(m, _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_load_si128(f + 1)))));
  } else {
    const __m128i* f = reinterpret_cast<const __m128i*>(second + u * 32);
    const __m512 d = LoadF16Row(panel + u / 8 * 32);
    out.scale = Mul(d, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_load_si128(f))));
    out.other = Mul(d, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_load_si128(f + 1))));
  }
  return out;
}

inline __m512i Dot4(__m512i acc, __m512i codes, const int8_t* q) {
  int32_t four;
  __builtin_memcpy(&four, q, 4);
  return _mm512_dpbusd_epi32(acc, codes, _mm512_set1_epi32(four));
}

// Adds unit u of rows [r, r + kRows) to acc, and with kCheck its dots to `check`. `carry` holds the
// dots of groups longer than a unit.
template <Scales kScales, bool kWide, bool kCheck, int kRows>
inline void AddUnit(const IntTile& t, size_t u, size_t r, size_t units_per_group,
                    const __m512i* codes, const UnitScales& s, __m512* acc, __m512i* carry,
                    __m512i* check) {
  const size_t at = u * t.rows + r;
  const int8_t* q = t.q + at * kUnit;
  __m512i dot[kRows];
  if constexpr (kScales == Scales::kHalves) {
    const int32_t* low = t.bias + 2 * u * t.rows + r;
    const int32_t* high = low + t.rows;
    __m512i second[kRows];
    for (int i = 0; i < kRows; ++i) dot[i] = _mm512_set1_epi32(low[i]);
    for (int i = 0; i < kRows; ++i) second[i] = _mm512_set1_epi32(high[i]);
    for (int j = 0; j < 4; ++j) {
      for (int i = 0; i < kRows; ++i) {
        dot[i] = Dot4(dot[i], codes[j], q + i * kUnit + 4 * j);
        second[i] = Dot4(second[i], codes[j + 4], q + i * kUnit + 4 * j + 16);
      }
    }
    for (int i = 0; i < kRows; ++i) {
      const __m512 a = Set1(t.scales[at + i]);
      acc[i] = Fma(_mm512_cvtepi32_ps(dot[i]), Mul(s.scale, a), acc[i]);
      acc[i] = Fma(_mm512_cvtepi32_ps(second[i]), Mul(s.other, a), acc[i]);
      if constexpr (kCheck) {
        check[i] = _mm512_add_epi32(check[i], _mm512_add_epi32(dot[i], second[i]));
      }
    }
    return;
  }
  for (int i = 0; i < kRows; ++i) dot[i] = _mm512_set1_epi32(t.bias[at + i]);
  for (int j = 0; j < 8; ++j) {
    for (int i = 0; i < kRows; ++i) dot[i] = Dot4(dot[i], codes[j], q + i * kUnit + 4 * j);
  }
  if constexpr (kWide) {
    const size_t part = u % units_per_group;
    for (int i = 0; i < kRows && part != 0; ++i) dot[i] = _mm512_add_epi32(dot[i], carry[i]);
    if (part + 1 != units_per_group) {
      for (int i = 0; i < kRows; ++i) carry[i] = dot[i];
      return;
    }
  }
  for (int i = 0; i < kRows; ++i) {
    const __m512 a = Set1(t.scales[at + i]);
    acc[i] = Fma(_mm512_cvtepi32_ps(dot[i]), Mul(s.scale, a), acc[i]);
    if constexpr (kScales == Scales::kF16Min || kScales == Scales::kSuper) {
      acc[i] = Fma(Set1(t.sums[at + i]), Mul(s.other, a), acc[i]);
    }
    if constexpr (kCheck) check[i] = _mm512_add_epi32(check[i], dot[i]);
  }
}

inline void AddCheck(__m512i check, uint32_t* sum) {
  *sum += static_cast<uint32_t>(_mm512_reduce_add_epi32(check));
}

inline uint32_t ColumnDot(const uint32_t* column, const int8_t* q, size_t units, size_t stride) {
  __m512i sum = ZeroInt();
  for (size_t u = 0; u < units; ++u) {
    for (size_t i = 0; i < kUnit; i += 16) {
      const __m512i x = _mm512_cvtepi8_epi32(
          _mm_loadu_si128(reinterpret_cast<const __m128i*>(q + u * stride + i)));
      sum =
          _mm512_add_epi32(sum, _mm512_mullo_epi32(x, _mm512_loadu_si512(column + u * kUnit + i)));
    }
  }
  return static_cast<uint32_t>(_mm512_reduce_add_epi32(sum));
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
  for (size_t i = 0; i < kBytes; i += 64) _mm_prefetch(p + i, _MM_HINT_T1);
}

// All rows of kPanels panels in registers. Panels go side by side: each is a stream of memory of
// its own, and several together hide its latency.
template <Codes kCodes, Scales kScales, bool kWide, bool kCheck, int kRows, int kPanels>
inline void FewRows(const IntMatrix& w, const IntTile& t, const uint8_t* panel, float* out) {
  __m512 acc[kPanels][kRows];
  __m512i carry[kPanels][kRows];
  __m512i check[kRows];
  for (int i = 0; i < kRows; ++i) check[i] = ZeroInt();
  for (int p = 0; p < kPanels; ++p) {
    for (int i = 0; i < kRows; ++i) {
      acc[p][i] = Zero();
      carry[p][i] = ZeroInt();
    }
  }
  for (size_t u = 0; u < w.units; ++u) {
    for (int p = 0; p < kPanels; ++p) {
      const uint8_t* own = panel + p * w.panel_bytes;
      __m512i codes[8];
      PrefetchUnit<kCodes>(w, own, u, kPanels);
      LoadCodes<kCodes>(own + w.values, u, codes);
      const UnitScales s = LoadScales<kScales>(w, own, u);
      AddUnit<kScales, kWide, kCheck, kRows>(t, u, 0, w.units_per_group, codes, s, acc[p], carry[p],
                                             check);
    }
  }
  for (int i = 0; kCheck && i < kRows; ++i) AddCheck(check[i], t.checks + i);
  for (int p = 0; p < kPanels; ++p) {
    for (int i = 0; i < kRows; ++i) Store(out + 16 * (p * kRows + i), acc[p][i]);
  }
}

// Rows [r, r + kRows), whose accumulators live in `out`.
template <Scales kScales, bool kWide, bool kCheck, int kRows>
inline void StepRows(const IntMatrix& w, const IntTile& t, size_t u, size_t r, const __m512i* codes,
                     const UnitScales& s, float* out, __m512i* carry, __m512i* check) {
  __m512 acc[kRows];
  for (int i = 0; i < kRows; ++i) acc[i] = Load(out + 16 * (r + i));
  AddUnit<kScales, kWide, kCheck, kRows>(t, u, r, w.units_per_group, codes, s, acc, carry + r,
                                         check + (kCheck ? r : 0));
  for (int i = 0; i < kRows; ++i) Store(out + 16 * (r + i), acc[i]);
}

template <Codes kCodes, Scales kScales, bool kWide, bool kCheck>
inline void ManyRows(const IntMatrix& w, const IntTile& t, const uint8_t* panel, float* out) {
  __m512i carry[kWide ? kTileRows : 1];
  __m512i check[kCheck ? kTileRows : 1];
  for (size_t i = 0; kCheck && i < t.rows; ++i) check[i] = ZeroInt();
  for (size_t i = 0; i < t.rows; ++i) Store(out + 16 * i, Zero());
  for (size_t u = 0; u < w.units; ++u) {
    PrefetchUnit<kCodes>(w, panel, u, 1);
    __m512i codes[8];
    LoadCodes<kCodes>(panel + w.values, u, codes);
    const UnitScales s = LoadScales<kScales>(w, panel, u);
    const auto step = [&]<int kRows>(size_t r) {
      StepRows<kScales, kWide, kCheck, kRows>(w, t, u, r, codes, s, out, carry, check);
    };
    size_t r = 0;
    if constexpr (kScales != Scales::kHalves) {  // two sums a row: eight rows would not fit
      for (; r + 8 <= t.rows; r += 8) step.template operator()<8>(r);
    }
    for (; r + 4 <= t.rows; r += 4) step.template operator()<4>(r);
    for (; r < t.rows; ++r) step.template operator()<1>(r);
  }
  for (size_t i = 0; kCheck && i < t.rows; ++i) AddCheck(check[i], t.checks + i);
}

template <Codes kCodes, Scales kScales, bool kWide, bool kCheck, int kRows>
void PanelGroup(const IntMatrix& w, const IntTile& t, size_t p, size_t count, float* out) {
  constexpr int kPanels = kRows == 1 ? 8 : 4;
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

}  // namespace octet::avx512

#endif  // OCTET_KERNELS_X86_INT_AVX512_H_
