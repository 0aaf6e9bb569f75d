// w4x products with AVX2: no float work along K. A panel is done in two halves of 8 outputs. Pairs
// of products (code times activation) are summed in 16 bits over a unit; the sums start at what the
// offset of the codes takes away, so that at the end they are those of code - 8 and at most 8 * 128
// * 16 in magnitude, whatever they wrapped through. The group's factor then multiplies and widens
// them in one instruction. Included by level_avx2.cc alone.
#ifndef OCTET_KERNELS_X86_W4X_AVX2_H_
#define OCTET_KERNELS_X86_W4X_AVX2_H_

#include "kernels/x86/int_avx2.h"
#include "kernels/x86/kernel_table.h"

namespace octet::avx2 {

// Two int16 a unit: -8 times the sums of the elements k with k % 4 < 2, and of the others.
inline void W4xBias(const int8_t* q, size_t units, size_t stride, int32_t* bias) {
  const __m256i ones = _mm256_set1_epi8(1);
  for (size_t u = 0; u < units; ++u) {
    const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q + u * kUnit));
    const __m256i pairs = _mm256_maddubs_epi16(ones, x);
    __m128i sum = _mm_add_epi16(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
    sum = _mm_add_epi16(sum, _mm_srli_si128(sum, 8));
    sum = _mm_add_epi16(sum, _mm_srli_si128(sum, 4));
    bias[u * stride] =
        _mm_cvtsi128_si32(_mm_sub_epi16(_mm_setzero_si128(), _mm_slli_epi16(sum, 3)));
  }
}

// The codes of unit u for 8 outputs: register j the elements 4j .. 4j+3.
inline void LoadW4xCodes(const uint8_t* values, size_t u, int half, __m256i* codes) {
  const uint8_t* unit = UnitCodes<Codes::kNibbles>(values, u);
  for (int j = 0; j < 8; ++j) codes[j] = LoadCodes<true>(unit, j, half);
}

// The factors of 8 outputs, each twice as int16.
inline __m256i LoadFactors(const W4xMatrix& w, const uint8_t* panel, size_t u, int half) {
  const uint8_t* p = panel + w.factors + u / w.units_per_group * 16 + 8 * half;
  const __m256i wide = _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  return _mm256_shuffle_epi8(
      wide, _mm256_setr_epi8(0, 1, 0, 1, 4, 5, 4, 5, 8, 9, 8, 9, 12, 13, 12, 13, 0, 1, 0, 1, 4, 5,
                             4, 5, 8, 9, 8, 9, 12, 13, 12, 13));
}

// acc plus factor * (code - 8) * activation over a unit, for 8 outputs.
inline __m256i AddW4xUnit(const __m256i* codes, __m256i factors, const int8_t* q, int32_t bias,
                          __m256i acc) {
  __m256i sum = _mm256_set1_epi32(bias);
  for (int j = 0; j < 8; ++j) {
    int32_t four;
    __builtin_memcpy(&four, q + 4 * j, 4);
    sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(codes[j], _mm256_set1_epi32(four)));
  }
  return _mm256_add_epi32(acc, _mm256_madd_epi16(sum, factors));
}

// float(acc) * (scale of the output * scale of the row).
inline void StoreW4x(__m256i acc, const uint8_t* panel, int half, float row_scale, float* out) {
  const __m256 scale = _mm256_loadu_ps(reinterpret_cast<const float*>(panel) + 8 * half);
  _mm256_storeu_ps(
      out, _mm256_mul_ps(_mm256_cvtepi32_ps(acc), _mm256_mul_ps(scale, _mm256_set1_ps(row_scale))));
}

// Prefetches for unit u of a panel that is one of `stride` that go side by side, as PrefetchUnit.
inline void PrefetchW4x(const W4xMatrix& w, const uint8_t* panel, size_t u, size_t stride) {
  size_t ahead = w.values + u * 256 + kPrefetchBytes;
  if (ahead >= w.panel_bytes) ahead += (stride - 1) * w.panel_bytes;
  const uint8_t* p = panel + ahead;
  for (size_t i = 0; i < 256; i += 64)
    _mm_prefetch(reinterpret_cast<const char*>(p + i), _MM_HINT_T1);
}

