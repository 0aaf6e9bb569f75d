// The experts on bf16 tensor cores: near sums in double, and the same bits however rows are
// batched.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cuda/test_util.h"
#include "kernels/packed_weights.h"
#include "kernels/test_util.h"

namespace octet::cuda {
namespace {

using octet::test::Normal;
using test::Api;
using test::DeviceArray;
using test::Ok;

// Bounds on the rows of an expert that choose each tiling.
constexpr uint32_t kTilingBounds[] = {8, 16, 32, 64, 128, 300};

// Uniform in ±scale; cheap, for large matrices.
std::vector<uint16_t> RandomBf16(size_t count, float scale, uint64_t seed) {
  std::vector<uint16_t> values(count);
  uint64_t state = seed * 0x9e3779b97f4a7c15u + 1;
  for (uint16_t& v : values) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    const auto bits = static_cast<int32_t>(state >> 32);
    v = F32ToBF16(static_cast<float>(bits) * scale / 2147483648.0f);
  }
  return values;
}

// Entries sorted by expert: the rows of each.
using Groups = std::vector<std::vector<uint32_t>>;

size_t EntryCount(const Groups& groups) {
  size_t entries = 0;
  for (const auto& g : groups) entries += g.size();
  return entries;
}

// Experts with random weights, on the host and on the device.
class Layer {
 public:
  Layer(size_t hidden, size_t middle, size_t experts, uint64_t seed)
      : hidden_(hidden), middle_(middle) {
    const float scale = 1.7f / std::sqrt(static_cast<float>(hidden));
    const float down_scale = 1.7f / std::sqrt(static_cast<float>(middle));
    std::vector<ExpertMatrices> matrices(experts);
    for (size_t e = 0; e < experts; ++e) {
      Add(middle, hidden, scale, seed + 3 * e, &matrices[e].gate);
      Add(middle, hidden, scale, seed + 3 * e + 1, &matrices[e].up);
      Add(hidden, middle, down_scale, seed + 3 * e + 2, &matrices[e].down);
    }
    matrices_ = DeviceArray<ExpertMatrices>(matrices);
  }

  size_t hidden() const { return hidden_; }
  size_t experts() const { return host_.size() / 3; }

  // One more row of y than there are entries, which nothing may write.
  std::vector<float> Run(const std::vector<float>& x, const Groups& groups,
                         uint32_t rows_of_expert_max, size_t spare_rows = 0) const {
    std::vector<uint32_t> offsets = {0};
    std::vector<uint32_t> rows;
    for (const auto& g : groups) {
      rows.insert(rows.end(), g.begin(), g.end());
      offsets.push_back(static_cast<uint32_t>(rows.size()));
    }
    const size_t rows_max = rows.size() + spare_rows;
    rows.resize(rows_max + 1, 0xffffffff);
    const DeviceArray<uint32_t> device_offsets(offsets);
    const DeviceArray<uint32_t> device_rows(rows);
    const DeviceArray<float> device_x(x);
    const DeviceArray<float> y((rows_max + 1) * hidden_);
    const DeviceArray<uint8_t> scratch(Api().moe_scratch_bytes_bf16(
        hidden_, middle_, static_cast<uint32_t>(groups.size()), rows_max));
    const RowGroups device_groups = {static_cast<uint32_t>(groups.size()), device_offsets.data(),
                                     device_rows.data(), rows_of_expert_max,
                                     static_cast<uint32_t>(rows_max)};
    Ok(Api().moe_ffn_bf16(nullptr, hidden_, middle_, matrices_.data(), device_groups,
                          device_x.data(), scratch.data(), y.data()));
    Ok(Api().synchronize(nullptr));
    std::vector<float> out = y.Get();
    for (size_t i = offsets.back() * hidden_; i < out.size(); ++i) {
      uint32_t bits;
      std::memcpy(&bits, &out[i], 4);
      OCTET_CHECK_EQ(bits, 0xffffffffu) << "written past the entries";
    }
    out.resize(offsets.back() * hidden_);
    return out;
  }

