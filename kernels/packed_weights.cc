#include "kernels/packed_weights.h"

#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "core/check.h"
#include "core/limits.h"
#include "kernels/panel_layout.h"
#include "kernels/w4x.h"

namespace octet {
namespace {

size_t RoundUp(size_t value, size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

float LoadF16(const uint8_t* section, size_t index) {
  uint16_t h;
  std::memcpy(&h, section + 2 * index, 2);
  return F16ToF32(h);
}

}  // namespace

size_t PaddedK(const WeightFormat& format, size_t k) {
  if (!format.is_integer()) return k;
  const bool whole_row = format.activation_group == kWholeRow;
  return RoundUp(k, whole_row ? format.group : format.activation_group);
}

size_t ActivationGroup(const WeightFormat& format, size_t k) {
  return format.activation_group == kWholeRow ? PaddedK(format, k) : format.activation_group;
}

absl::Status CheckInputs(const WeightFormat& format, size_t k) {
  if (format.scale != ScaleEncoding::kF32xI4 || PaddedK(format, k) <= kW4xInputsMax) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(k, " inputs are too many for weight format \"",
                                                 WeightFormatName(format), "\", at most ",
                                                 kW4xInputsMax, " are allowed"));
}

PanelLayout MakePanelLayout(const WeightFormat& format, size_t k) {
  PanelLayout layout;
  layout.padded_k = PaddedK(format, k);
  if (!format.is_integer()) {
    layout.bytes = RoundUp(layout.padded_k * kPanelOutputs * FloatWeightBytes(format), 64);
    return layout;
  }
  const size_t groups = layout.padded_k / format.group;
  const size_t supers = (layout.padded_k + kSuperBlock - 1) / kSuperBlock;
  size_t first = 0;
  size_t second = 0;
  switch (format.scale) {
    case ScaleEncoding::kF16:
      first = groups * 32;
      second = format.minimum ? groups * 32 : 0;
      break;
    case ScaleEncoding::kF16xU6:
      first = supers * 64;
      second = groups * 32;
      break;
    case ScaleEncoding::kF16xI8:
      first = supers * 32;
      second = groups * 16;
      break;
    case ScaleEncoding::kF32xI4:
      first = 64;
      second = groups * 16;
      break;
    case ScaleEncoding::kNone:
    case ScaleEncoding::kF32:
      OCTET_CHECK(false) << "no layout for this scale encoding";
  }
  layout.second = RoundUp(first, 64);
  layout.values = layout.second + RoundUp(second, 64);
  const size_t value_bytes = layout.padded_k * kPanelOutputs / (format.bits == 4 ? 2 : 1);
  layout.bytes = layout.values + RoundUp(value_bytes, 64);
  return layout;
}

ScaleAreas ScaleAreasOf(const PackedWeights& w) {
  OCTET_CHECK(w.format.is_integer());
  const PanelLayout layout = MakePanelLayout(w.format, w.k);
  // The factors of w4x are integers of the product.
  return {IsW4x(w.format) ? layout.second : layout.values, PanelCount(w.n), layout.bytes};
}

size_t PackedBytes(const WeightFormat& format, size_t n, size_t k) {
  return PanelCount(n) * MakePanelLayout(format, k).bytes;
}

GroupScale GetGroupScale(const WeightFormat& format, const PanelLayout& layout,
                         const uint8_t* panel, size_t group_index, size_t lane) {
  const uint8_t* second = panel + layout.second;
  const size_t super = group_index * format.group / kSuperBlock;
  GroupScale out;
  switch (format.scale) {
    case ScaleEncoding::kF16:
      out.scale = LoadF16(panel, group_index * 16 + lane);
      if (format.minimum) out.minimum = LoadF16(second, group_index * 16 + lane);
      break;
    case ScaleEncoding::kF16xU6: {
      const uint8_t* factors = second + group_index * 32;
      out.scale = LoadF16(panel, super * 32 + lane) * static_cast<float>(factors[lane]);
      out.minimum =
          -(LoadF16(panel, super * 32 + 16 + lane) * static_cast<float>(factors[16 + lane]));
      break;
    }
    case ScaleEncoding::kF16xI8: {
      const auto factor = static_cast<int8_t>(second[group_index * 16 + lane]);
      out.scale = LoadF16(panel, super * 16 + lane) * static_cast<float>(factor);
      break;
    }
    case ScaleEncoding::kF32xI4:  // has GetW4xScale and GetW4xFactor
    case ScaleEncoding::kNone:
    case ScaleEncoding::kF32:
      OCTET_CHECK(false) << "no layout for this scale encoding";
  }
  return out;
}

void UnpackBf16(const PackedWeights& w, uint16_t* out) {
  OCTET_CHECK(w.format.kind == WeightKind::kBF16);
  const PanelLayout layout = MakePanelLayout(w.format, w.k);
  for (size_t panel = 0; panel < PanelCount(w.n); ++panel) {
    const uint8_t* const from = w.data + panel * layout.bytes;
    const size_t begin = panel * kPanelOutputs, lanes = std::min(kPanelOutputs, w.n - begin);
    for (size_t k = 0; k < w.k; ++k) {
      for (size_t lane = 0; lane < lanes; ++lane) {
        std::memcpy(out + (begin + lane) * w.k + k, from + (k * kPanelOutputs + lane) * 2, 2);
      }
    }
  }
}

void UnpackRow(const PackedWeights& w, size_t row, float* out) {
  OCTET_CHECK_LT(row, w.n);
  const PanelLayout layout = MakePanelLayout(w.format, w.k);
  const uint8_t* panel = w.data + row / kPanelOutputs * layout.bytes;
  const size_t lane = row % kPanelOutputs;
  if (w.format.kind == WeightKind::kF32) {
    for (size_t k = 0; k < w.k; ++k) std::memcpy(out + k, panel + (k * 16 + lane) * 4, 4);
    return;
  }
  if (!w.format.is_integer()) {
    for (size_t k = 0; k < w.k; ++k) {
      uint16_t bits;
      std::memcpy(&bits, panel + (k * 16 + lane) * 2, 2);
      out[k] = w.format.kind == WeightKind::kF16 ? F16ToF32(bits) : BF16ToF32(bits);
    }
    return;
  }
  if (w.format.scale == ScaleEncoding::kF32xI4) {
    const float scale = GetW4xScale(panel, lane);
    for (size_t k = 0; k < w.k; ++k) {
      const int code = GetCode(w.format, panel + layout.values, k, lane) - w.format.offset;
      const int factor = GetW4xFactor(layout, panel, k / w.format.group, lane);
      out[k] = static_cast<float>(factor * code) * scale;
    }
    return;
  }
  GroupScale group;
  for (size_t k = 0; k < w.k; ++k) {
    if (k % w.format.group == 0) {
      group = GetGroupScale(w.format, layout, panel, k / w.format.group, lane);
    }
    const int code = GetCode(w.format, panel + layout.values, k, lane) - w.format.offset;
    const float value = static_cast<float>(code) * group.scale;
    out[k] = w.format.minimum ? value + group.minimum : value;
  }
}

}  // namespace octet
