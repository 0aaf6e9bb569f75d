#include "cli/bench_timeline.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace octet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(BenchTimeline, PhasesAreLinesOfTokenIds) {
  const auto phases = ParsePhases("1 2\n\n 3\t4 5\n", "f", 10);
  ASSERT_TRUE(phases.ok()) << phases.status();
  EXPECT_THAT(*phases, ElementsAre(ElementsAre(1, 2), ElementsAre(3, 4, 5)));
}

TEST(BenchTimeline, BadPhasesAreNamed) {
  EXPECT_THAT(ParsePhases("1 2\n3 10\n", "f", 10).status().message(),
              HasSubstr("f, line 2: token id 10, allowed are 0 to 9"));
  EXPECT_THAT(ParsePhases("1\nx\n", "f", 10).status().message(), HasSubstr("f, line 2"));
  EXPECT_THAT(ParsePhases("\n", "f", 10).status().message(), HasSubstr("has 0 lines"));
  std::string many;
  for (uint32_t i = 0; i <= kBenchPhasesMax; ++i) many += "1\n";
  EXPECT_FALSE(ParsePhases(many, "f", 10).ok());
}

TEST(BenchTimeline, PhasesShareTheRequestsInOrder) {
  EXPECT_EQ(PhaseOf(0, 10, 2), 0u);
  EXPECT_EQ(PhaseOf(4, 10, 2), 0u);
  EXPECT_EQ(PhaseOf(5, 10, 2), 1u);
  EXPECT_EQ(PhaseOf(9, 10, 2), 1u);
}

TEST(BenchTimeline, TokensAreCountedWhereTheyCome) {
  const MonotonicTime start{1'000'000'000};
  const auto at = [&](int64_t ms) { return start + Duration::Millis(ms); };
  RequestTimes a, b;
  a.start = at(0);
  a.tokens = {at(100), at(499), at(500)};
  a.prompt_tokens = 30;
  b.start = at(600);
  b.phase = 1;
  b.tokens = {at(1'200)};
  b.prompt_tokens = 10;
  EXPECT_EQ(TimelineCsv({b, a}, start),
            "seconds,prompt_tokens_per_s,tokens_per_s,phase\n"
            "0.0,60.0,4.0,0\n0.5,0.0,2.0,1\n1.0,20.0,2.0,1\n");
}

}  // namespace
}  // namespace octet