  // The same in double from the rounded row, rounding the middle row to bf16.
  std::vector<double> Expected(const float* x, size_t expert) const {
    std::vector<double> row(hidden_);
    for (size_t k = 0; k < hidden_; ++k) row[k] = BF16ToF32(F32ToBF16(x[k]));
    const std::vector<double> gate = Times(3 * expert, middle_, row);
    const std::vector<double> up = Times(3 * expert + 1, middle_, row);
    std::vector<double> h(middle_);
    for (size_t j = 0; j < middle_; ++j) {
      const double value = gate[j] / (1.0 + std::exp(-gate[j])) * up[j];
      h[j] = BF16ToF32(F32ToBF16(static_cast<float>(value)));
    }
    return Times(3 * expert + 2, hidden_, h);
  }

  const ExpertMatrices* matrices() const { return matrices_.data(); }
  size_t middle() const { return middle_; }

 private:
  void Add(size_t n, size_t k, float scale, uint64_t seed, Matrix* out) {
    host_.push_back(RandomBf16(n * k, scale, seed));
    device_.emplace_back(host_.back());
    out->format.kind = WeightKind::kBF16;
    out->format.bits = 16;
    out->n = n;
    out->k = k;
    out->data = reinterpret_cast<const uint8_t*>(device_.back().data());
  }

  std::vector<double> Times(size_t matrix, size_t n, const std::vector<double>& x) const {
    std::vector<double> y(n);
    for (size_t i = 0; i < n; ++i) {
      const uint16_t* w = host_[matrix].data() + i * x.size();
      double sums[4] = {};
      for (size_t k = 0; k < x.size(); k += 4) {
        for (size_t j = 0; j < 4; ++j) sums[j] += x[k + j] * BF16ToF32(w[k + j]);
      }
      y[i] = sums[0] + sums[1] + sums[2] + sums[3];
    }
    return y;
  }

  size_t hidden_;
  size_t middle_;
  std::vector<std::vector<uint16_t>> host_;
  std::vector<DeviceArray<uint16_t>> device_;
  DeviceArray<ExpertMatrices> matrices_;
};

// Row i of `out` against the sums in double.
void ExpectNear(const Layer& layer, const float* x, size_t expert, const float* out) {
  const std::vector<double> expected = layer.Expected(x, expert);
  double error = 0;
  double norm = 0;
  double error_max = 0;
  double value_max = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double difference = std::abs(out[i] - expected[i]);
    error += difference * difference;
    norm += expected[i] * expected[i];
    error_max = std::max(error_max, difference);
    value_max = std::max(value_max, std::abs(expected[i]));
    ASSERT_TRUE(std::isfinite(out[i])) << "output " << i;
  }
  EXPECT_LT(std::sqrt(error / norm), 5e-3);
  EXPECT_LT(error_max, 2e-2 * value_max);
}

// Outputs of each of `rows` rows computed alone by one expert.
std::vector<float> Alone(const Layer& layer, const std::vector<float>& x, uint32_t rows,
                         size_t expert) {
  std::vector<float> out;
  for (uint32_t r = 0; r < rows; ++r) {
    Groups groups(layer.experts());
    groups[expert] = {r};
    const std::vector<float> y = layer.Run(x, groups, 1);
    out.insert(out.end(), y.begin(), y.end());
  }
  return out;
}

// True where every entry of `out` has the bits of its row in `alone`.
bool SameBits(const std::vector<float>& out, const std::vector<uint32_t>& rows,
              const std::vector<float>& alone, size_t hidden) {
  for (size_t i = 0; i < rows.size(); ++i) {
    if (std::memcmp(&out[i * hidden], &alone[rows[i] * hidden], hidden * sizeof(float)) != 0) {
      ADD_FAILURE() << "entry " << i << " of " << rows.size() << ", row " << rows[i];
      return false;
    }
  }
  return true;
}

std::vector<uint32_t> ShuffledRows(uint32_t count, uint32_t of, std::mt19937* rng) {
  std::vector<uint32_t> rows(of);
  std::iota(rows.begin(), rows.end(), 0u);
  std::shuffle(rows.begin(), rows.end(), *rng);
  rows.resize(count);
  return rows;
}

