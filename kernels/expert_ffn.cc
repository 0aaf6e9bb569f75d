#include <algorithm>
#include <cstring>
#include <optional>

#include "core/check.h"
#include "kernels/dispatch.h"
#include "kernels/kernels.h"
#include "kernels/matmul_fast.h"
#include "kernels/panel_layout.h"
#include "kernels/parallel.h"
#include "kernels/prepared_rows.h"
#include "kernels/product_check.h"
#include "kernels/reference/reference.h"
#include "kernels/w4x.h"

namespace octet {
namespace {

// gate·x and up·x for the chosen rows, which are copied together first. With checks: false where a
// product does not fit.
bool GateUpInt(const ExecContext& ctx, const ExpertWeights& w, const QuantizedRows& x,
               absl::Span<const uint32_t> row_indices, TensorF32 gate, TensorF32 up,
               ExpertChecks* checks) {
  QuantizedRows rows = x;
  rows.rows = row_indices.size();
  const size_t groups = x.padded_k / x.group;
  rows.q = ctx.arena->Alloc<int8_t>(rows.rows * x.padded_k);
  rows.scales = ctx.arena->Alloc<float>(rows.rows * groups);
  for (size_t i = 0; i < rows.rows; ++i) {
    const size_t r = row_indices[i];
    std::memcpy(rows.q + i * x.padded_k, x.q + r * x.padded_k, x.padded_k);
    std::memcpy(rows.scales + i * groups, x.scales + r * groups, groups * sizeof(float));
  }
  MultiplyInt(ctx, w.gate, rows, gate, CheckOf(checks, &ExpertChecks::gate));
  MultiplyInt(ctx, w.up, rows, up, CheckOf(checks, &ExpertChecks::up));
  const KernelTable* table = FastKernels(ctx.level);
  return checks == nullptr || (checks->gate.Fits(table, rows) && checks->up.Fits(table, rows));
}

// y = down·middle; quantised here, so that the check sees what was multiplied.
bool DownChecked(const ExecContext& ctx, const PackedWeights& w, ConstTensorF32 middle, TensorF32 y,
                 ProductCheck* check) {
  const QuantizedRows q = AllocQuantizedRows(ctx, w.format, middle.rows, middle.cols);
  QuantizeRows(ctx, middle, q);
  MultiplyInt(ctx, w, q, y, check);
  return check->Fits(FastKernels(ctx.level), q);
}

void GateUpFloat(const ExecContext& ctx, const ExpertWeights& w, ConstTensorF32 x,
                 absl::Span<const uint32_t> row_indices, TensorF32 gate, TensorF32 up) {
  const KernelTable* table = FastKernels(ctx.level);
  if (table != nullptr) {
    const float** rows = ctx.arena->Alloc<const float*>(row_indices.size());
    for (size_t i = 0; i < row_indices.size(); ++i) rows[i] = x.row(row_indices[i]);
    FastMatMulFloat(ctx, *table, w.gate, rows, gate);
    FastMatMulFloat(ctx, *table, w.up, rows, up);
    return;
  }
  float* copy = ctx.arena->Alloc<float>(row_indices.size() * x.cols);
  for (size_t i = 0; i < row_indices.size(); ++i) {
    std::memcpy(copy + i * x.cols, x.row(row_indices[i]), x.cols * sizeof(float));
  }
  const ConstTensorF32 rows(copy, row_indices.size(), x.cols);
  MatMulFloat(ctx, w.gate, rows, gate);
  MatMulFloat(ctx, w.up, rows, up);
}

// Panels of the middle that are computed together: one activation group of `down` of the longest
// kind, or several of a shorter one.
constexpr size_t kMiddlePanels = 8;
constexpr size_t kMiddleOutputs = kMiddlePanels * kPanelOutputs;

// Everything the threads share while they compute the middle rows.
struct FusedMiddle {
  const KernelTable& table;
  const FastInt& gate;
  const FastInt& up;
  const PreparedRows& x;
  const PreparedRows& middle;
  size_t panels;  // of gate and of up
  size_t group;   // activation group of down
  ExpertChecks* checks;
};

// Outputs [kMiddleOutputs * part, ...) of the middle for one tile: gate and up, silu, quantised
// into place.
void ComputeMiddle(const FusedMiddle& f, size_t part, size_t tile_index) {
  alignas(64) float gate[kPanelsAtOnce * kTileRows * kPanelOutputs];
  alignas(64) float up[kPanelsAtOnce * kTileRows * kPanelOutputs];
  alignas(64) float rows[kTileRows][kMiddleOutputs];
  IntTile tile = f.x.Tile(tile_index), same = tile;
  const size_t first_row = tile_index * kTileRows;
  const TileCheck<IntTile> gate_sums(CheckOf(f.checks, &ExpertChecks::gate), first_row, &tile);
  const TileCheck<IntTile> up_sums(CheckOf(f.checks, &ExpertChecks::up), first_row, &same);
  const size_t first = part * kMiddlePanels;
  const size_t panels = std::min(kMiddlePanels, f.panels - first);
  for (size_t p = 0; p < panels; p += kPanelsAtOnce) {
    const size_t count = std::min(kPanelsAtOnce, panels - p);
    f.gate.panels(f.gate.matrix, tile, first + p, count, gate);
    f.up.panels(f.up.matrix, same, first + p, count, up);
    f.table.silu_mul(gate, up, count * tile.rows * kPanelOutputs, gate);
    for (size_t i = 0; i < count * tile.rows; ++i) {
      std::memcpy(rows[i % tile.rows] + (p + i / tile.rows) * kPanelOutputs,
                  gate + i * kPanelOutputs, kPanelOutputs * sizeof(float));
    }
  }
  const IntTile out = f.middle.Tile(tile_index);
  // The last activation group may reach past the last panel: zeros.
  const size_t outputs = panels * kPanelOutputs;
  const size_t padded = (outputs + f.group - 1) / f.group * f.group;
  for (size_t r = 0; r < tile.rows; ++r) {
    int8_t q[kMiddleOutputs];
    float scales[kMiddleOutputs / kUnit];
    f.table.quantize_row(rows[r], outputs, padded, f.group, q, scales);
    f.middle.FillUnits(f.table, out, r, part * (kMiddleOutputs / kUnit), padded / kUnit, q, scales);
  }
}

// All three matrices integer: the middle never exists as floats.
bool FusedFfn(const ExecContext& ctx, const KernelTable& table, const ExpertWeights& w,
              const QuantizedRows& x, absl::Span<const uint32_t> row_indices, Scratch& scratch,
              TensorF32 y, ExpertChecks* checks) {
  const FastInt gate(table, w.gate), up(table, w.up), down(table, w.down);
  const PreparedRows rows(scratch, gate, x.group, row_indices.size());
  const PreparedRows middle(scratch, down, w.down.format.activation_group, row_indices.size());
  const size_t groups = x.padded_k / x.group;
  ParallelRange(ctx, rows.tiles(), 65536 / (x.padded_k * kTileRows) + 1,
                [&](size_t begin, size_t end, int) {
                  for (size_t t = begin; t < end; ++t) {
                    rows.Fill(table, t, [&](size_t i) {
                      const size_t r = row_indices[i];
                      return std::pair<const int8_t*, const float*>(x.q + r * x.padded_k,
                                                                    x.scales + r * groups);
                    });
                  }
                });
  const FusedMiddle fused = {
      table, gate, up, rows, middle, PanelCount(w.gate.n), w.down.format.activation_group, checks};
  const size_t grain = PanelGrain(gate.matrix.panel_bytes, x.padded_k, rows.rows());
  ParallelRange(ctx, (fused.panels + kMiddlePanels - 1) / kMiddlePanels,
                grain / (2 * kMiddlePanels) + 1, [&](size_t begin, size_t end, int) {
                  for (size_t part = begin; part < end; ++part) {
                    for (size_t t = 0; t < rows.tiles(); ++t) ComputeMiddle(fused, part, t);
                  }
                });
  FastMatMulInt(ctx, down, middle, y, CheckOf(checks, &ExpertChecks::down));
  return checks == nullptr || (checks->gate.Fits(table, rows) && checks->up.Fits(table, rows) &&
                               checks->down.Fits(table, middle));
}

void CheckShapes(const ExpertWeights& w, const ExpertInput& x, size_t rows, TensorF32 y) {
  OCTET_CHECK(w.gate.n == w.up.n && w.gate.k == w.up.k && w.gate.format == w.up.format);
  OCTET_CHECK(w.down.k == w.gate.n && w.down.n == w.gate.k);
  OCTET_CHECK(y.rows == rows && y.cols == w.down.n);
  OCTET_CHECK(w.gate.format.is_integer() == (x.q.q != nullptr));
  OCTET_CHECK((x.q.q != nullptr) != (x.f32.data != nullptr));
  if (x.q.q != nullptr) {
    OCTET_CHECK(x.q.group == ActivationGroup(w.gate.format, w.gate.k) &&
                x.q.padded_k == PaddedK(w.gate.format, w.gate.k));
  } else {
    OCTET_CHECK_EQ(x.f32.cols, w.gate.k);
  }
}

// With `columns` (may be null), where all three matrices are integer: false where a product does
// not fit.
bool Ffn(const ExecContext& ctx, const ExpertWeights& weights, const ExpertInput& x,
         absl::Span<const uint32_t> row_indices, TensorF32 y, const ExpertColumns* columns) {
  const size_t rows = row_indices.size();
  CheckShapes(weights, x, rows, y);
  for (const uint32_t r : row_indices) {
    OCTET_CHECK_LT(r, x.q.q != nullptr ? x.q.rows : x.f32.rows);
  }
  if (rows == 0) return true;
  Scratch scratch(ctx);
  std::optional<ExpertChecks> sums;
  if (columns != nullptr) {
    sums.emplace(ExpertChecks{ProductCheck(scratch, columns->gate, rows),
                              ProductCheck(scratch, columns->up, rows),
                              ProductCheck(scratch, columns->down, rows)});
  }
  ExpertChecks* const checks = sums.has_value() ? &*sums : nullptr;
  const KernelTable* table = FastKernels(ctx.level);
  if (table != nullptr && x.q.q != nullptr && weights.down.format.is_integer()) {
    const bool gate = IsW4x(weights.gate.format), down = IsW4x(weights.down.format);
    if (gate && down) return FastFfnW4x(ctx, *table, weights, x.q, row_indices, y, checks);
    if (!gate && !down) return FusedFfn(ctx, *table, weights, x.q, row_indices, scratch, y, checks);
  }
  const size_t middle = weights.gate.n;
  const TensorF32 gate(scratch.Alloc<float>(rows * middle), rows, middle, middle);
  const TensorF32 up(scratch.Alloc<float>(rows * middle), rows, middle, middle);
  if (x.q.q != nullptr) {
    if (!GateUpInt(ctx, weights, x.q, row_indices, gate, up, checks)) return false;
  } else {
    GateUpFloat(ctx, weights, x.f32, row_indices, gate, up);
  }
  const auto silu_mul = table != nullptr ? table->silu_mul : reference::SiluMul;
  ParallelRange(ctx, rows, 8192 / (middle + 1) + 1, [&](size_t begin, size_t end, int) {
    for (size_t r = begin; r < end; ++r) {
      silu_mul(gate.row(r), up.row(r), middle, gate.row(r));
    }
  });
  if (checks != nullptr) return DownChecked(ctx, weights.down, gate, y, &checks->down);
  MatMul(ctx, weights.down, gate, y);
  return true;
}

}  // namespace

void ExpertFfn(const ExecContext& ctx, const ExpertWeights& weights, const ExpertInput& x,
               absl::Span<const uint32_t> row_indices, TensorF32 y) {
  Ffn(ctx, weights, x, row_indices, y, nullptr);
}

bool CheckedExpertFfn(const ExecContext& ctx, const ExpertWeights& weights,
                      const ExpertColumns& columns, const ExpertInput& x,
                      absl::Span<const uint32_t> row_indices, TensorF32 y) {
  OCTET_CHECK(weights.gate.format.is_integer() && weights.down.format.is_integer());
  return Ffn(ctx, weights, x, row_indices, y, &columns);
}

}  // namespace octet
