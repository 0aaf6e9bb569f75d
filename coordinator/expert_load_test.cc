#include "coordinator/expert_load.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <random>

#include "core/limits.h"
#include "core/rebalance_limits.h"

namespace octet {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

constexpr MemberId kA(1), kB(2);

MonotonicTime At(int64_t ms) { return MonotonicTime{} + Duration::Millis(ms); }

TEST(ExpertLoad, CountsWhatCameSinceTheLastReportOfEachMember) {
  ExpertLoad load;
  load.Report(kA, 7, {1'000'000, 5}, At(0));
  load.Report(kB, 8, {10, 10}, At(0));
  EXPECT_THAT(load.Rows(2, At(0)), ElementsAre(0, 0));
  load.Report(kA, 7, {1'000'100, 5}, At(0));
  load.Report(kB, 8, {10, 40, 3}, At(0));
  EXPECT_THAT(load.Rows(3, At(0)), ElementsAre(100, 30, 3));
  EXPECT_THAT(load.Rows(4, At(0)), ElementsAre(100, 30, 3, 0));
}

TEST(ExpertLoad, HalvesEveryHalfLife) {
  ExpertLoad load;
  load.Report(kA, 7, {1}, At(0));
  load.Report(kA, 7, {1025}, At(0));
  EXPECT_THAT(load.Rows(1, At(kLoadHalfLifeMs)), ElementsAre(512));
  EXPECT_THAT(load.Rows(1, At(3 * kLoadHalfLifeMs)), ElementsAre(128));
  EXPECT_THAT(load.Rows(1, At(1'000'000'000)), ElementsAre(0));
  // Reports in between change nothing of it.
  for (int64_t ms = 10; ms <= kLoadHalfLifeMs; ms += 10) load.Report(kA, 7, {1025}, At(ms));
  EXPECT_THAT(load.Rows(1, At(kLoadHalfLifeMs)), ElementsAre(512));
}

TEST(ExpertLoad, ARestartedOrUnknownProcessIsNoLoad) {
  ExpertLoad load;
  load.Report(kA, 7, {1}, At(0));
  load.Report(kA, 7, {101}, At(0));
  load.Report(kA, 9, {900}, At(0));  // another process
  EXPECT_THAT(load.Rows(1, At(0)), ElementsAre(100));
  load.Report(kA, 9, {3}, At(0));  // went back
  EXPECT_THAT(load.Rows(1, At(0)), ElementsAre(100));
  load.Report(kA, 9, {13}, At(0));
  EXPECT_THAT(load.Rows(1, At(0)), ElementsAre(110));
  load.Forget(kA);
  load.Report(kA, 9, {5000}, At(0));
  EXPECT_THAT(load.Rows(1, At(0)), ElementsAre(110));
}

TEST(ExpertLoad, FollowsAShiftWithinTwoHalfLives) {
  ExpertLoad load;
  std::vector<uint64_t> counted = {1, 1};
  for (int64_t ms = 0; ms < 60'000; ms += 500) {
    counted[ms < 50'000 ? 0 : 1] += 100;
    load.Report(kA, 7, counted, At(ms));
    if (ms == 49'500) {
      EXPECT_EQ(load.Rows(2, At(ms))[1], 0u);
    }
    if (ms == 50'000 + 2 * kLoadHalfLifeMs) {
      EXPECT_GT(load.Rows(2, At(ms))[1], 2 * load.Rows(2, At(ms))[0]);
    }
  }
}

TEST(ExpertLoad, AbsurdReportsStayBounded) {
  ExpertLoad load;
  load.Report(kA, 7, {1}, At(0));
  load.Report(kA, 7, std::vector<uint64_t>(100'000, UINT64_MAX), At(0));
  EXPECT_THAT(load.Rows(kExpertsMax, At(0)), Each(::testing::Le(1'000'000'000'000'000u)));
}

}  // namespace
}  // namespace octet
