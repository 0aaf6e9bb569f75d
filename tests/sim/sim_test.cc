// Thousands of schedules on every run, the proof that a seed replays exactly, and the proof that
// the checks see what they are for.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/sim/cluster.h"
#include "tests/sim/shrink.h"

namespace octet::sim {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kSchedules = 5'000;

class SimTest : public ::testing::Test {
 protected:
  SimTest() { SilenceLog(); }
};

// The smallest plan that fails as this one does, as a script for tests/sim/scripts.
std::string ShrunkScript(const Plan& plan) {
  const Plan small = Shrink(plan, [](const Plan& candidate) { return RunPlan(candidate).failure; });
  return absl::StrCat(PlanToText(small), "# ", RunPlan(small).failure);
}

TEST_F(SimTest, SchedulesHold) {
  Coverage coverage;
  for (uint64_t seed = 1; seed <= kSchedules; ++seed) {
    const Plan plan = MakePlan(seed);
    const Outcome outcome = RunPlan(plan);
    ASSERT_EQ(outcome.failure, "") << "seed " << seed << ", which shrinks to:\n"
                                   << ShrunkScript(plan);
    coverage.AddSchedule(outcome.coverage);
  }
  // A fault or a state that nothing reaches any more is a test that has gone blind.
  for (size_t i = 0; i < kCoveredCount; ++i) {
    EXPECT_GT(coverage.schedules[i], 0u) << CoveredName(static_cast<Covered>(i));
  }
}

TEST_F(SimTest, ASeedReplaysExactly) {
  uint64_t last = 0;
  for (uint64_t seed = 1; seed <= 100; ++seed) {
    const Outcome first = RunPlan(MakePlan(seed));
    const Outcome second = RunPlan(MakePlan(seed));
    ASSERT_EQ(first.hash, second.hash) << seed;
    ASSERT_EQ(first.events, second.events) << seed;
    EXPECT_NE(first.hash, last) << seed;
    last = first.hash;
  }
}

TEST_F(SimTest, TheTextOfAPlanIsThePlan) {
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    const std::string text = PlanToText(MakePlan(seed));
    const auto read = PlanFromText(text);
    ASSERT_TRUE(read.ok()) << read.status();
    ASSERT_EQ(PlanToText(*read), text);
    if (seed <= 30) {
      EXPECT_EQ(RunPlan(*read).hash, RunPlan(MakePlan(seed)).hash) << seed;
    }
  }
}

TEST_F(SimTest, BadScriptsAreRefused) {
  EXPECT_THAT(PlanFromText("melt-worker at=1\n").status().message(), HasSubstr("no such fault"));
  EXPECT_THAT(PlanFromText("crash-worker at=1 c=2").status().message(),
              HasSubstr("no field \"c\""));
  EXPECT_THAT(PlanFromText("set workers=x").status().message(), HasSubstr("NAME=NUMBER"));
  EXPECT_THAT(PlanFromText("crash-worker at=1 a=3").status().message(), HasSubstr("out of range"));
}

// What was found once stays found: each script is a plan that failed.
TEST_F(SimTest, ScriptsHold) {
  size_t scripts = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(OCTET_SOURCE_DIR "/tests/sim/scripts")) {
    std::ifstream file(entry.path());
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    const auto plan = PlanFromText(text);
    ASSERT_TRUE(plan.ok()) << entry.path() << ": " << plan.status();
    EXPECT_EQ(RunPlan(*plan).failure, "") << entry.path();
    ++scripts;
  }
  EXPECT_GT(scripts, 0u);
}

struct KnownBug {
  const char* name;
  Bugs bugs;
  uint64_t schedules;    // that are enough to find it
  const char* expected;  // of what is then said
};

std::vector<KnownBug> KnownBugs() {
  std::vector<KnownBug> all(5);
  all[0] = {"a placement is announced before it is on disk", {}, 20, "before it was saved"};
  all[0].bugs.coordinator.announce_before_persist = true;
  all[1] = {"a placement is activated before its workers are prepared", {}, 50, "does not hold"};
  all[1].bugs.coordinator.activate_unprepared = true;
  all[2] = {"a coordinator with an empty disk does not ask what members have seen", {}, 500, ""};
  all[2].bugs.coordinator.forget_seen = true;
  all[3] = {"a worker computes another layer now and then", {}, 50, "instead of"};
  all[3].bugs.worker.wrong_layer = true;
  all[4] = {"a reply counts for an attempt that is not its own", {}, 200, "instead of"};
  all[4].bugs.link.any_attempt = true;
  return all;
}

TEST_F(SimTest, KnownBugsAreFoundAndShrunk) {
  for (const KnownBug& bug : KnownBugs()) {
    SCOPED_TRACE(bug.name);
    const RunFn run = [&](const Plan& plan) { return RunPlan(plan, bug.bugs).failure; };
    uint64_t seed = 1;
    while (seed <= bug.schedules && run(MakePlan(seed)).empty()) ++seed;
    ASSERT_LE(seed, bug.schedules) << "not found";
    const Plan found = MakePlan(seed);
    const Plan small = Shrink(found, run, /*runs_max=*/150);
    EXPECT_THAT(run(small), HasSubstr(bug.expected));
    EXPECT_LE(small.faults.size() + small.requests.size(),
              found.faults.size() + found.requests.size());
    EXPECT_LE(small.faults.size(), 3u) << PlanToText(small);
    std::printf("found by schedule %d: %s\n", static_cast<int>(seed), bug.name);
  }
}

// What is lost without a word is noticed by its silence: requests take longer, and all end right.
TEST_F(SimTest, ALinkThatForgetsWhatWasInFlightCostsTimeAlone) {
  Bugs bugs;
  bugs.link.forgets_in_flight = true;
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    EXPECT_EQ(RunPlan(MakePlan(seed), bugs).failure, "") << seed;
  }
}

}  // namespace
}  // namespace octet::sim
