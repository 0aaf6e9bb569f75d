// The expert half of a layer with random contents, for benchmarks: weights, a routing, rows.
#ifndef OCTET_BENCH_CUDA_LAYER_H_
#define OCTET_BENCH_CUDA_LAYER_H_

#include <algorithm>
#include <random>
#include <vector>

#include "kernels/cuda/test_util.h"
#include "kernels/panel_layout.h"

namespace octet::cuda {

// Mixtral 8x7B's.
struct LayerShape {
  uint32_t hidden = 4096;
  uint32_t middle = 14336;
  uint32_t experts = 8;
  uint32_t top_k = 2;
};

// A matrix whose panels are random bytes, with scales that keep results finite: made from a few
// different panels, repeated.
class RandomDeviceMatrix {
 public:
  RandomDeviceMatrix(const WeightFormat& format, size_t n, size_t k, uint32_t seed)
      : memory_(test::Api().matrix_bytes(format, n, k)) {
    const PanelLayout layout = MakePanelLayout(format, k);
    constexpr size_t kDistinct = 8;
    std::vector<uint8_t> panels(kDistinct * layout.bytes);
    std::mt19937_64 rng(seed);
    for (size_t i = 0; i + 8 <= panels.size(); i += 8) {
      const uint64_t word = rng();
      std::memcpy(&panels[i], &word, 8);
    }
    for (size_t p = 0; p < kDistinct; ++p) {
      Balance(format, &panels[p * layout.bytes + layout.values], layout.bytes - layout.values);
      FillScales(format, layout, k, &panels[p * layout.bytes]);
    }
    const size_t bytes = PanelCount(n) * layout.bytes;
    test::DeviceArray<uint8_t> packed(bytes);
    for (size_t at = 0; at < bytes; at += panels.size()) {
      test::Ok(test::Api().copy(nullptr, packed.data() + at, panels.data(),
                                std::min(panels.size(), bytes - at)));
    }
    test::Ok(test::Api().tile_matrix(nullptr, format, n, k, packed.data(), memory_.data()));
    test::Ok(test::Api().synchronize(nullptr));
    matrix = {format, n, k, memory_.data()};
  }
  Matrix matrix;
  size_t bytes() const { return memory_.size(); }

 private:
  // The least code becomes zero, so that weights average to zero: an offset common to all of them
  // would drown what tells the tokens of a model apart, and send them all to the same experts.
  static void Balance(const WeightFormat& format, uint8_t* values, size_t bytes) {
    for (size_t i = 0; i < bytes; ++i) {
      uint8_t& v = values[i];
      if (format.bits == 8) {
        if (v == 0x80) v = 0;
        continue;
      }
      if ((v & 0x0f) == 0) v |= 0x08;
      if ((v & 0xf0) == 0) v |= 0x80;
    }
  }
  static void FillScales(const WeightFormat& format, const PanelLayout& layout, size_t k,
                         uint8_t* panel) {
    const size_t groups = layout.padded_k / format.group;
    const bool w4x = format.scale == ScaleEncoding::kF32xI4;
    for (size_t i = 0; i < groups * 16; ++i) {
      const uint16_t half = F32ToF16(0.002f + 0.0001f * static_cast<float>(i % 17));
      if (w4x) {
        panel[layout.second + i] = static_cast<uint8_t>(1 + i % 15);
      } else {
        std::memcpy(panel + 2 * i, &half, 2);
      }
    }
    const float scale = 0.0002f;
    for (size_t i = 0; w4x && i < 16; ++i) std::memcpy(panel + 4 * i, &scale, 4);
  }

  test::DeviceArray<uint8_t> memory_;
};

class IntLayer {
 public:
  IntLayer(const LayerShape& shape, const WeightFormat& format) {
    std::vector<ExpertMatrices> experts;
    for (uint32_t e = 0; e < shape.experts; ++e) {
      matrices_.emplace_back(format, shape.middle, shape.hidden, 3 * e + 1);
      matrices_.emplace_back(format, shape.middle, shape.hidden, 3 * e + 2);
      matrices_.emplace_back(format, shape.hidden, shape.middle, 3 * e + 3);
      experts.push_back(
          {matrices_[3 * e].matrix, matrices_[3 * e + 1].matrix, matrices_[3 * e + 2].matrix});
    }
    shape_of_ = experts[0];
    table_ = test::DeviceArray<ExpertMatrices>(experts);
  }
  const ExpertMatrices& shape_of() const { return shape_of_; }
  const ExpertMatrices* table() const { return table_.data(); }
  size_t bytes() const {
    size_t sum = 0;
    for (const RandomDeviceMatrix& m : matrices_) sum += m.bytes();
    return sum;
  }

 private:
  std::vector<RandomDeviceMatrix> matrices_;
  ExpertMatrices shape_of_;
  test::DeviceArray<ExpertMatrices> table_;
};

// top_k distinct random experts for each token.
class Routed {
 public:
  Routed(const LayerShape& shape, uint32_t tokens, uint32_t seed) {
    std::mt19937 rng(seed);
    std::vector<std::vector<uint32_t>> of(shape.experts);
    std::vector<uint32_t> order(shape.experts);
    for (uint32_t e = 0; e < shape.experts; ++e) order[e] = e;
    for (uint32_t t = 0; t < tokens; ++t) {
      // From 4 tokens on, the first ones go round, so that every expert has rows.
      std::shuffle(order.begin(), order.end(), rng);
      for (uint32_t s = 0; s < shape.top_k; ++s) {
        const uint32_t e = tokens >= 4 && t < 4 ? (t * shape.top_k + s) % shape.experts : order[s];
        of[e].push_back(t);
      }
    }
    std::vector<uint32_t> offsets = {0}, rows;
    for (const auto& list : of) {
      rows.insert(rows.end(), list.begin(), list.end());
      offsets.push_back(static_cast<uint32_t>(rows.size()));
      active_ += list.empty() ? 0 : 1;
      greatest_ = std::max(greatest_, static_cast<uint32_t>(list.size()));
    }
    entries_ = static_cast<uint32_t>(rows.size());
    experts_ = shape.experts;
    offsets_ = test::DeviceArray<uint32_t>(offsets);
    rows_ = test::DeviceArray<uint32_t>(rows);
  }
  RowGroups groups() const {
    return {experts_, offsets_.data(), rows_.data(), greatest_, entries_};
  }
  uint32_t entries() const { return entries_; }
  uint32_t active() const { return active_; }

 private:
  uint32_t experts_ = 0, entries_ = 0, active_ = 0, greatest_ = 0;
  test::DeviceArray<uint32_t> offsets_, rows_;
};

// Quantised random rows for a layer's gate.
class IntRows {
 public:
  IntRows(const IntLayer& layer, uint32_t rows, uint32_t seed) {
    const Matrix& gate = layer.shape_of().gate;
    const size_t padded = PaddedK(gate.format, gate.k);
    std::mt19937 rng(seed);
    std::vector<int8_t> q(rows * padded);
    for (int8_t& v : q) v = static_cast<int8_t>(static_cast<int>(rng() % 255) - 127);
    q_ = test::DeviceArray<int8_t>(q);
    scales_ = test::DeviceArray<float>(
        std::vector<float>(rows * (padded / ActivationGroup(gate.format, gate.k)), 0.01f));
  }
  const int8_t* q() const { return q_.data(); }
  const float* scales() const { return scales_.data(); }

 private:
  test::DeviceArray<int8_t> q_;
  test::DeviceArray<float> scales_;
};

}  // namespace octet::cuda

#endif  // OCTET_BENCH_CUDA_LAYER_H_
