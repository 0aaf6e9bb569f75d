#include "router/admission.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace octet {
namespace {

using ::testing::HasSubstr;

AdmissionOptions Options(uint32_t requests, uint64_t tokens, int64_t wait_ms) {
  return {requests, tokens, Duration::Millis(wait_ms)};
}

// A queue and its time.
class Queue {
 public:
  explicit Queue(const AdmissionOptions& options) : admission(options) {}
  void Enter(uint64_t tokens) { admission.Enter(tokens, now); }
  // Requests of `tokens` leave and others of as many come, `times` times, each after 100 ms.
  void Serve(uint64_t tokens, int times) {
    for (int i = 0; i < times; ++i) {
      now = now + Duration::Millis(100);
      admission.Leave(1, tokens, now);
      Enter(tokens);
    }
  }

  Admission admission;
  MonotonicTime now{1'000'000'000};
};

TEST(AdmissionTest, CountsRequests) {
  Queue queue(Options(2, 0, 0));
  queue.Enter(1'000'000);
  EXPECT_TRUE(queue.admission.Check(1'000'000, false).ok());
  queue.Enter(1'000'000);
  EXPECT_EQ(queue.admission.Check(1, false).code(), absl::StatusCode::kResourceExhausted);
  queue.admission.Leave(1, 1'000'000, queue.now);
  EXPECT_TRUE(queue.admission.Check(1, false).ok());
}

TEST(AdmissionTest, AnswersThatAnotherRouterBeganAreBoundByNumberOnly) {
  AdmissionOptions options = Options(3, 1'000, 10);
  options.resumed_max = 2;
  Queue queue(options);
  queue.Enter(900);
  queue.Serve(900, 20);  // 9,000 tokens a second: the wait is 100 ms
  EXPECT_FALSE(queue.admission.Check(1, false).ok());
  for (int i = 0; i < 4; ++i) {
    EXPECT_TRUE(queue.admission.Check(5'000, true).ok()) << i;
    queue.Enter(5'000);
  }
  const absl::Status refused = queue.admission.Check(1, true);
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("5 requests wait"));
}

TEST(AdmissionTest, ManyCheapRequestsOrFewDearOnes) {
  Queue queue(Options(100, 1000, 0));
  for (int i = 0; i < 10; ++i) {
    ASSERT_TRUE(queue.admission.Check(90, false).ok()) << i;
    queue.Enter(90);
  }
  EXPECT_TRUE(queue.admission.Check(100, false).ok()) << "fills the bound exactly";
  const absl::Status refused = queue.admission.Check(101, false);
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("900 tokens"));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("at most 1000"));
  queue.admission.Leave(10, 900, queue.now);
  EXPECT_EQ(queue.admission.waiting(), 0u);
  EXPECT_EQ(queue.admission.waiting_tokens(), 0u);
}

TEST(AdmissionTest, WhereNoneWaitsAnyRequestIsTaken) {
  Queue queue(Options(100, 1000, 10));
  EXPECT_TRUE(queue.admission.Check(50'000, false).ok());
  queue.Enter(50'000);
  EXPECT_FALSE(queue.admission.Check(1, false).ok());
}

TEST(AdmissionTest, TheWaitFollowsFromWhatWasServed) {
  Queue queue(Options(100, 0, 2000));
  queue.Enter(950);
  queue.Enter(50);
  EXPECT_EQ(queue.admission.ExpectedWait().ns, 0) << "no rate is known";
  EXPECT_TRUE(queue.admission.Check(1, false).ok());
  queue.Serve(50, 100);  // 500 tokens a second
  EXPECT_NEAR(queue.admission.ExpectedWait().seconds(), 2.0, 1e-6);
  queue.Enter(10);
  const absl::Status refused = queue.admission.Check(1, false);
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("at most 2000 ms"));
  queue.admission.Leave(1, 500, queue.now);
  EXPECT_TRUE(queue.admission.Check(1, false).ok());
}

TEST(AdmissionTest, ANewRateReplacesAnOldOne) {
  Queue queue(Options(100, 0, 0));
  queue.Enter(900);
  queue.Enter(10);
  queue.Serve(10, 100);
  EXPECT_NEAR(queue.admission.ExpectedWait().seconds(), 9.1, 0.01);
  queue.Enter(100);
  queue.Serve(100, 600);
  EXPECT_NEAR(queue.admission.ExpectedWait().seconds(), 1.01, 0.1);
}

TEST(AdmissionTest, TimeWithoutWaitingOrWithoutStepsIsNoRate) {
  Queue queue(Options(100, 0, 1000));
  queue.Enter(500);
  queue.Enter(100);
  queue.Serve(100, 100);  // 1,000 tokens a second
  queue.admission.Leave(2, 600, queue.now);
  queue.now = queue.now + Duration::Millis(3'600'000);  // nobody asks
  queue.Enter(600);
  queue.now = queue.now + Duration::Millis(60'000);  // no expert
  queue.admission.Pause(queue.now);
  queue.admission.Leave(0, 0, queue.now);
  EXPECT_NEAR(queue.admission.ExpectedWait().seconds(), 0.6, 1e-6);
  EXPECT_TRUE(queue.admission.Check(1, false).ok());
}

TEST(AdmissionTest, RetryDelayIsHalfTheWaitWithinBounds) {
  Queue queue(Options(100, 0, 0));
  EXPECT_EQ(queue.admission.RetryDelay().ns, Admission::kRetryDelayMin.ns);
  queue.Enter(3900);
  queue.Enter(100);
  EXPECT_EQ(queue.admission.RetryDelay().ns, Admission::kRetryDelayMin.ns);
  queue.Serve(100, 100);
  EXPECT_NEAR(queue.admission.RetryDelay().seconds(), 2, 1e-6);
  queue.Enter(1'000'000);
  EXPECT_EQ(queue.admission.RetryDelay().ns, Admission::kRetryDelayMax.ns);
  queue.admission.Leave(3, 1'004'000, queue.now);
  EXPECT_EQ(queue.admission.RetryDelay().ns, Admission::kRetryDelayMin.ns);
}

}  // namespace
}  // namespace octet