TEST(Bf16ExpertsTest, IsNearSumsInDouble) {
  OCTET_NEEDS_CUDA();
  constexpr size_t kShapes[][2] = {{64, 64}, {128, 192}, {256, 320}, {192, 512}, {320, 64}};
  uint32_t seed = 1;
  for (const auto& [hidden, middle] : kShapes) {
    const Layer layer(hidden, middle, 3, seed);
    const std::vector<float> x = Normal(40 * hidden, seed++);
    for (const uint32_t bound : kTilingBounds) {
      SCOPED_TRACE(testing::Message() << hidden << "x" << middle << ", bound " << bound);
      const Groups groups = {{5, 39}, {}, {0, 7, 7, 21, 30}};
      const std::vector<float> y = layer.Run(x, groups, bound);
      size_t entry = 0;
      for (size_t e = 0; e < groups.size(); ++e) {
        for (const uint32_t row : groups[e]) {
          ExpectNear(layer, &x[row * hidden], e, &y[entry++ * hidden]);
        }
      }
      if (testing::Test::HasFailure()) return;
    }
  }
}

TEST(Bf16ExpertsTest, BitsDoNotDependOnTheBatch) {
  OCTET_NEEDS_CUDA();
  constexpr uint32_t kRows = 300;
  const Layer layer(256, 320, 1, 7);
  const std::vector<float> x = Normal(kRows * layer.hidden(), 8);
  const std::vector<float> alone = Alone(layer, x, kRows, 0);
  std::mt19937 rng(9);
  for (const uint32_t count : {2,  3,   7,   8,   9,   15,  16,  17,  32,  33,  63,  64,
                               65, 100, 127, 128, 129, 191, 192, 193, 255, 256, 257, 300}) {
    const std::vector<uint32_t> rows = ShuffledRows(count, kRows, &rng);
    for (const uint32_t bound : kTilingBounds) {
      SCOPED_TRACE(testing::Message() << count << " rows, bound " << bound);
      const size_t spare = bound % 3 * 5;
      // A bound that is too low still covers all rows: it only chooses the tiling.
      const std::vector<float> y = layer.Run(x, {rows}, bound, spare);
      ASSERT_TRUE(SameBits(y, rows, alone, layer.hidden()));
    }
  }
}

TEST(Bf16ExpertsTest, ServesUnevenGroups) {
  OCTET_NEEDS_CUDA();
  constexpr uint32_t kRows = 280;
  const Layer layer(128, 192, 5, 11);
  const std::vector<float> x = Normal(kRows * layer.hidden(), 12);
  std::vector<std::vector<float>> alone;
  for (size_t e = 0; e < layer.experts(); ++e) alone.push_back(Alone(layer, x, kRows, e));
  std::mt19937 rng(13);
  for (const std::vector<uint32_t>& counts : std::vector<std::vector<uint32_t>>{{0, 3, 0, 70, 1},
                                                                                {1, 1, 1, 1, 1},
                                                                                {0, 0, 0, 0, 280},
                                                                                {257, 0, 64, 65, 9},
                                                                                {8, 0, 0, 0, 0}}) {
    Groups groups;
    for (const uint32_t count : counts) groups.push_back(ShuffledRows(count, kRows, &rng));
    const uint32_t most = *std::max_element(counts.begin(), counts.end());
    for (const uint32_t bound : {most, uint32_t{kRows}}) {
      SCOPED_TRACE(testing::Message() << EntryCount(groups) << " entries, bound " << bound);
      const std::vector<float> y = layer.Run(x, groups, bound, 3);
      size_t entry = 0;
      for (size_t e = 0; e < groups.size(); ++e) {
        const auto begin = y.begin() + static_cast<ptrdiff_t>(entry * layer.hidden());
        entry += groups[e].size();
        const auto end = y.begin() + static_cast<ptrdiff_t>(entry * layer.hidden());
        ASSERT_TRUE(SameBits({begin, end}, groups[e], alone[e], layer.hidden())) << "expert " << e;
      }
    }
  }
}

TEST(Bf16ExpertsTest, NoRowsWriteNothing) {
  OCTET_NEEDS_CUDA();
  const Layer layer(128, 192, 2, 15);
  const std::vector<float> x = Normal(layer.hidden(), 16);
  for (const uint32_t bound : kTilingBounds) {
    EXPECT_TRUE(layer.Run(x, {{}, {}}, bound, 4).empty());
  }
}

