// Products with float weights over Vec, once for every level: included after row_kernels.h, by
// level files alone. One accumulator per output, k ascending.
#ifndef OCTET_KERNELS_X86_FLOAT_KERNELS_H_
#define OCTET_KERNELS_X86_FLOAT_KERNELS_H_

#include "kernels/x86/kernel_table.h"

namespace octet::OCTET_LEVEL {

template <FloatKind kKind>
inline Vec LoadWeights(const uint8_t* panel, size_t k) {
  if constexpr (kKind == FloatKind::kF32) {
    return Load(reinterpret_cast<const float*>(panel) + 16 * k);
  } else if constexpr (kKind == FloatKind::kF16) {
    return LoadHalf(reinterpret_cast<const uint16_t*>(panel) + 16 * k);
  } else {
    return LoadBfloat(reinterpret_cast<const uint16_t*>(panel) + 16 * k);
  }
}

// kPanels panels of 16 outputs for kRows rows, all accumulators in registers.
template <FloatKind kKind, int kRows, int kPanels>
inline void FloatTile(const uint8_t* data, size_t panel_bytes, size_t k, const float* const* x,
                      float* out, size_t out_stride) {
  Vec acc[kRows][kPanels];
  for (int r = 0; r < kRows; ++r) {
    for (int p = 0; p < kPanels; ++p) acc[r][p] = Zero();
  }
  for (size_t i = 0; i < k; ++i) {
    Vec w[kPanels];
    for (int p = 0; p < kPanels; ++p) w[p] = LoadWeights<kKind>(data + p * panel_bytes, i);
    for (int r = 0; r < kRows; ++r) {
      const Vec v = Set1(x[r][i]);
      for (int p = 0; p < kPanels; ++p) acc[r][p] = Fma(v, w[p], acc[r][p]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int p = 0; p < kPanels; ++p) Store(out + r * out_stride + 16 * p, acc[r][p]);
  }
}

// All panels for kRows rows: as many at once as fit, then one by one.
template <FloatKind kKind, int kRows>
void FloatRows(const uint8_t* data, size_t panel_bytes, size_t panels, size_t k,
               const float* const* x, float* out, size_t out_stride) {
  constexpr int kWide = ColumnsFor(kRows);
  size_t p = 0;
  for (; p + kWide <= panels; p += kWide) {
    FloatTile<kKind, kRows, kWide>(data + p * panel_bytes, panel_bytes, k, x, out + 16 * p,
                                   out_stride);
  }
  for (; p < panels; ++p) {
    FloatTile<kKind, kRows, 1>(data + p * panel_bytes, panel_bytes, k, x, out + 16 * p, out_stride);
  }
}

template <FloatKind kKind>
void FloatPanelsOf(const uint8_t* data, size_t panel_bytes, size_t panels, size_t k,
                   const float* const* x, size_t rows, float* out, size_t out_stride) {
  switch (rows) {
    case 1:
      return FloatRows<kKind, 1>(data, panel_bytes, panels, k, x, out, out_stride);
    case 2:
      return FloatRows<kKind, 2>(data, panel_bytes, panels, k, x, out, out_stride);
    case 3:
      return FloatRows<kKind, 3>(data, panel_bytes, panels, k, x, out, out_stride);
    case 4:
      return FloatRows<kKind, 4>(data, panel_bytes, panels, k, x, out, out_stride);
    case 5:
      return FloatRows<kKind, 5>(data, panel_bytes, panels, k, x, out, out_stride);
    default:
      return FloatRows<kKind, 6>(data, panel_bytes, panels, k, x, out, out_stride);
  }
}

inline void FloatPanels(FloatKind kind, const uint8_t* data, size_t panel_bytes, size_t panels,
                        size_t k, const float* const* x, size_t rows, float* out,
                        size_t out_stride) {
  switch (kind) {
    case FloatKind::kF32:
      return FloatPanelsOf<FloatKind::kF32>(data, panel_bytes, panels, k, x, rows, out, out_stride);
    case FloatKind::kF16:
      return FloatPanelsOf<FloatKind::kF16>(data, panel_bytes, panels, k, x, rows, out, out_stride);
    case FloatKind::kBF16:
      return FloatPanelsOf<FloatKind::kBF16>(data, panel_bytes, panels, k, x, rows, out,
                                             out_stride);
  }
}

}  // namespace octet::OCTET_LEVEL

#endif  // OCTET_KERNELS_X86_FLOAT_KERNELS_H_
