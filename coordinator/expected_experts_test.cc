#include "coordinator/expected_experts.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>

#include "core/limits.h"

namespace octet {
namespace {

std::vector<uint32_t> Choices(uint32_t experts, uint32_t top_k) {
  std::vector<uint32_t> choices;
  for (uint32_t set = 0; set < (1u << experts); ++set) {
    if (std::popcount(set) == static_cast<int>(top_k)) choices.push_back(set);
  }
  return choices;
}

struct Means {
  double active = 0, busiest = 0;
};

// Over all ways in which `rows` rows can choose. served[w] experts of consecutive numbers.
Means Enumerate(const std::vector<uint32_t>& served, uint32_t top_k, uint32_t rows) {
  uint32_t experts = 0;
  std::vector<uint32_t> masks;
  for (const uint32_t held : served) {
    masks.push_back(((1u << held) - 1) << experts);
    experts += held;
  }
  const std::vector<uint32_t> choices = Choices(experts, top_k);
  std::vector<uint32_t> unions = {0};
  for (uint32_t row = 0; row < rows; ++row) {
    std::vector<uint32_t> next;
    for (const uint32_t set : unions) {
      for (const uint32_t choice : choices) next.push_back(set | choice);
    }
    unions = std::move(next);
  }
  Means means;
  for (const uint32_t set : unions) {
    int busiest = 0;
    for (const uint32_t mask : masks) busiest = std::max(busiest, std::popcount(set & mask));
    means.active += std::popcount(set);
    means.busiest += busiest;
  }
  means.active /= static_cast<double>(unions.size());
  means.busiest /= static_cast<double>(unions.size());
  return means;
}

TEST(ExpectedExperts, EqualTheMeanOverAllChoices) {
  const std::vector<std::vector<uint32_t>> splits = {
      {4}, {2, 2},    {1, 3}, {1, 1, 1, 1}, {3, 2, 1},
      {6}, {2, 2, 2}, {0, 5}, {3, 0, 3},    {1, 1, 2, 2}};
  for (const auto& served : splits) {
    uint32_t experts = 0;
    for (const uint32_t held : served) experts += held;
    for (const uint32_t top_k : {1u, 2u, 3u}) {
      for (uint32_t rows = 1; rows <= 4; ++rows) {
        const Means means = Enumerate(served, top_k, rows);
        EXPECT_NEAR(ExpectedActive(experts, top_k, rows), means.active, 1e-9);
        EXPECT_NEAR(ExpectedBusiest(served, top_k, rows), means.busiest, 1e-9)
            << experts << " experts, top " << top_k << ", rows " << rows;
      }
    }
  }
}

TEST(ExpectedExperts, RowShareCountsTheChoicesThatTouch) {
  for (const uint32_t top_k : {1u, 2u, 3u}) {
    const std::vector<uint32_t> choices = Choices(6, top_k);
    for (uint32_t served = 0; served <= 6; ++served) {
      const auto touch = std::count_if(choices.begin(), choices.end(), [&](uint32_t choice) {
        return (choice & ((1u << served) - 1)) != 0;
      });
      EXPECT_NEAR(RowShare(6, top_k, served),
                  static_cast<double>(touch) / static_cast<double>(choices.size()), 1e-12);
    }
  }
}

TEST(ExpectedExperts, OneForADenseModelAndAllForManyRows) {
  EXPECT_DOUBLE_EQ(ExpectedActive(1, 1, 1), 1);
  EXPECT_DOUBLE_EQ(ExpectedBusiest({1, 0}, 1, 7), 1);
  EXPECT_NEAR(ExpectedBusiest({2, 3, 3}, 2, kStepTokensMax), 3, 1e-9);
}

TEST(ExpectedExperts, HoldUpAtTheLimits) {
  const std::vector<uint32_t> served(64, kExpertsMax / 64);
  const double one = ExpectedBusiest(served, kTopKMax, 1);
  EXPECT_GT(one, 1);
  EXPECT_LT(one, 8);
  EXPECT_NEAR(ExpectedBusiest(served, kTopKMax, kStepTokensMax), 8, 1e-6);
  EXPECT_NEAR(ExpectedBusiest({kExpertsMax}, kTopKMax, 5), ExpectedActive(kExpertsMax, kTopKMax, 5),
              1e-6);
}

}  // namespace
}  // namespace octet
