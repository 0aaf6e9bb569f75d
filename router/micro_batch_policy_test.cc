#include "router/micro_batch_policy.h"

#include "gtest/gtest.h"

namespace octet {
namespace {

// Runs `steps` steps that take the given times; how many of them had two parts.
int RunSteps(MicroBatchPolicy* policy, int steps, size_t rows, double one_ms, double two_ms) {
  int split = 0;
  for (int i = 0; i < steps; ++i) {
    const uint32_t parts = policy->Choose(/*prefill=*/false, rows);
    EXPECT_TRUE(parts == 1 || parts == 2);
    split += parts == 2 ? 1 : 0;
    policy->Observe(parts == 1 ? one_ms : two_ms);
  }
  return split;
}

TEST(MicroBatchPolicyTest, TakesTheFasterNumberOfParts) {
  MicroBatchPolicy policy(0);
  RunSteps(&policy, 8, 16, 10, 6);
  EXPECT_GE(RunSteps(&policy, 100, 16, 10, 6), 98);
  MicroBatchPolicy other(0);
  RunSteps(&other, 8, 16, 6, 10);
  EXPECT_LE(RunSteps(&other, 100, 16, 6, 10), 2);
}

TEST(MicroBatchPolicyTest, StaysWhereBothAreAlike) {
  MicroBatchPolicy policy(0);
  RunSteps(&policy, 8, 16, 10, 9.9);
  EXPECT_LE(RunSteps(&policy, 100, 16, 10, 9.9), 2);
}

TEST(MicroBatchPolicyTest, FollowsAChange) {
  MicroBatchPolicy policy(0);
  RunSteps(&policy, 100, 16, 6, 10);
  // The network got slower: one part now waits for it.
  RunSteps(&policy, 600, 16, 20, 10);
  EXPECT_GE(RunSteps(&policy, 100, 16, 20, 10), 98);
}

TEST(MicroBatchPolicyTest, OneOutlierChangesNothing) {
  MicroBatchPolicy policy(0);
  RunSteps(&policy, 20, 16, 6, 10);
  policy.Choose(false, 16);
  policy.Observe(5'000);
  EXPECT_LE(RunSteps(&policy, 60, 16, 6, 10), 6);
  EXPECT_LE(RunSteps(&policy, 100, 16, 6, 10), 2);
}

TEST(MicroBatchPolicyTest, TellsKindsOfStepsApart) {
  MicroBatchPolicy policy(0);
  RunSteps(&policy, 20, 16, 10, 6);
  RunSteps(&policy, 20, 200, 6, 10);
  EXPECT_EQ(policy.Choose(false, 17), 2u);
  EXPECT_EQ(policy.Choose(false, 250), 1u);
}

TEST(MicroBatchPolicyTest, OneRowIsNeverSplitAndFixedIsFixed) {
  MicroBatchPolicy learned(0), fixed(2);
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(learned.Choose(false, 1), 1u);
    EXPECT_EQ(fixed.Choose(false, 1), 1u);
    EXPECT_EQ(fixed.Choose(true, 2), 2u);
    fixed.Observe(i % 2 == 0 ? 1 : 100);
  }
}

TEST(MicroBatchPolicyTest, StoppedTimeTeachesNothing) {
  MicroBatchPolicy policy(0);
  for (int i = 0; i < 50; ++i) {
    EXPECT_EQ(policy.Choose(false, 16), 1u);
    policy.Observe(0);
  }
}

}  // namespace
}  // namespace octet
