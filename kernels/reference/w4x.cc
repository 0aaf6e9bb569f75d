#include "kernels/w4x.h"

#include <cstring>
#include <vector>

#include "kernels/reference/reference.h"

namespace octet::reference {

void MatMulW4x(const PackedWeights& w, const QuantizedRows& x, size_t n_begin, size_t n_end,
               TensorF32 y, absl::Span<uint32_t> sums) {
  const PanelLayout layout = MakePanelLayout(w.format, w.k);
  std::vector<int16_t> weights(layout.padded_k);
  const size_t end = sums.empty() || n_end < w.n ? n_end : PanelCount(w.n) * kPanelOutputs;
  for (size_t n = n_begin; n < end; ++n) {
    const uint8_t* panel = w.data + n / kPanelOutputs * layout.bytes;
    const size_t lane = n % kPanelOutputs;
    const float scale = GetW4xScale(panel, lane);
    for (size_t k = 0; k < layout.padded_k; ++k) {
      const int code = GetCode(w.format, panel + layout.values, k, lane) - w.format.offset;
      const int factor = GetW4xFactor(layout, panel, k / w.format.group, lane);
      weights[k] = static_cast<int16_t>(factor * code);
    }
    for (size_t r = 0; r < x.rows; ++r) {
      const int8_t* q = x.q + r * x.padded_k;
      // Fits an int32 for what our packer makes; modulo 2^32 for any other bytes.
      uint32_t sum = 0;
      for (size_t k = 0; k < layout.padded_k; ++k) {
        sum += static_cast<uint32_t>(weights[k] * q[k]);
      }
      const float out = static_cast<float>(static_cast<int32_t>(sum)) * (scale * x.scales[r]);
      if (n < w.n) y.row(r)[n] = out;
      if (!sums.empty()) sums[r] += sum;
    }
  }
}

}  // namespace octet::reference
