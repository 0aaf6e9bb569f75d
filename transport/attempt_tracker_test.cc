#include "transport/attempt_tracker.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace octet {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr WorkerId kA{1};
constexpr WorkerId kB{2};
constexpr Epoch kEpoch{3};

MonotonicTime Ms(int64_t ms) { return MonotonicTime{} + Duration::Millis(ms); }

TEST(AttemptTracker, AllGroupsWaitAtFirstAndEndWithTheirReplies) {
  AttemptTracker t(3);
  EXPECT_THAT(t.Waiting(kEpoch), ElementsAre(0, 1, 2));
  const uint32_t a = t.Start(kA, {0, 2}, kNever, kEpoch);
  const uint32_t b = t.Start(kB, {1}, kNever, kEpoch);
  EXPECT_THAT(t.Waiting(kEpoch), IsEmpty());
  EXPECT_THAT(t.Succeed(a), ElementsAre(0, 2));
  EXPECT_FALSE(t.done());
  EXPECT_THAT(t.Succeed(b), ElementsAre(1));
  EXPECT_TRUE(t.done());
  EXPECT_THAT(t.Live(), IsEmpty());
}

TEST(AttemptTracker, OnlyTheFailedAttemptsGroupsWaitAgain) {
  AttemptTracker t(3);
  const uint32_t a = t.Start(kA, {0, 2}, kNever, kEpoch);
  t.Start(kB, {1}, kNever, kEpoch);
  t.Fail(a, Ms(0));
  EXPECT_THAT(t.Waiting(kEpoch), ElementsAre(0, 2));
  EXPECT_FALSE(t.Allows(kA, Ms(0)));
  EXPECT_TRUE(t.Allows(kB, Ms(0)));
  EXPECT_THAT(t.Live(), ElementsAre(1));
}

TEST(AttemptTracker, AFailedWorkerComesBackAfterAPauseThatDoubles) {
  AttemptPolicy policy;
  policy.backoff_min = Duration::Millis(20);
  policy.backoff_max = Duration::Millis(50);
  AttemptTracker t(1, policy);
  t.Fail(t.Start(kA, {0}, kNever, kEpoch), Ms(0));
  EXPECT_EQ(t.NextChange(Ms(0)), Ms(20));
  EXPECT_TRUE(t.Allows(kA, Ms(20)));
  t.Fail(t.Start(kA, {0}, kNever, kEpoch), Ms(100));
  EXPECT_FALSE(t.Allows(kA, Ms(139)));
  EXPECT_TRUE(t.Allows(kA, Ms(140)));
  t.Fail(t.Start(kA, {0}, kNever, kEpoch), Ms(200));
  EXPECT_TRUE(t.Allows(kA, Ms(250)));  // not past the longest pause
}

TEST(AttemptTracker, AfterManyAttemptsAGroupWaitsForANewerPlacement) {
  AttemptPolicy policy;
  policy.attempts_max = 2;
  AttemptTracker t(1, policy);
  t.Fail(t.Start(kA, {0}, kNever, kEpoch), Ms(0));
  EXPECT_THAT(t.Waiting(kEpoch), ElementsAre(0));
  t.Fail(t.Start(kB, {0}, kNever, kEpoch), Ms(0));
  EXPECT_THAT(t.Waiting(kEpoch), IsEmpty());
  EXPECT_THAT(t.Waiting(Epoch(4)), ElementsAre(0));
  t.Fail(t.Start(kB, {0}, kNever, Epoch(4)), Ms(0));
  EXPECT_THAT(t.Waiting(Epoch(4)), ElementsAre(0));  // counted anew
}

TEST(AttemptTracker, OverloadDoesNotUseUpAttempts) {
  AttemptPolicy policy;
  policy.attempts_max = 1;
  AttemptTracker t(1, policy);
  for (int i = 0; i < 5; ++i) {
    t.Fail(t.Start(kA, {0}, kNever, kEpoch), Ms(i), /*counts=*/false);
    EXPECT_THAT(t.Waiting(kEpoch), ElementsAre(0));
  }
}

TEST(AttemptTracker, TheFirstReplyWinsAndTheLateOneChangesNothing) {
  AttemptTracker t(2);
  const uint32_t slow = t.Start(kA, {0, 1}, Ms(10), kEpoch);
  EXPECT_THAT(t.Late(Ms(9)), IsEmpty());
  EXPECT_THAT(t.Late(Ms(10)), ElementsAre(slow));
  EXPECT_TRUE(t.Tries(kA, 0));
  EXPECT_FALSE(t.Tries(kB, 0));
  t.Hedged(slow);
  EXPECT_THAT(t.Late(Ms(1000)), IsEmpty());
  const uint32_t hedge = t.Start(kB, {0, 1}, kNever, kEpoch);
  EXPECT_THAT(t.Succeed(hedge), ElementsAre(0, 1));
  EXPECT_TRUE(t.done());
  EXPECT_THAT(t.Live(), ElementsAre(slow));  // to be cancelled
  EXPECT_THAT(t.Succeed(slow), IsEmpty());
}

TEST(AttemptTracker, AFailedHedgeLeavesTheFirstAttemptAlone) {
  AttemptTracker t(1);
  const uint32_t slow = t.Start(kA, {0}, Ms(10), kEpoch);
  t.Hedged(slow);
  t.Fail(t.Start(kB, {0}, kNever, kEpoch), Ms(11));
  EXPECT_THAT(t.Waiting(kEpoch), IsEmpty());
  EXPECT_THAT(t.Succeed(slow), ElementsAre(0));
}

TEST(AttemptTracker, AnAttemptEndsOnce) {
  AttemptTracker t(1);
  const uint32_t a = t.Start(kA, {0}, kNever, kEpoch);
  t.Fail(a, Ms(0));
  EXPECT_THAT(t.Succeed(a), IsEmpty());
  t.Fail(a, Ms(1000));
  EXPECT_TRUE(t.Allows(kA, Ms(1001)));  // the second failure did not count
}

TEST(AttemptTracker, LateWithAllGroupsAnsweredElsewhereIsNotLate) {
  AttemptTracker t(1);
  const uint32_t slow = t.Start(kA, {0}, Ms(10), kEpoch);
  t.Succeed(t.Start(kB, {0}, kNever, kEpoch));
  EXPECT_THAT(t.Late(Ms(20)), IsEmpty());
  EXPECT_EQ(t.NextChange(Ms(20)), kNever);
  t.PostponeHedge(slow, Ms(30));
  EXPECT_THAT(t.Late(Ms(40)), IsEmpty());
}

}  // namespace
}  // namespace octet