TEST(Bf16ExpertsTest, ABadRowFailsAlone) {
  OCTET_NEEDS_CUDA();
  constexpr uint32_t kRows = 20;
  const Layer layer(128, 192, 1, 17);
  std::vector<float> x = Normal(kRows * layer.hidden(), 18);
  std::vector<uint32_t> rows(kRows);
  std::iota(rows.begin(), rows.end(), 0u);
  const std::vector<float> good = layer.Run(x, {rows}, kRows);
  x[3 * layer.hidden() + 5] = NAN;
  x[11 * layer.hidden()] = INFINITY;
  for (const uint32_t bound : kTilingBounds) {
    const std::vector<float> y = layer.Run(x, {rows}, bound);
    for (uint32_t r = 0; r < kRows; ++r) {
      const size_t at = r * layer.hidden();
      if (r == 3 || r == 11) {
        EXPECT_FALSE(std::isfinite(y[at])) << "row " << r;
      } else {
        EXPECT_EQ(std::memcmp(&y[at], &good[at], layer.hidden() * 4), 0) << "row " << r;
      }
    }
  }
}

TEST(Bf16ExpertsTest, RefusesOtherShapes) {
  OCTET_NEEDS_CUDA();
  RowGroups groups;
  EXPECT_NE(Api().moe_ffn_bf16(nullptr, 100, 128, nullptr, groups, nullptr, nullptr, nullptr), 0);
  EXPECT_NE(Api().moe_ffn_bf16(nullptr, 128, 96, nullptr, groups, nullptr, nullptr, nullptr), 0);
}

TEST(Bf16ExpertsTest, RunsFromAGraph) {
  OCTET_NEEDS_CUDA();
  const Layer layer(128, 320, 1, 19);
  const std::vector<float> x = Normal(2 * layer.hidden(), 20);
  const std::vector<float> expected = layer.Run(x, {{1, 0}}, 2);
  const DeviceArray<uint32_t> offsets(std::vector<uint32_t>{0, 2});
  const DeviceArray<uint32_t> rows(std::vector<uint32_t>{1, 0});
  const DeviceArray<float> device_x(x);
  const DeviceArray<float> y(2 * layer.hidden());
  const RowGroups groups = {1, offsets.data(), rows.data(), 2, 2};
  const DeviceArray<uint8_t> scratch(
      Api().moe_scratch_bytes_bf16(layer.hidden(), layer.middle(), 1, 2));
  Stream stream;
  Ok(Api().create_stream(&stream));
  Ok(Api().begin_capture(stream));
  Ok(Api().moe_ffn_bf16(stream, layer.hidden(), layer.middle(), layer.matrices(), groups,
                        device_x.data(), scratch.data(), y.data()));
  Graph graph;
  Ok(Api().end_capture(stream, &graph));
  for (int i = 0; i < 3; ++i) {
    Ok(Api().fill(stream, y.data(), 0xff, y.size() * sizeof(float)));
    Ok(Api().launch_graph(stream, graph));
    Ok(Api().launch_graph(stream, graph));
    Ok(Api().synchronize(stream));
    const std::vector<float> out = y.Get();
    EXPECT_EQ(std::memcmp(out.data(), expected.data(), out.size() * sizeof(float)), 0);
  }
  Api().destroy_graph(graph);
  Api().destroy_stream(stream);
}

TEST(Bf16ExpertsTest, ServesALargeExpert) {
  OCTET_NEEDS_CUDA();
  const Layer layer(4096, 14336, 1, 21);
  const std::vector<float> x = Normal(5 * layer.hidden(), 22);
  const std::vector<uint32_t> rows = {4, 0, 2, 1, 3};
  const std::vector<float> alone = Alone(layer, x, 5, 0);
  ExpectNear(layer, x.data(), 0, alone.data());
  for (const uint32_t bound : kTilingBounds) {
    ASSERT_TRUE(SameBits(layer.Run(x, {rows}, bound), rows, alone, layer.hidden())) << bound;
  }
}

}  // namespace
}  // namespace octet::cuda
