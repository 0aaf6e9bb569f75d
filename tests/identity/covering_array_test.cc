#include "tests/identity/covering_array.h"

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace octet {
namespace {

TEST(CoveringArrayTest, EveryPairOccurs) {
  for (const std::vector<size_t>& sizes :
       std::vector<std::vector<size_t>>{{2, 2}, {11, 2, 3, 4, 2, 3, 2, 4}, {3, 1, 5}, {4}}) {
    const auto rows = PairwiseArray(sizes);
    size_t largest = 1;
    for (size_t a = 0; a < sizes.size(); ++a) {
      for (size_t b = a + 1; b < sizes.size(); ++b) {
        std::set<std::pair<size_t, size_t>> seen;
        for (const Configuration& row : rows) {
          ASSERT_LT(row[a], sizes[a]);
          ASSERT_LT(row[b], sizes[b]);
          seen.emplace(row[a], row[b]);
        }
        EXPECT_EQ(seen.size(), sizes[a] * sizes[b]);
        largest = std::max(largest, sizes[a] * sizes[b]);
      }
    }
    // Greedy choice stays near the lower bound.
    EXPECT_LE(rows.size(), largest + largest / 2 + 4);
  }
}

TEST(CoveringArrayTest, TheFullProductHasEachConfigurationOnce) {
  const auto rows = FullProduct({3, 2, 4});
  EXPECT_EQ(rows.size(), 24u);
  EXPECT_EQ(std::set<Configuration>(rows.begin(), rows.end()).size(), 24u);
}

}  // namespace
}  // namespace octet
