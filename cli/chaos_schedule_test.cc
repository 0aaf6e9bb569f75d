#include "cli/chaos_schedule.h"

#include <gtest/gtest.h>

#include <set>

namespace octet {
namespace {

constexpr Duration kEvery = Duration::Millis(4'000);
constexpr Duration kSettle = Duration::Millis(2'000);

MonotonicTime At(int64_t ms) { return MonotonicTime{ms * 1'000'000}; }

TEST(ChaosSchedule, KillsEveryWorkerSoonerOrLaterAtItsPace) {
  ChaosSchedule schedule(kEvery, kSettle, 7);
  const std::vector<MonotonicTime> serving(4, At(0));
  std::set<size_t> victims;
  int kills = 0;
  for (int64_t ms = 0; ms < 400'000; ms += 100) {
    const auto victim = schedule.Next(At(ms), serving);
    if (!victim.has_value()) continue;
    EXPECT_GE(ms, 2'000);
    victims.insert(*victim);
    ++kills;
  }
  EXPECT_EQ(victims, (std::set<size_t>{0, 1, 2, 3}));
  EXPECT_GE(kills, 400 / 6);
  EXPECT_LE(kills, 400 / 2);
}

TEST(ChaosSchedule, WaitsUntilAllHaveServedForAWhile) {
  ChaosSchedule schedule(kEvery, kSettle, 7);
  std::vector<MonotonicTime> serving = {At(0), kNever};
  EXPECT_FALSE(schedule.Next(At(0), serving).has_value());
  EXPECT_FALSE(schedule.Next(At(60'000), serving).has_value());
  EXPECT_EQ(schedule.due(), At(62'000));
  serving[1] = At(61'000);
  EXPECT_FALSE(schedule.Next(At(62'000), serving).has_value());
  EXPECT_EQ(schedule.due(), At(63'000));
  EXPECT_TRUE(schedule.Next(At(63'000), serving).has_value());
  EXPECT_GT(schedule.due(), At(64'999));
}

TEST(ChaosSchedule, OneSeedOneHistory) {
  ChaosSchedule one(kEvery, kSettle, 3), two(kEvery, kSettle, 3);
  const std::vector<MonotonicTime> serving(8, At(0));
  for (int64_t ms = 0; ms < 100'000; ms += 50) {
    EXPECT_EQ(one.Next(At(ms), serving), two.Next(At(ms), serving));
  }
}

}  // namespace
}  // namespace octet
