#include "router/gate_statistics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace octet {
namespace {

using ::testing::ElementsAre;

// Rows of four experts, two of them chosen.
struct Rows {
  std::vector<uint32_t> experts;
  std::vector<float> weights;
  std::vector<float> probabilities;

  TopK Choice() { return {experts.size() / 2, 2, experts.data(), weights.data(), Data()}; }
  float* Data() { return probabilities.data(); }
};

Rows ThreeRows() {
  Rows rows;
  rows.experts = {0, 1, 0, 3, 2, 0};
  rows.weights.assign(6, 0.5f);
  rows.probabilities = {0.25f, 0.25f, 0.25f, 0.25f,  // 2 bits
                        1.0f,  0.0f,  0.0f,  0.0f,   // 0 bits
                        0.5f,  0.0f,  0.5f,  0.0f};  // 1 bit
  return rows;
}

TEST(GateStatisticsTest, CountsLoadAndMeanEntropyOfEachLayer) {
  GateStatistics statistics(2, 4);
  Rows rows = ThreeRows();
  statistics.Add(LayerId(1), {0, 1, 2}, rows.Choice());
  const auto layers = statistics.Read();
  ASSERT_EQ(layers.size(), 2u);
  EXPECT_EQ(layers[0].rows, 0u);
  EXPECT_EQ(layers[0].max_over_mean, 0.0);
  EXPECT_EQ(layers[1].rows, 3u);
  EXPECT_THAT(layers[1].rows_per_expert, ElementsAre(3, 1, 1, 1));
  EXPECT_NEAR(layers[1].entropy_bits, 1.0, 1e-12);
  EXPECT_DOUBLE_EQ(layers[1].max_over_mean, 2.0);
}

TEST(GateStatisticsTest, LeavesOutPositionsBeforeTheFirstCounted) {
  GateStatistics statistics(1, 4);
  Rows rows = ThreeRows();
  statistics.CountFrom(6);
  statistics.Add(LayerId(0), {5, 6, 7}, rows.Choice());
  EXPECT_THAT(statistics.Read()[0].rows_per_expert, ElementsAre(2, 0, 1, 1));
  EXPECT_NEAR(statistics.Read()[0].entropy_bits, 0.5, 1e-12);
  statistics.CountFrom(0);
  statistics.Add(LayerId(0), {5, 6, 7}, rows.Choice());
  EXPECT_EQ(statistics.Read()[0].rows, 5u);
}

}  // namespace
}  // namespace octet
