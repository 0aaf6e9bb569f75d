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

// Steps of vpmaddubsw whose int16 sums cannot overflow: a step adds at most 2 * 127 * code.
template <Codes kCodes>
constexpr int kSteps = kCodes == Codes::kNibbles ? 8
                       : kCodes == Codes::kFive  ? 4
                                                 : 2;

// Eight registers hold the codes of a unit for 8 outputs: register j the elements 4j .. 4j+3.
template <Codes kCodes>
inline void LoadCodes(const uint8_t* values, size_t u, int half, __m256i* codes) {
  if constexpr (kCodes == Codes::kNibbles) {
    const __m256i mask = _mm256_set1_epi8(15);
    for (int j = 0; j < 4; ++j) {
      const __m256i both = _mm256_load_si256(
          reinterpret_cast<const __m256i*>(values + u * 256 + j * 64 + half * 32));
      codes[2 * j] = _mm256_and_si256(both, mask);
      codes[2 * j + 1] = _mm256_and_si256(_mm256_srli_epi32(both, 4), mask);
    }
  } else {
    for (int j = 0; j < 8; ++j) {
      codes[j] = _mm256_load_si256(
          reinterpret_cast<const __m256i*>(values + u * 512 + j * 64 + half * 32));
    }
  }
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

template <Scales kScales>
inline UnitScales LoadScales(const IntMatrix& w, const uint8_t* panel, size_t u, int half) {
  UnitScales out;
  const uint8_t* second = panel + w.second;
  if constexpr (kScales == Scales::kF16 || kScales == Scales::kF16Min) {
    const size_t group = u / w.units_per_group;
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

// Dot of codes [4 begin, 4 end) with four times as many activations, for 8 outputs.
template <Codes kCodes>
inline __m256i DotRange(const __m256i* codes, const int8_t* q, int begin, int end) {
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i dot = _mm256_setzero_si256();
  constexpr int kStep = kCodes == Codes::kSigned ? 1 : kSteps<kCodes>;
  for (int j = begin; j < end; j += kStep) {
    __m256i sum = _mm256_setzero_si256();
    for (int i = j; i < j + kStep; ++i) {
      int32_t four;
      __builtin_memcpy(&four, q + 4 * i, 4);
      const __m256i x = _mm256_set1_epi32(four);
      if constexpr (kCodes == Codes::kSigned) {
        // |w| * (x with w's sign): a pair is at most 2 * 128 * 127.
        sum = _mm256_maddubs_epi16(_mm256_abs_epi8(codes[i]), _mm256_sign_epi8(x, codes[i]));
      } else {
        const __m256i pairs = _mm256_maddubs_epi16(codes[i], x);
        sum = i == j ? pairs : _mm256_add_epi16(sum, pairs);
      }
    }
    const __m256i wide = _mm256_madd_epi16(sum, ones);
    dot = j == begin ? wide : _mm256_add_epi32(dot, wide);
  }
  return dot;
}

inline __m256 AddScaled(__m256i dot, int32_t bias, __m256 scale, __m256 acc) {
  const __m256i exact = _mm256_add_epi32(dot, _mm256_set1_epi32(bias));
  return _mm256_fmadd_ps(_mm256_cvtepi32_ps(exact), scale, acc);
}

// Adds unit u of row r to acc. `carry` holds the dot of groups longer than a unit.
template <Codes kCodes, Scales kScales, bool kWide>
inline __m256 AddUnit(const IntTile& t, size_t u, size_t r, size_t units_per_group,
                      const __m256i* codes, const UnitScales& s, __m256 acc, __m256i* carry) {
  const size_t at = u * t.rows + r;
  const int8_t* q = t.q + at * kUnit;
  const __m256 a = _mm256_set1_ps(t.scales[at]);
  if constexpr (kScales == Scales::kHalves) {
    const int32_t* bias = t.bias + 2 * u * t.rows + r;
    acc = AddScaled(DotRange<kCodes>(codes, q, 0, 4), bias[0], _mm256_mul_ps(s.scale, a), acc);
    return AddScaled(DotRange<kCodes>(codes, q, 4, 8), bias[t.rows], _mm256_mul_ps(s.other, a),
                     acc);
  }
  __m256i dot = DotRange<kCodes>(codes, q, 0, 8);
  if constexpr (kWide) {
    const size_t part = u % units_per_group;
    dot = _mm256_add_epi32(dot, _mm256_set1_epi32(t.bias[at]));
    if (part != 0) dot = _mm256_add_epi32(dot, *carry);
    if (part + 1 != units_per_group) {
      *carry = dot;
      return acc;
    }
    return AddScaled(dot, 0, _mm256_mul_ps(s.scale, a), acc);
  }
  acc = AddScaled(dot, t.bias[at], _mm256_mul_ps(s.scale, a), acc);
  if constexpr (kScales == Scales::kF16Min || kScales == Scales::kSuper) {
    acc = _mm256_fmadd_ps(_mm256_set1_ps(t.sums[at]), _mm256_mul_ps(s.other, a), acc);
  }
  return acc;
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

// All rows of kPanels panels in registers. Panels go side by side: each is a stream of memory of
// its own, and several together hide its latency.
template <Codes kCodes, Scales kScales, bool kWide, int kRows, int kPanels>
inline void FewRows(const IntMatrix& w, const IntTile& t, const uint8_t* panel, float* out) {
  __m256 acc[kPanels][kRows][2];
  __m256i carry[kPanels][kRows][2];
  for (int p = 0; p < kPanels; ++p) {
    for (int i = 0; i < kRows; ++i) {
      acc[p][i][0] = acc[p][i][1] = _mm256_setzero_ps();
      carry[p][i][0] = carry[p][i][1] = _mm256_setzero_si256();
    }
  }
  for (size_t u = 0; u < w.units; ++u) {
    for (int p = 0; p < kPanels; ++p) {
      const uint8_t* own = panel + p * w.panel_bytes;
      PrefetchUnit<kCodes>(w, own, u, kPanels);
      for (int half = 0; half < 2; ++half) {
        __m256i codes[8];
        LoadCodes<kCodes>(own + w.values, u, half, codes);
        const UnitScales s = LoadScales<kScales>(w, own, u, half);
        for (int i = 0; i < kRows; ++i) {
          acc[p][i][half] =
              AddUnit<kCodes, kScales, kWide>(t, u, static_cast<size_t>(i), w.units_per_group,
                                              codes, s, acc[p][i][half], &carry[p][i][half]);
        }
      }
    }
  }
  for (int p = 0; p < kPanels; ++p) {
    for (int i = 0; i < kRows; ++i) {
      _mm256_storeu_ps(out + 16 * (p * kRows + i), acc[p][i][0]);
      _mm256_storeu_ps(out + 16 * (p * kRows + i) + 8, acc[p][i][1]);
    }
  }
}

// The accumulators live in `out`.
template <Codes kCodes, Scales kScales, bool kWide>
inline void ManyRows(const IntMatrix& w, const IntTile& t, const uint8_t* panel, float* out) {
  __m256i carry[kWide ? 2 * kTileRows : 1];
  for (size_t i = 0; i < t.rows; ++i) Store(out + 16 * i, Zero());
  for (size_t u = 0; u < w.units; ++u) {
    PrefetchUnit<kCodes>(w, panel, u, 1);
    for (int half = 0; half < 2; ++half) {
      __m256i codes[8];
      LoadCodes<kCodes>(panel + w.values, u, half, codes);
      const UnitScales s = LoadScales<kScales>(w, panel, u, half);
      for (size_t r = 0; r < t.rows; ++r) {
        float* acc = out + 16 * r + 8 * half;
        const size_t slot = kWide ? 2 * r + half : 0;
        _mm256_storeu_ps(acc, AddUnit<kCodes, kScales, kWide>(t, u, r, w.units_per_group, codes, s,
                                                              _mm256_loadu_ps(acc), carry + slot));
      }
    }
  }
}

template <Codes kCodes, Scales kScales, bool kWide, int kRows>
void PanelGroup(const IntMatrix& w, const IntTile& t, size_t p, size_t count, float* out) {
  constexpr int kPanels = kRows == 1 ? 4 : 2;
  for (; count >= kPanels; count -= kPanels, p += kPanels, out += kPanels * kRows * 16) {
    FewRows<kCodes, kScales, kWide, kRows, kPanels>(w, t, w.data + p * w.panel_bytes, out);
  }
  for (; count > 0; --count, ++p, out += kRows * 16) {
    FewRows<kCodes, kScales, kWide, kRows, 1>(w, t, w.data + p * w.panel_bytes, out);
  }
}

template <Codes kCodes, Scales kScales, bool kWide>
void IntPanels(const IntMatrix& w, const IntTile& t, size_t p, size_t count, float* out) {
  switch (t.rows) {
    case 1:
      return PanelGroup<kCodes, kScales, kWide, 1>(w, t, p, count, out);
    case 2:
      return PanelGroup<kCodes, kScales, kWide, 2>(w, t, p, count, out);
    default:
      for (; count > 0; --count, ++p, out += t.rows * 16) {
        ManyRows<kCodes, kScales, kWide>(w, t, w.data + p * w.panel_bytes, out);
      }
  }
}

}  // namespace octet::avx2

#endif  // OCTET_KERNELS_X86_INT_AVX2_H_
