// One layer of 8x7B experts with bf16 weights: decode against the copy bandwidth, prefill against
// the tensor cores.
#include <algorithm>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "bench/cuda/bench.h"
#include "kernels/packed_weights.h"

namespace octet::cuda {
namespace {

using test::Api;
using test::DeviceArray;
using test::Ok;

constexpr size_t kHidden = 4096;
constexpr size_t kMiddle = 14336;
constexpr uint32_t kExperts = 8;
constexpr size_t kMatrixBytes = kHidden * kMiddle * 2;
constexpr size_t kTokensMax = 4096;
// What a large bf16 product reaches on this device (cuBLAS, random data).
constexpr double kMatmulFlops = 790e12;

// Normal values of standard deviation 0.02, one block of 64 MiB over and over.
class Weights {
 public:
  Weights() : memory_(3 * kExperts * kMatrixBytes) {
    std::vector<uint16_t> block(size_t{32} << 20);
    std::mt19937 rng(1);
    std::normal_distribution<float> normal(0.0f, 0.02f);
    std::vector<float> values(1 << 20);
    for (float& v : values) v = normal(rng);
    for (uint16_t& b : block) b = F32ToBF16(values[rng() % values.size()]);
    const DeviceArray<uint16_t> device_block(block);
    const size_t block_bytes = block.size() * 2;
    for (size_t at = 0; at < memory_.size(); at += block_bytes) {
      const size_t bytes = std::min(block_bytes, memory_.size() - at);
      Ok(Api().copy(nullptr, memory_.data() + at, device_block.data(), bytes));
    }
    Ok(Api().synchronize(nullptr));
    std::vector<ExpertMatrices> matrices(kExperts);
    for (size_t e = 0; e < kExperts; ++e) {
      const uint8_t* data = memory_.data() + 3 * e * kMatrixBytes;
      matrices[e].gate = MatrixAt(data, kMiddle, kHidden);
      matrices[e].up = MatrixAt(data + kMatrixBytes, kMiddle, kHidden);
      matrices[e].down = MatrixAt(data + 2 * kMatrixBytes, kHidden, kMiddle);
    }
    experts_ = DeviceArray<ExpertMatrices>(matrices);
  }
  const ExpertMatrices* experts() const { return experts_.data(); }

 private:
  static Matrix MatrixAt(const uint8_t* data, size_t n, size_t k) {
    Matrix m;
    m.format.kind = WeightKind::kBF16;
    m.format.bits = 16;
    m.n = n;
    m.k = k;
    m.data = data;
    return m;
  }
  DeviceArray<uint8_t> memory_;
  DeviceArray<ExpertMatrices> experts_;
};

// Rows of each expert for `tokens` tokens of two random experts each; the first choices of the
// first eight go round, so that from 8 tokens on every expert has rows.
std::vector<std::vector<uint32_t>> Route(uint32_t tokens) {
  std::mt19937 rng(tokens);
  std::vector<std::vector<uint32_t>> groups(kExperts);
  for (uint32_t t = 0; t < tokens; ++t) {
    const uint32_t first = t < kExperts ? t : rng() % kExperts;
    const uint32_t second = (first + 1 + rng() % (kExperts - 1)) % kExperts;
    groups[first].push_back(t);
    groups[second].push_back(t);
  }
  return groups;
}

struct Timing {
  double ms = 0;
  double flops = 0;
  double weight_bytes = 0;  // of the experts that have rows
};

Timing Measure(const Weights& weights, const float* x,
               const std::vector<std::vector<uint32_t>>& groups, uint32_t tokens) {
  std::vector<uint32_t> offsets = {0};
  std::vector<uint32_t> rows;
  Timing timing;
  for (const auto& g : groups) {
    rows.insert(rows.end(), g.begin(), g.end());
    offsets.push_back(static_cast<uint32_t>(rows.size()));
    if (!g.empty()) timing.weight_bytes += 3.0 * kMatrixBytes;
  }
  const DeviceArray<uint32_t> device_offsets(offsets);
  const DeviceArray<uint32_t> device_rows(rows);
  const DeviceArray<float> y(rows.size() * kHidden);
  const DeviceArray<uint8_t> scratch(
      Api().moe_scratch_bytes_bf16(kHidden, kMiddle, kExperts, rows.size()));
  const RowGroups device_groups = {kExperts, device_offsets.data(), device_rows.data(), tokens,
                                   static_cast<uint32_t>(rows.size())};
  timing.flops = 6.0 * static_cast<double>(rows.size() * kHidden) * kMiddle;
  timing.ms = MedianMs([&](int) {
    Ok(Api().moe_ffn_bf16(nullptr, kHidden, kMiddle, weights.experts(), device_groups, x,
                          scratch.data(), y.data()));
  });
  return timing;
}

void ReportTiming(const std::string& name, const Timing& t, double copy_bandwidth) {
  const double seconds = t.ms * 1e-3;
  const double bandwidth = t.weight_bytes / seconds;
  Report(name, t.ms, "ms", t.weight_bytes / copy_bandwidth / seconds);
  Report(name + " weights", bandwidth * 1e-9, "GB/s", bandwidth / copy_bandwidth);
  Report(name + " rate", t.flops / seconds * 1e-12, "TFLOP/s", t.flops / seconds / kMatmulFlops);
}

}  // namespace

void BenchBf16Experts(double copy_bandwidth) {
  const Weights weights;
  std::vector<float> rows(kTokensMax * kHidden);
  std::mt19937 rng(2);
  std::normal_distribution<float> normal(0.0f, 1.0f);
  for (float& v : rows) v = normal(rng);
  const DeviceArray<float> x(rows);

  std::vector<std::vector<uint32_t>> one_expert(kExperts);
  one_expert[3] = {0, 1, 2, 3};
  const std::string prefix = "experts bf16";
  ReportTiming(prefix + ", one expert, 4 rows", Measure(weights, x.data(), one_expert, 4),
               copy_bandwidth);
  for (const uint32_t tokens : {1u, 4u, 16u, 64u, 512u, 2048u, 4096u}) {
    ReportTiming(prefix + " " + std::to_string(tokens) + " tokens",
                 Measure(weights, x.data(), Route(tokens), tokens), copy_bandwidth);
  }
}

}  // namespace octet::cuda
