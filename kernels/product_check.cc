#include "kernels/product_check.h"

#include <algorithm>
#include <utility>

#include "core/check.h"
#include "kernels/panel_layout.h"
#include "kernels/w4x.h"

namespace octet {
namespace {

// Adds 64 bytes of a value area, [16 outputs][4], to the columns of the elements in them.
// `factors`: [16], each output's; unused unless kFactors.
template <bool kNibbles, bool kSigned, bool kFactors>
void AddCodes(const uint8_t* bytes, int32_t offset, const int8_t* factors, uint32_t* column) {
  int32_t low[4] = {}, high[4] = {};
  for (size_t lane = 0; lane < kPanelOutputs; ++lane) {
    const int32_t factor = kFactors ? factors[lane] : 1;
    for (size_t i = 0; i < 4; ++i) {
      const uint8_t byte = bytes[4 * lane + i];
      if constexpr (kNibbles) {
        low[i] += ((byte & 15) - offset) * factor;
        high[i] += ((byte >> 4) - offset) * factor;
      } else {
        low[i] += kSigned ? static_cast<int8_t>(byte) : byte - offset;
      }
    }
  }
  for (size_t i = 0; i < 4; ++i) {
    column[i] += static_cast<uint32_t>(low[i]);
    if constexpr (kNibbles) column[4 + i] += static_cast<uint32_t>(high[i]);
  }
}

}  // namespace

void MakeCheckColumn(const PackedWeights& w, uint32_t* column) {
  const WeightFormat& format = w.format;
  OCTET_CHECK(format.is_integer());
  const PanelLayout layout = MakePanelLayout(format, w.k);
  std::fill_n(column, layout.padded_k, 0u);
  const bool nibbles = format.bits == 4;
  const bool factors = IsW4x(format);
  const auto add = factors                                  ? AddCodes<true, false, true>
                   : nibbles                                ? AddCodes<true, false, false>
                   : format.bits == 8 && format.offset == 0 ? AddCodes<false, true, false>
                                                            : AddCodes<false, false, false>;
  const size_t step = nibbles ? 8 : 4;
  for (size_t p = 0; p < PanelCount(w.n); ++p) {
    const uint8_t* panel = w.data + p * layout.bytes;
    for (size_t k = 0; k < layout.padded_k; k += step) {
      const auto* of_group =
          reinterpret_cast<const int8_t*>(panel + layout.second) + k / format.group * kPanelOutputs;
      add(panel + layout.values + k / step * 64, format.offset, factors ? of_group : nullptr,
          column + k);
    }
  }
}

uint32_t ProductCheck::ColumnDot(const KernelTable* table, const int8_t* q, size_t units,
                                 size_t stride) const {
  if (table != nullptr) return table->column_dot(column_, q, units, stride);
  uint32_t sum = 0;
  for (size_t u = 0; u < units; ++u) {
    for (size_t i = 0; i < kUnit; ++i) {
      sum += column_[u * kUnit + i] * static_cast<uint32_t>(q[u * stride + i]);
    }
  }
  return sum;
}

bool ProductCheck::Fits(const KernelTable& table, const PreparedRows& x) const {
  return Fits(&table, x.units(), [&](size_t r) {
    const IntTile tile = x.Tile(r / kTileRows);
    return std::pair<const int8_t*, size_t>(tile.q + r % kTileRows * kUnit, tile.rows * kUnit);
  });
}

bool ProductCheck::Fits(const KernelTable* table, const QuantizedRows& x) const {
  return Fits(table, x.padded_k / kUnit, [&](size_t r) {
    return std::pair<const int8_t*, size_t>(x.q + r * x.padded_k, kUnit);
  });
}

}  // namespace octet
