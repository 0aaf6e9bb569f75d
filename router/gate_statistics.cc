#include "router/gate_statistics.h"

#include <algorithm>

#include "core/check.h"
#include "kernels/math.h"

namespace octet {
namespace {

double EntropyBits(const float* p, size_t n) {
  double sum = 0;
  for (size_t i = 0; i < n; ++i) {
    if (p[i] > 0) sum -= static_cast<double>(p[i]) * LogD(static_cast<double>(p[i]));
  }
  return sum / LogD(2.0);
}

}  // namespace

GateStatistics::GateStatistics(uint32_t layers, uint32_t experts) : experts_(experts) {
  GateLayerStatistics empty;
  empty.rows_per_expert.resize(experts);
  layers_.assign(layers, empty);
}

void GateStatistics::CountFrom(uint32_t position) {
  MutexLock lock(mu_);
  from_ = position;
}

void GateStatistics::Add(LayerId layer, absl::Span<const uint32_t> positions, const TopK& choice) {
  OCTET_CHECK_EQ(positions.size(), choice.rows);
  OCTET_CHECK(choice.probabilities != nullptr);
  MutexLock lock(mu_);
  GateLayerStatistics& out = layers_[layer.value()];
  for (size_t r = 0; r < choice.rows; ++r) {
    if (positions[r] < from_) continue;
    ++out.rows;
    out.entropy_bits += EntropyBits(choice.probabilities + r * experts_, experts_);
    for (size_t slot = 0; slot < choice.k; ++slot) {
      ++out.rows_per_expert[choice.experts[r * choice.k + slot]];
    }
  }
}

std::vector<GateLayerStatistics> GateStatistics::Read() const {
  MutexLock lock(mu_);
  std::vector<GateLayerStatistics> layers = layers_;
  for (GateLayerStatistics& layer : layers) {
    if (layer.rows == 0) continue;
    layer.entropy_bits /= static_cast<double>(layer.rows);
    uint64_t most = 0, all = 0;
    for (const uint64_t rows : layer.rows_per_expert) {
      most = std::max(most, rows);
      all += rows;
    }
    layer.max_over_mean =
        static_cast<double>(most) * static_cast<double>(experts_) / static_cast<double>(all);
  }
  return layers;
}

}  // namespace octet
