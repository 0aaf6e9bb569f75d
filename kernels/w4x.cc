#include "kernels/w4x.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/check.h"
#include "kernels/matmul_fast.h"
#include "kernels/parallel.h"

namespace octet {
namespace {

W4xMatrix MatrixOf(const PackedWeights& w) {
  const PanelLayout layout = MakePanelLayout(w.format, w.k);
  return {w.data,
          layout.bytes,
          layout.second,
          layout.values,
          layout.padded_k / kUnit,
          w.format.group / kUnit};
}

// Rows as the kernels take them: where each starts, its scale, and what makes up for the offset of
// the codes. Memory is the scratch's.
class W4xRows {
 public:
  W4xRows(Scratch& scratch, size_t rows, size_t units)
      : rows_(rows),
        units_(units),
        q_(scratch.Alloc<const int8_t*>(rows)),
        scales_(scratch.Alloc<float>(rows)),
        bias_(scratch.Alloc<int32_t>(rows * units)) {}

  void Set(const KernelTable& table, size_t r, const int8_t* q, float scale) {
    const size_t t = r / kTileRows;
    q_[r] = q;
    scales_[r] = scale;
    table.w4x_bias(q, units_, TileRows(t), bias_ + t * kTileRows * units_ + r % kTileRows);
  }
  size_t rows() const { return rows_; }
  size_t tiles() const { return (rows_ + kTileRows - 1) / kTileRows; }
  bool Fit(const KernelTable& table, const ProductCheck& check) const {
    return check.Fits(&table, units_, [this](size_t r) { return std::pair(q_[r], kUnit); });
  }
  W4xTile Tile(size_t t) const {
    const size_t first = t * kTileRows;
    return {TileRows(t), q_ + first, scales_ + first, bias_ + first * units_};
  }

 private:
  size_t TileRows(size_t t) const { return std::min(kTileRows, rows_ - t * kTileRows); }

  size_t rows_;
  size_t units_;
  const int8_t** q_;
  float* scales_;
  int32_t* bias_;  // by tile [units][rows of the tile]
};

// Rows a thread must have before a second one is worth its wake-up.
size_t RowGrain(size_t k) { return 65536 / (k + 1) + 1; }

void MultiplyRows(const ExecContext& ctx, const KernelTable& table, const PackedWeights& w,
                  const W4xRows& x, TensorF32 y, ProductCheck* check) {
  const W4xMatrix matrix = MatrixOf(w);
  const size_t grain = PanelGrain(matrix.panel_bytes, matrix.units * kUnit, x.rows());
  ParallelRange(ctx, PanelCount(w.n), grain, [&](size_t begin, size_t end, int) {
    alignas(64) float out[kPanelsAtOnce * kTileRows * kPanelOutputs];
    for (size_t p = begin; p < end; p += kPanelsAtOnce) {
      const size_t count = std::min(kPanelsAtOnce, end - p);
      for (size_t t = 0; t < x.tiles(); ++t) {
        W4xTile tile = x.Tile(t);
        const TileCheck<W4xTile> sums(check, t * kTileRows, &tile);
        table.w4x_panels(matrix, tile, p, count, out);
        CopyPanels(out, p, count, t * kTileRows, tile.rows, y);
      }
    }
  });
}

// silu(gate x) * (up x), as floats.
void GateUp(const ExecContext& ctx, const KernelTable& table, const ExpertWeights& w,
            const W4xRows& x, TensorF32 h, ExpertChecks* checks) {
  const W4xMatrix gate = MatrixOf(w.gate), up = MatrixOf(w.up);
  const size_t grain = PanelGrain(2 * gate.panel_bytes, 2 * gate.units * kUnit, x.rows());
  ParallelRange(ctx, PanelCount(w.gate.n), grain, [&](size_t begin, size_t end, int) {
    alignas(64) float a[kPanelsAtOnce * kTileRows * kPanelOutputs];
    alignas(64) float b[kPanelsAtOnce * kTileRows * kPanelOutputs];
    for (size_t p = begin; p < end; p += kPanelsAtOnce) {
      const size_t count = std::min(kPanelsAtOnce, end - p);
      for (size_t t = 0; t < x.tiles(); ++t) {
        W4xTile tile = x.Tile(t), same = tile;
        const TileCheck<W4xTile> a_sums(CheckOf(checks, &ExpertChecks::gate), t * kTileRows, &tile);
        const TileCheck<W4xTile> b_sums(CheckOf(checks, &ExpertChecks::up), t * kTileRows, &same);
        table.w4x_panels(gate, tile, p, count, a);
        table.w4x_panels(up, same, p, count, b);
        table.silu_mul(a, b, count * tile.rows * kPanelOutputs, a);
        CopyPanels(a, p, count, t * kTileRows, tile.rows, h);
      }
    }
  });
}

}  // namespace

void FastMatMulW4x(const ExecContext& ctx, const KernelTable& table, const PackedWeights& w,
                   const QuantizedRows& x, TensorF32 y, ProductCheck* check) {
  Scratch scratch(ctx);
  W4xRows rows(scratch, x.rows, x.padded_k / kUnit);
  ParallelRange(ctx, x.rows, RowGrain(x.padded_k), [&](size_t begin, size_t end, int) {
    for (size_t r = begin; r < end; ++r) rows.Set(table, r, x.q + r * x.padded_k, x.scales[r]);
  });
  MultiplyRows(ctx, table, w, rows, y, check);
}

bool FastFfnW4x(const ExecContext& ctx, const KernelTable& table, const ExpertWeights& w,
                const QuantizedRows& x, absl::Span<const uint32_t> row_indices, TensorF32 y,
                ExpertChecks* checks) {
  Scratch scratch(ctx);
  const size_t count = row_indices.size(), middle = w.down.k;
  W4xRows rows(scratch, count, x.padded_k / kUnit);
  ParallelRange(ctx, count, RowGrain(x.padded_k), [&](size_t begin, size_t end, int) {
    for (size_t i = begin; i < end; ++i) {
      const size_t r = row_indices[i];
      rows.Set(table, i, x.q + r * x.padded_k, x.scales[r]);
    }
  });
  const TensorF32 h(scratch.Alloc<float>(count * middle), count, middle);
  GateUp(ctx, table, w, rows, h, checks);
  const size_t padded = PaddedK(w.down.format, middle);
  W4xRows hidden(scratch, count, padded / kUnit);
  int8_t* q = scratch.Alloc<int8_t>(count * padded);
  ParallelRange(ctx, count, RowGrain(4 * middle), [&](size_t begin, size_t end, int) {
    for (size_t r = begin; r < end; ++r) {
      float scale;
      table.quantize_row(h.row(r), middle, padded, padded, q + r * padded, &scale);
      hidden.Set(table, r, q + r * padded, scale);
    }
  });
  MultiplyRows(ctx, table, w.down, hidden, y, CheckOf(checks, &ExpertChecks::down));
  return checks == nullptr || (rows.Fit(table, checks->gate) && rows.Fit(table, checks->up) &&
                               hidden.Fit(table, checks->down));
}

}  // namespace octet
