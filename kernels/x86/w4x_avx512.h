// w4x products with AVX-512 VNNI, 16 outputs a register. A few rows multiply the dot of each unit
// with the group's factor. For many rows the factor is first folded into the weights, which then
// are signed bytes (made unsigned by adding 128, which the start of the sum takes back): what is
// left along K is one vpdpbusd for four elements. Included by level_avx512.cc alone.
#ifndef OCTET_KERNELS_X86_W4X_AVX512_H_
#define OCTET_KERNELS_X86_W4X_AVX512_H_

#include "kernels/x86/int_avx512.h"
#include "kernels/x86/kernel_table.h"

namespace octet::avx512 {

// Units of a panel that are folded at once: 4 KiB, for the first-level cache.
inline constexpr size_t kFoldUnits = 8;

// -8 times the sum of a unit.
inline void W4xBias(const int8_t* q, size_t units, size_t stride, int32_t* bias) {
  for (size_t u = 0; u < units; ++u) {
    int32_t low, high;
    SumUnit(q + u * kUnit, &low, &high);
    bias[u * stride] = -8 * (low + high);
  }
}

inline __m512i LoadFactors(const W4xMatrix& w, const uint8_t* panel, size_t u) {
  const uint8_t* p = panel + w.factors + u / w.units_per_group * 16;
  return _mm512_cvtepi8_epi32(_mm_load_si128(reinterpret_cast<const __m128i*>(p)));
}

// float(acc) * (scale of the output * scale of the row).
inline void StoreW4x(__m512i acc, const uint8_t* panel, float row_scale, float* out) {
  const Vec scale = Load(reinterpret_cast<const float*>(panel));
  Store(out, Mul(_mm512_cvtepi32_ps(acc), Mul(scale, Set1(row_scale))));
}

// Prefetches for unit u of a panel that is one of `stride` that go side by side, as PrefetchUnit.
inline void PrefetchW4x(const W4xMatrix& w, const uint8_t* panel, size_t u, size_t stride) {
  size_t ahead = w.values + u * 256 + kPrefetchBytes;
  if (ahead >= w.panel_bytes) ahead += (stride - 1) * w.panel_bytes;
  const uint8_t* p = panel + ahead;
  for (size_t i = 0; i < 256; i += 64) _mm_prefetch(p + i, _MM_HINT_T1);
}

// All rows of kPanels panels in registers, side by side as FewRows.
template <int kRows, int kPanels>
inline void W4xFewRows(const W4xMatrix& w, const W4xTile& t, const uint8_t* panel, float* out) {
  __m512i acc[kPanels][kRows];
  for (int p = 0; p < kPanels; ++p) {
    for (int i = 0; i < kRows; ++i) acc[p][i] = ZeroInt();
  }
  for (size_t u = 0; u < w.units; ++u) {
    for (int p = 0; p < kPanels; ++p) {
      const uint8_t* own = panel + p * w.panel_bytes;
      PrefetchW4x(w, own, u, kPanels);
      __m512i codes[8];
      LoadCodes<Codes::kNibbles>(own + w.values, u, codes);
      const __m512i factors = LoadFactors(w, own, u);
      __m512i dot[kRows];
      for (int i = 0; i < kRows; ++i) {
        dot[i] = _mm512_set1_epi32(t.bias[u * kRows + static_cast<size_t>(i)]);
      }
      for (int j = 0; j < 8; ++j) {
        for (int i = 0; i < kRows; ++i) {
          dot[i] = Dot4(dot[i], codes[j], t.q[i] + u * kUnit + 4 * j);
        }
      }
      for (int i = 0; i < kRows; ++i) {
        acc[p][i] = _mm512_add_epi32(acc[p][i], _mm512_mullo_epi32(dot[i], factors));
      }
    }
  }
  for (int p = 0; p < kPanels; ++p) {
    for (int i = 0; i < kRows; ++i) {
      StoreW4x(acc[p][i], panel + p * w.panel_bytes, t.scales[i], out + 16 * (p * kRows + i));
      if (t.checks != nullptr) AddCheck(acc[p][i], t.checks + i);
    }
  }
}

// factor * (code - 8) + 128 as bytes; `factors` has each factor twice as int16. A byte of a product
// depends on that byte of its operands alone.
inline __m512i FoldCodes(__m512i codes, __m512i factors) {
  const __m512i q = _mm512_sub_epi8(codes, _mm512_set1_epi8(8));
  const __m512i even = _mm512_mullo_epi16(q, factors);
  const __m512i odd = _mm512_mullo_epi16(_mm512_srli_epi16(q, 8), factors);
  const __m512i folded =
      _mm512_or_si512(_mm512_and_si512(even, _mm512_set1_epi16(0xff)), _mm512_slli_epi16(odd, 8));
  return _mm512_xor_si512(folded, _mm512_set1_epi8(-128));
}

inline void FoldUnits(const W4xMatrix& w, const uint8_t* panel, size_t first, size_t count,
                      __m512i* out) {
  for (size_t u = 0; u < count; ++u) {
    PrefetchW4x(w, panel, first + u, 1);
    __m512i codes[8];
    LoadCodes<Codes::kNibbles>(panel + w.values, first + u, codes);
    const __m512i wide = LoadFactors(w, panel, first + u);
    const __m512i twice = _mm512_or_si512(_mm512_slli_epi32(wide, 16),
                                          _mm512_and_si512(wide, _mm512_set1_epi32(0xffff)));
    for (int j = 0; j < 8; ++j) out[8 * u + j] = FoldCodes(codes[j], twice);
  }
}

// Adds steps of four elements from element k on to rows [r, r + kRows).
template <int kRows>
inline void FoldedRows(const __m512i* weights, size_t steps, const W4xTile& t, size_t r, size_t k,
                       __m512i* acc) {
  __m512i sum[kRows];
  const int8_t* q[kRows];
  for (int i = 0; i < kRows; ++i) {
    sum[i] = acc[r + i];
    q[i] = t.q[r + i] + k;
  }
  for (size_t s = 0; s < steps; ++s) {
    const __m512i v = weights[s];
    for (int i = 0; i < kRows; ++i) sum[i] = Dot4(sum[i], v, q[i] + 4 * s);
  }
  for (int i = 0; i < kRows; ++i) acc[r + i] = sum[i];
}

// `start` [rows]: -128 times the sum of the row.
inline void W4xManyRows(const W4xMatrix& w, const W4xTile& t, const uint8_t* panel,
                        const int32_t* start, float* out) {
  __m512i acc[kTileRows];
  __m512i weights[8 * kFoldUnits];
  for (size_t r = 0; r < t.rows; ++r) acc[r] = _mm512_set1_epi32(start[r]);
  for (size_t u = 0; u < w.units; u += kFoldUnits) {
    const size_t count = w.units - u < kFoldUnits ? w.units - u : kFoldUnits;
    FoldUnits(w, panel, u, count, weights);
    size_t r = 0;
    for (; r + 8 <= t.rows; r += 8) FoldedRows<8>(weights, 8 * count, t, r, u * kUnit, acc);
    for (; r + 4 <= t.rows; r += 4) FoldedRows<4>(weights, 8 * count, t, r, u * kUnit, acc);
    for (; r < t.rows; ++r) FoldedRows<1>(weights, 8 * count, t, r, u * kUnit, acc);
  }
  for (size_t r = 0; r < t.rows; ++r) {
    StoreW4x(acc[r], panel, t.scales[r], out + 16 * r);
    if (t.checks != nullptr) AddCheck(acc[r], t.checks + r);
  }
}

template <int kRows>
void W4xPanelGroup(const W4xMatrix& w, const W4xTile& t, size_t p, size_t count, float* out) {
  constexpr int kPanels = kRows == 1 ? 8 : 4;
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
    case 3:
      return W4xPanelGroup<3>(w, t, p, count, out);
    case 4:
      return W4xPanelGroup<4>(w, t, p, count, out);
    default:
      break;
  }
  int32_t start[kTileRows];
  for (size_t r = 0; r < t.rows; ++r) {
    uint32_t sum = 0;
    for (size_t u = 0; u < w.units; ++u) sum += static_cast<uint32_t>(t.bias[u * t.rows + r]);
    start[r] = static_cast<int32_t>(16 * sum);
  }
  for (; count > 0; --count, ++p, out += t.rows * 16) {
    W4xManyRows(w, t, w.data + p * w.panel_bytes, start, out);
  }
}

}  // namespace octet::avx512

#endif  // OCTET_KERNELS_X86_W4X_AVX512_H_
