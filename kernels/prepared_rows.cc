#include "kernels/prepared_rows.h"

#include <algorithm>

#include "core/check.h"
#include "kernels/panel_layout.h"

namespace octet {
namespace {

IntKernel KernelFor(const WeightFormat& f) {
  const bool wide = f.group > kUnit;
  switch (f.scale) {
    case ScaleEncoding::kF16:
      if (f.bits == 4) {
        return f.minimum ? IntKernel::kU4Min : wide ? IntKernel::kU4Wide : IntKernel::kU4;
      }
      if (f.bits == 5) return f.minimum ? IntKernel::kU5Min : IntKernel::kU5;
      return wide ? IntKernel::kS8Wide : IntKernel::kS8;
    case ScaleEncoding::kF16xU6:
      return f.bits == 4 ? IntKernel::kU4Super : IntKernel::kU5Super;
    case ScaleEncoding::kF16xI8:
      return IntKernel::kU6Half;
    case ScaleEncoding::kF32xI4:  // kernels/w4x.h
    case ScaleEncoding::kNone:
    case ScaleEncoding::kF32:
      break;
  }
  OCTET_CHECK(false) << "no kernel for this scale encoding";
  return IntKernel::kCount;
}

}  // namespace

FastInt::FastInt(const KernelTable& table, const PackedWeights& w) {
  const WeightFormat& f = w.format;
  const PanelLayout layout = MakePanelLayout(f, w.k);
  matrix = {w.data,
            layout.bytes,
            layout.second,
            layout.values,
            layout.padded_k / kUnit,
            std::max<size_t>(1, f.group / kUnit)};
  panels = table.int_panels[static_cast<size_t>(KernelFor(f))];
  bias.offset = f.bits == 8 && f.offset == 0 ? table.signed_offset : f.offset;
  bias.mask = f.bits == 4 ? table.nibble_bias_mask : -1;
  bias.halves = f.group < kUnit ? 2 : 1;
}

PreparedRows::PreparedRows(Scratch& scratch, const FastInt& fast, size_t activation_group,
                           size_t rows)
    : rows_(rows),
      units_(fast.matrix.units),
      units_per_scale_(activation_group / kUnit),
      bias_rule_(fast.bias),
      q_(scratch.Alloc<int8_t>(rows * units_ * kUnit)),
      scales_(scratch.Alloc<float>(rows * units_)),
      bias_(scratch.Alloc<int32_t>(rows * units_ * bias_rule_.halves)),
      sums_(scratch.Alloc<float>(rows * units_)) {}

IntTile PreparedRows::Tile(size_t index) const {
  const size_t first = index * kTileRows;
  const size_t skip = first * units_;
  return {std::min(kTileRows, rows_ - first), q_ + skip * kUnit, scales_ + skip,
          bias_ + skip * bias_rule_.halves, sums_ + skip};
}

void PreparedRows::FillUnits(const KernelTable& table, const IntTile& tile, size_t r, size_t first,
                             size_t count, const int8_t* q, const float* scales) const {
  const size_t skip = first * tile.rows;
  const IntTile from = {tile.rows, tile.q + skip * kUnit, tile.scales + skip,
                        tile.bias + skip * bias_rule_.halves, tile.sums + skip};
  table.prepare_row(q, scales, count, units_per_scale_, bias_rule_, r, from);
}

}  // namespace octet
