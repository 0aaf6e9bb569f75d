#include "kernels/matmul_fast.h"

#include <algorithm>
#include <cstring>

#include "core/check.h"
#include "kernels/panel_layout.h"
#include "kernels/parallel.h"

namespace octet {
namespace {

// Panels that stay in the second-level cache while all rows pass over them.
constexpr size_t kPanelBytesInCache = 256 << 10;

FloatKind FloatKindOf(const WeightFormat& format) {
  switch (format.kind) {
    case WeightKind::kF32:
      return FloatKind::kF32;
    case WeightKind::kF16:
      return FloatKind::kF16;
    case WeightKind::kBF16:
      return FloatKind::kBF16;
    case WeightKind::kInt:
      break;
  }
  OCTET_CHECK(false) << "not a float format";
  return FloatKind::kF32;
}

// Copies columns [16 p, ...) of dense rows of 16 * panels floats to y, without the padding past n.
void CopyOut(const float* out, size_t panels, size_t p, size_t row, size_t rows, TensorF32 y) {
  const size_t column = p * kPanelOutputs;
  const size_t count = std::min(panels * kPanelOutputs, y.cols - column);
  for (size_t r = 0; r < rows; ++r) {
    std::memcpy(y.row(row + r) + column, out + r * panels * kPanelOutputs, count * sizeof(float));
  }
}

}  // namespace

void CopyPanels(const float* out, size_t first, size_t panels, size_t row, size_t rows,
                TensorF32 y) {
  const size_t column = first * kPanelOutputs;
  const size_t count = std::min(panels * kPanelOutputs, y.cols - column);
  const size_t whole = count / kPanelOutputs;
  const size_t rest = count % kPanelOutputs;
  for (size_t r = 0; r < rows; ++r) {
    float* const to = y.row(row + r) + column;
    for (size_t i = 0; i < whole; ++i) {
      std::memcpy(to + i * kPanelOutputs, out + (i * rows + r) * kPanelOutputs,
                  kPanelOutputs * sizeof(float));
    }
    if (rest != 0) {
      std::memcpy(to + whole * kPanelOutputs, out + (whole * rows + r) * kPanelOutputs,
                  rest * sizeof(float));
    }
  }
}

size_t PanelGrain(size_t panel_bytes, size_t k, size_t rows) {
  // About 4 microseconds at 16 bytes or 24 products a nanosecond, whichever takes longer.
  const size_t by_bytes = 65536 / panel_bytes;
  const size_t by_products = 100000 / (k * kPanelOutputs * rows);
  return std::min(by_bytes, by_products) + 1;
}

void FastMatMulInt(const ExecContext& ctx, const FastInt& fast, const PreparedRows& x, TensorF32 y,
                   ProductCheck* check) {
  const size_t bytes = fast.matrix.panel_bytes;
  const size_t step = std::clamp<size_t>(kPanelBytesInCache / bytes, kPanelsAtOnce, 8);
  const size_t grain = PanelGrain(bytes, fast.matrix.units * kUnit, x.rows());
  ParallelRange(ctx, PanelCount(y.cols), grain, [&](size_t begin, size_t end, int) {
    alignas(64) float out[kPanelsAtOnce * kTileRows * kPanelOutputs];
    for (size_t p0 = begin; p0 < end; p0 += step) {
      const size_t p1 = std::min(p0 + step, end);
      for (size_t t = 0; t < x.tiles(); ++t) {
        IntTile tile = x.Tile(t);
        const TileCheck<IntTile> sums(check, t * kTileRows, &tile);
        for (size_t p = p0; p < p1; p += kPanelsAtOnce) {
          const size_t count = std::min(kPanelsAtOnce, p1 - p);
          fast.panels(fast.matrix, tile, p, count, out);
          CopyPanels(out, p, count, t * kTileRows, tile.rows, y);
        }
      }
    }
  });
}

void FastMatMulFloat(const ExecContext& ctx, const KernelTable& table, const PackedWeights& w,
                     const float* const* x, TensorF32 y) {
  const size_t bytes = MakePanelLayout(w.format, w.k).bytes;
  const FloatKind kind = FloatKindOf(w.format);
  constexpr size_t kStep = 8;
  const size_t grain = PanelGrain(bytes, 4 * w.k, y.rows);
  // Rows in parts as even as possible, so that none is left with a single row.
  const size_t parts = (y.rows + kFloatRows - 1) / kFloatRows;
  ParallelRange(ctx, PanelCount(w.n), grain, [&](size_t begin, size_t end, int) {
    alignas(64) float out[kFloatRows * kStep * kPanelOutputs];
    for (size_t p = begin; p < end; p += kStep) {
      const size_t panels = std::min(kStep, end - p);
      for (size_t i = 0; i < parts; ++i) {
        const size_t row = y.rows * i / parts;
        const size_t rows = y.rows * (i + 1) / parts - row;
        table.float_panels(kind, w.data + p * bytes, bytes, panels, w.k, x + row, rows, out,
                           panels * kPanelOutputs);
        CopyOut(out, panels, p, row, rows, y);
      }
    }
  });
}

}  // namespace octet
