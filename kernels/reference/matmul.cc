#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/panel_layout.h"
#include "kernels/reference/reference.h"

namespace octet::reference {
namespace {

float FloatWeight(const WeightFormat& format, const uint8_t* panel, size_t k, size_t lane) {
  const uint8_t* p = panel + (k * kPanelOutputs + lane) * FloatWeightBytes(format);
  if (format.kind == WeightKind::kF32) {
    float f;
    std::memcpy(&f, p, 4);
    return f;
  }
  uint16_t bits;
  std::memcpy(&bits, p, 2);
  return format.kind == WeightKind::kF16 ? F16ToF32(bits) : BF16ToF32(bits);
}

// One output of the integer path, its weights as `code - offset`; its integers are added to *total.
float DotRow(const WeightFormat& format, const std::vector<int16_t>& codes,
             const std::vector<GroupScale>& scales, const int8_t* q, const float* a_scales,
             uint32_t* total) {
  float acc = 0.0f;
  for (size_t g = 0; g < scales.size(); ++g) {
    const size_t begin = g * format.group;
    int32_t dot = 0;
    int32_t sum = 0;
    for (size_t k = begin; k < begin + format.group; ++k) {
      dot += codes[k] * q[k];
      sum += q[k];
    }
    *total += static_cast<uint32_t>(dot);
    const float a_scale = a_scales[begin / format.activation_group];
    acc = std::fma(static_cast<float>(dot), scales[g].scale * a_scale, acc);
    if (format.minimum) acc = std::fma(static_cast<float>(sum), scales[g].minimum * a_scale, acc);
  }
  return acc;
}

}  // namespace

void QuantizeRow(const float* x, size_t k, size_t padded_k, size_t group, int8_t* q,
                 float* scales) {
  for (size_t begin = 0; begin < padded_k; begin += group) {
    const size_t end = std::min(begin + group, k);
    float absmax = 0.0f;
    bool finite = true;
    for (size_t i = begin; i < end; ++i) {
      finite = finite && std::isfinite(x[i]);
      absmax = std::max(absmax, std::fabs(x[i]));
    }
    std::fill(q + begin, q + begin + group, int8_t{0});
    float& scale = scales[begin / group];
    if (!finite) {
      scale = std::numeric_limits<float>::quiet_NaN();
    } else if (absmax < 0x1p-100f) {
      scale = 0.0f;
    } else {
      scale = absmax / 127.0f;
      const float inverse = 127.0f / absmax;
      for (size_t i = begin; i < end; ++i) {
        q[i] = static_cast<int8_t>(std::clamp(std::nearbyint(x[i] * inverse), -127.0f, 127.0f));
      }
    }
  }
}

void MatMulFloat(const PackedWeights& w, ConstTensorF32 x, size_t n_begin, size_t n_end,
                 TensorF32 y) {
  const PanelLayout layout = MakePanelLayout(w.format, w.k);
  std::vector<float> weights(w.k);
  for (size_t n = n_begin; n < n_end; ++n) {
    const uint8_t* panel = w.data + n / kPanelOutputs * layout.bytes;
    for (size_t k = 0; k < w.k; ++k) {
      weights[k] = FloatWeight(w.format, panel, k, n % kPanelOutputs);
    }
    for (size_t r = 0; r < x.rows; ++r) {
      const float* row = x.row(r);
      float acc = 0.0f;
      for (size_t k = 0; k < w.k; ++k) acc = std::fma(row[k], weights[k], acc);
      y.row(r)[n] = acc;
    }
  }
}

void MatMulInt(const PackedWeights& w, const QuantizedRows& x, size_t n_begin, size_t n_end,
               TensorF32 y, absl::Span<uint32_t> sums) {
  const WeightFormat& format = w.format;
  const PanelLayout layout = MakePanelLayout(format, w.k);
  std::vector<int16_t> codes(layout.padded_k);
  std::vector<GroupScale> scales(layout.padded_k / format.group);
  const size_t end = sums.empty() || n_end < w.n ? n_end : PanelCount(w.n) * kPanelOutputs;
  for (size_t n = n_begin; n < end; ++n) {
    const uint8_t* panel = w.data + n / kPanelOutputs * layout.bytes;
    const size_t lane = n % kPanelOutputs;
    for (size_t k = 0; k < layout.padded_k; ++k) {
      codes[k] =
          static_cast<int16_t>(GetCode(format, panel + layout.values, k, lane) - format.offset);
    }
    for (size_t g = 0; g < scales.size(); ++g) {
      scales[g] = GetGroupScale(format, layout, panel, g, lane);
    }
    for (size_t r = 0; r < x.rows; ++r) {
      uint32_t total = 0;
      const float out = DotRow(format, codes, scales, x.q + r * x.padded_k,
                               x.scales + r * (x.padded_k / x.group), &total);
      if (n < w.n) y.row(r)[n] = out;
      if (!sums.empty()) sums[r] += total;
    }
  }
}

}  // namespace octet::reference