// All rows of kPanels panels in registers, side by side as FewRows.
template <int kRows, int kPanels>
inline void W4xFewRows(const W4xMatrix& w, const W4xTile& t, const uint8_t* panel, float* out) {
  __m256i acc[kPanels][kRows][2];
  for (int p = 0; p < kPanels; ++p) {
    for (int i = 0; i < kRows; ++i) acc[p][i][0] = acc[p][i][1] = _mm256_setzero_si256();
  }
  for (size_t u = 0; u < w.units; ++u) {
    for (int p = 0; p < kPanels; ++p) {
      const uint8_t* own = panel + p * w.panel_bytes;
      PrefetchW4x(w, own, u, kPanels);
      for (int half = 0; half < 2; ++half) {
        __m256i codes[8];
        LoadW4xCodes(own + w.values, u, half, codes);
        const __m256i factors = LoadFactors(w, own, u, half);
        for (int i = 0; i < kRows; ++i) {
          acc[p][i][half] = AddW4xUnit(codes, factors, t.q[i] + u * kUnit,
                                       t.bias[u * kRows + static_cast<size_t>(i)], acc[p][i][half]);
        }
      }
    }
  }
  for (int p = 0; p < kPanels; ++p) {
    for (int i = 0; i < kRows; ++i) {
      for (int half = 0; half < 2; ++half) {
        StoreW4x(acc[p][i][half], panel + p * w.panel_bytes, half, t.scales[i],
                 out + 16 * (p * kRows + i) + 8 * half);
        if (t.checks != nullptr) AddCheck(acc[p][i][half], t.checks + i);
      }
    }
  }
}

// The accumulators live in memory.
inline void W4xManyRows(const W4xMatrix& w, const W4xTile& t, const uint8_t* panel, float* out) {
  __m256i acc[kTileRows][2];
  for (size_t r = 0; r < t.rows; ++r) acc[r][0] = acc[r][1] = _mm256_setzero_si256();
  for (size_t u = 0; u < w.units; ++u) {
    PrefetchW4x(w, panel, u, 1);
    for (int half = 0; half < 2; ++half) {
      __m256i codes[8];
      LoadW4xCodes(panel + w.values, u, half, codes);
      const __m256i factors = LoadFactors(w, panel, u, half);
      for (size_t r = 0; r < t.rows; ++r) {
        acc[r][half] =
            AddW4xUnit(codes, factors, t.q[r] + u * kUnit, t.bias[u * t.rows + r], acc[r][half]);
      }
    }
  }
  for (size_t r = 0; r < t.rows; ++r) {
    for (int half = 0; half < 2; ++half) {
      StoreW4x(acc[r][half], panel, half, t.scales[r], out + 16 * r + 8 * half);
      if (t.checks != nullptr) AddCheck(acc[r][half], t.checks + r);
    }
  }
}

template <int kRows>
void W4xPanelGroup(const W4xMatrix& w, const W4xTile& t, size_t p, size_t count, float* out) {
  constexpr int kPanels = kRows == 1 ? 4 : 2;
  for (; count >= kPanels; count -= kPanels, p += kPanels, out += kPanels * kRows * 16) {
    W4xFewRows<kRows, kPanels>(w, t, w.data + p * w.panel_bytes, out);
  }
  for (; count > 0; --count, ++p, out += kRows * 16) {
    W4xFewRows<kRows, 1>(w, t, w.data + p * w.panel_bytes, out);
  }
}

inline void W4xPanels(const W4xMatrix& w, const W4xTile& t, size_t p, size_t count, float* out) {
  switch (t.rows) {
    case 1:
      return W4xPanelGroup<1>(w, t, p, count, out);
    case 2:
      return W4xPanelGroup<2>(w, t, p, count, out);
    default:
      for (; count > 0; --count, ++p, out += t.rows * 16) {
        W4xManyRows(w, t, w.data + p * w.panel_bytes, out);
      }
  }
}

}  // namespace octet::avx2

#endif  // OCTET_KERNELS_X86_W4X_AVX2_H_
