#include "tests/fault/gap_statistics.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace octet {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

MonotonicTime At(int64_t ms) { return MonotonicTime{ms * 1'000'000}; }

TEST(GapStatistics, TheLongestGapThatTouchesAWindowCounts) {
  // One stream stalls across the window's begin; another has no gap near it.
  const std::vector<StreamGaps> streams = {{{At(0), At(10)}, {At(10), At(95)}, {At(95), At(100)}},
                                           {{At(0), At(5)}}};
  EXPECT_THAT(LongestGaps(streams, {{At(90), At(110)}}), ElementsAre(85));
  EXPECT_THAT(LongestGaps(streams, {{At(97), At(110)}}), ElementsAre(5));
  EXPECT_THAT(LongestGaps(streams, {{At(200), At(210)}}), IsEmpty());
}

TEST(GapStatistics, WindowsAreWholeAndGapsWithinLieInside) {
  const auto windows = Windows(At(0), At(25), Duration::Millis(10));
  ASSERT_EQ(windows.size(), 2u);
  EXPECT_EQ(windows[1].begin, At(10));
  EXPECT_EQ(windows[1].end, At(20));
  const std::vector<StreamGaps> streams = {{{At(0), At(8)}, {At(8), At(12)}, {At(12), At(19)}}};
  EXPECT_THAT(GapsWithin(streams, windows[0]), ElementsAre(8));
  EXPECT_THAT(GapsWithin(streams, windows[1]), ElementsAre(7));
}

TEST(GapStatistics, AddedIsNeverNegative) {
  EXPECT_THAT(Added({1, 5, 9}, 4), ElementsAre(0, 1, 5));
}

}  // namespace
}  // namespace octet
