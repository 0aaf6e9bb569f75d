// Packing of f32 weights: rounding to the float kinds, quantising to int8 and int4.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "core/check.h"
#include "kernels/packed_weights.h"
#include "kernels/panel_layout.h"
#include "kernels/w4x.h"

namespace octet {
namespace {

constexpr size_t kGroupMax = 128;

struct QuantizedGroup {
  uint16_t scale = 0;  // f16
  int8_t q[kGroupMax];
};

float AbsMax(const float* w, size_t count) {
  float m = 0;
  for (size_t i = 0; i < count; ++i) m = std::max(m, std::fabs(w[i]));
  return m;
}

// Rounds w / scale to [low, high] and returns the squared error.
float Quantize(const float* w, size_t count, float scale, float low, float high, int8_t* q) {
  const float inverse = scale == 0 ? 0 : 1.0f / scale;
  float error = 0;
  for (size_t i = 0; i < count; ++i) {
    // Clamped first, so that the addition that rounds to an integer cannot overflow.
    const float clamped = std::min(std::max(w[i] * inverse, low), high);
    const float rounded = (clamped + 12582912.0f) - 12582912.0f;
    const float d = w[i] - rounded * scale;
    error += d * d;
    q[i] = static_cast<int8_t>(rounded);
  }
  return error;
}

// False where the scale has no finite f16.
bool QuantizeInt8(const float* w, size_t count, QuantizedGroup* out) {
  out->scale = F32ToF16(AbsMax(w, count) / 127.0f);
  if ((out->scale & 0x7c00) == 0x7c00) return false;
  Quantize(w, count, F16ToF32(out->scale), -127.0f, 127.0f, out->q);
  return true;
}

// q in [-8, 7]. Candidates put the extreme value at 7 .. 8.5 steps, of either sign; the smallest
// squared error wins, the first one on ties.
bool QuantizeInt4(const float* w, size_t count, QuantizedGroup* out) {
  const float absmax = AbsMax(w, count);
  if (absmax / 7.0f >= 65520.0f) return false;
  float best = -1;
  for (int candidate = 0; candidate < 14; ++candidate) {
    const float steps = 7.0f + 0.25f * static_cast<float>(candidate / 2);
    const float magnitude = absmax / steps;
    const uint16_t scale = F32ToF16(candidate % 2 == 0 ? magnitude : -magnitude);
    int8_t q[kGroupMax];
    const float error = Quantize(w, count, F16ToF32(scale), -8.0f, 7.0f, q);
    if (best >= 0 && !(error < best)) continue;
    best = error;
    out->scale = scale;
    std::memcpy(out->q, q, count);
  }
  return true;
}

absl::Status PackIntRow(const WeightFormat& format, const float* w, size_t k, size_t row,
                        const PanelLayout& layout, uint8_t* panel) {
  const size_t lane = row % kPanelOutputs;
  if (IsW4x(format)) {
    PackW4xRow(format, w, k, layout, lane, panel);
    return absl::OkStatus();
  }
  OCTET_CHECK_GT(format.group, 0u);
  for (size_t begin = 0; begin < layout.padded_k; begin += format.group) {
    float values[kGroupMax] = {};
    for (size_t i = 0; i < format.group && begin + i < k; ++i) values[i] = w[begin + i];
    QuantizedGroup group{};
    const bool ok = format.bits == 4 ? QuantizeInt4(values, format.group, &group)
                                     : QuantizeInt8(values, format.group, &group);
    if (!ok) {
      return absl::InvalidArgumentError(absl::StrCat("weights of row ", row, " near column ", begin,
                                                     " are too large for an f16 scale"));
    }
    std::memcpy(panel + (begin / format.group * 16 + lane) * 2, &group.scale, 2);
    for (size_t i = 0; i < format.group; ++i) {
      SetCode(format, panel + layout.values, begin + i, lane, group.q[i] + format.offset);
    }
  }
  return absl::OkStatus();
}

absl::Status PackFloatRow(const WeightFormat& format, const float* w, size_t k, size_t row,
                          uint8_t* panel) {
  const size_t lane = row % kPanelOutputs;
  for (size_t i = 0; i < k; ++i) {
    if (format.kind == WeightKind::kF32) {
      std::memcpy(panel + (i * 16 + lane) * 4, w + i, 4);
      continue;
    }
    const bool half = format.kind == WeightKind::kF16;
    const uint16_t bits = half ? F32ToF16(w[i]) : F32ToBF16(w[i]);
    const uint16_t infinity = half ? 0x7c00 : 0x7f80;
    if ((bits & infinity) == infinity) {
      return absl::InvalidArgumentError(absl::StrCat("weight ", w[i], " at row ", row, ", column ",
                                                     i, " overflows ", WeightFormatName(format)));
    }
    std::memcpy(panel + (i * 16 + lane) * 2, &bits, 2);
  }
  return absl::OkStatus();
}

bool HasQuantiser(const WeightFormat& f) {
  if (IsW4x(f)) return true;
  return f.scale == ScaleEncoding::kF16 && !f.minimum && f.group <= kGroupMax &&
         ((f.bits == 8 && f.offset == 0) || (f.bits == 4 && f.offset == 8));
}

}  // namespace

absl::Status PackFloatWeights(const WeightFormat& format, MatrixView<const float> w, uint8_t* out) {
  if (format.is_integer() && !HasQuantiser(format)) {
    return absl::InvalidArgumentError(
        absl::StrCat("no quantiser for weight format \"", WeightFormatName(format),
                     "\"; there is one for f32, f16, bf16, q8_0, q4_0, int8g*, int4g*, w4xg*"));
  }
  const absl::Status fits = CheckInputs(format, w.cols);
  if (!fits.ok()) return fits;
  const PanelLayout layout = MakePanelLayout(format, w.cols);
  std::memset(out, 0, PanelCount(w.rows) * layout.bytes);
  for (size_t row = 0; row < w.rows; ++row) {
    const float* source = w.row(row);
    for (size_t i = 0; i < w.cols; ++i) {
      if (!std::isfinite(source[i])) {
        return absl::InvalidArgumentError(
            absl::StrCat("weight at row ", row, ", column ", i, " is not finite: ", source[i]));
      }
    }
    uint8_t* panel = out + row / kPanelOutputs * layout.bytes;
    const absl::Status status = format.is_integer()
                                    ? PackIntRow(format, source, w.cols, row, layout, panel)
                                    : PackFloatRow(format, source, w.cols, row, panel);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace octet
