#include "transport/token_dispatcher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "core/damaged.h"
#include "transport/fake_world.h"
#include "transport/local/local_link.h"

namespace octet {
namespace {

using ::testing::HasSubstr;

constexpr LayerId kLayer{3};

class TokenDispatcherTest : public ::testing::Test {
 protected:
  TokenDispatcherTest() : step_(4, 2, {0, 1, 1, 2, 2, 0, 0, 1}) {
    DispatcherOptions options = world_.options();
    options.hedge.unknown = Duration::Millis(100);
    dispatcher_ = std::make_unique<TokenDispatcher>(options, world_.links(), &world_.clock);
  }
  std::unique_ptr<DispatchHandle> Dispatch() {
    return dispatcher_->Dispatch(StepId(1), 0, kLayer, false, step_.rows, step_.choice);
  }
  // Dispatches and combines; checks the values where that succeeds.
  absl::Status Run(Duration patience = Duration::Millis(5'000)) {
    auto handle = Dispatch();
    std::vector<const float*> replies;
    const absl::Status status =
        dispatcher_->Combine(*handle, world_.clock.Now() + patience, &replies);
    if (status.ok()) {
      EXPECT_TRUE(step_.Fits(kLayer, replies));
    }
    return status;
  }
  // Worker `id` treats its first `times` dispatches so, later ones well.
  void Misbehave(WorkerId id, FakeWorld::Behaviour how, int times = 1) {
    auto left = std::make_shared<int>(times);
    world_.behave = [=](WorkerId w, const ExpertDispatch&) {
      FakeWorld::Behaviour good;
      good.delay = Duration::Millis(1);
      return w == id && (*left)-- > 0 ? how : good;
    };
  }
  void Hang(WorkerId id, int times) {
    FakeWorld::Behaviour hang;
    hang.hang = true;
    Misbehave(id, hang, times);
  }

  FakeWorld world_;
  FakeStep step_;
  std::unique_ptr<TokenDispatcher> dispatcher_;
};

TEST_F(TokenDispatcherTest, BringsEverySlotItsRow) {
  dispatcher_->SetPlacement(FakePlacement(1, 2, {{1}, {2}, {1}}));
  EXPECT_TRUE(Run().ok());
  EXPECT_EQ(world_.sent[WorkerId(1)], 1);  // two experts, one message
  EXPECT_EQ(world_.sent[WorkerId(2)], 1);
  EXPECT_EQ(dispatcher_->stats().tokens_per_expert, (std::vector<uint64_t>{3, 3, 2}));
}

TEST_F(TokenDispatcherTest, AnOlderPlacementIsDropped) {
  dispatcher_->SetPlacement(FakePlacement(5, 2, {{1}, {2}, {1}}));
  dispatcher_->SetPlacement(FakePlacement(4, 1, {{1}, {1}, {1}}));
  EXPECT_EQ(dispatcher_->placement()->epoch, Epoch(5));
}

TEST_F(TokenDispatcherTest, ReadyWhenEveryExpertHasAConnectedReplica) {
  EXPECT_FALSE(dispatcher_->Ready());
  dispatcher_->SetPlacement(FakePlacement(1, 2, {{1}, {2}, {}}));
  EXPECT_FALSE(dispatcher_->Ready());
  dispatcher_->SetPlacement(FakePlacement(2, 2, {{1}, {2}, {1, 2}}));
  EXPECT_TRUE(dispatcher_->Ready());
  world_.SetUp(WorkerId(2), false);
  EXPECT_FALSE(dispatcher_->Ready());
}

class Refusals : public TokenDispatcherTest,
                 public ::testing::WithParamInterface<absl::StatusCode> {};

TEST_P(Refusals, SendOnlyThatSharesGroupsElsewhere) {
  dispatcher_->SetPlacement(FakePlacement(1, 3, {{1, 3}, {2, 3}, {1, 3}}));
  FakeWorld::Behaviour refuse;
  refuse.status = absl::Status(GetParam(), "refused");
  Misbehave(WorkerId(1), refuse, 1000);
  EXPECT_TRUE(Run().ok());
  EXPECT_EQ(world_.sent[WorkerId(1)], 1);
  EXPECT_EQ(world_.sent[WorkerId(2)], 1);  // its answer was good: not asked again
  EXPECT_EQ(dispatcher_->stats().redispatches, 1u);
}

INSTANTIATE_TEST_SUITE_P(Codes, Refusals,
                         ::testing::Values(absl::StatusCode::kUnavailable,
                                           absl::StatusCode::kNotFound, absl::StatusCode::kDataLoss,
                                           absl::StatusCode::kFailedPrecondition,
                                           absl::StatusCode::kInvalidArgument,
                                           absl::StatusCode::kResourceExhausted));

TEST_F(TokenDispatcherTest, TellsWhoComputedAndWhoIsDamaged) {
  dispatcher_->SetPlacement(FakePlacement(1, 3, {{1, 3}, {2, 3}, {1, 3}}));
  FakeWorld::Behaviour damaged;
  damaged.status = DamagedError("bit rot");
  Misbehave(WorkerId(1), damaged, 1000);
  EXPECT_TRUE(Run().ok());
  WorkerUse use = dispatcher_->TakeUse();
  EXPECT_THAT(use.used, ::testing::UnorderedElementsAre(WorkerId(2), WorkerId(3)));
  EXPECT_THAT(use.damaged, ::testing::ElementsAre(WorkerId(1)));
  // It is passed over, and nothing is told twice.
  EXPECT_TRUE(Run().ok());
  use = dispatcher_->TakeUse();
  EXPECT_TRUE(use.damaged.empty());
  EXPECT_EQ(world_.sent[WorkerId(1)], 1);
}

TEST_F(TokenDispatcherTest, AReplyOfTheWrongSizeCountsAsAFailure) {
  dispatcher_->SetPlacement(FakePlacement(1, 2, {{1, 2}, {1, 2}, {1, 2}}));
  FakeWorld::Behaviour bad;
  bad.wrong_size = true;
  Misbehave(WorkerId(1), bad);
  EXPECT_TRUE(Run().ok());
  EXPECT_EQ(dispatcher_->stats().redispatches, 1u);
}

TEST_F(TokenDispatcherTest, AWorkerThatDiesInMidStepIsReplaced) {
  dispatcher_->SetPlacement(FakePlacement(1, 2, {{1, 2}, {2, 1}, {1, 2}}));
  FakeWorld::Behaviour slow;
  slow.delay = Duration::Millis(50);
  Misbehave(WorkerId(1), slow, 1000);
  world_.At(MonotonicTime{} + Duration::Millis(10), [&] { world_.SetUp(WorkerId(1), false); });
  EXPECT_TRUE(Run().ok());
  EXPECT_LT(world_.clock.Now(), MonotonicTime{} + Duration::Millis(15));
  EXPECT_EQ(dispatcher_->stats().redispatches, 1u);
}

TEST_F(TokenDispatcherTest, WithoutAReplicaItWaitsForAPlacement) {
  dispatcher_->SetPlacement(FakePlacement(1, 2, {{1}, {2}, {1}}));
  world_.SetUp(WorkerId(2), false);
  world_.At(MonotonicTime{} + Duration::Millis(700), [&] {
    dispatcher_->SetPlacement(FakePlacement(2, 2, {{1}, {1}, {1}}));
  });
  EXPECT_TRUE(Run().ok());
  EXPECT_EQ(dispatcher_->stats().waits_without_replica, 1u);
  EXPECT_EQ(world_.sent[WorkerId(2)], 0);
}

TEST_F(TokenDispatcherTest, WithoutAReplicaItWaitsForTheLink) {
  dispatcher_->SetPlacement(FakePlacement(1, 2, {{1}, {2}, {1}}));
  world_.SetUp(WorkerId(2), false);
  world_.At(MonotonicTime{} + Duration::Millis(700), [&] { world_.SetUp(WorkerId(2), true); });
  EXPECT_TRUE(Run().ok());
}

TEST_F(TokenDispatcherTest, BeforeTheFirstPlacementItWaitsToo) {
  world_.At(MonotonicTime{} + Duration::Millis(30), [&] {
    dispatcher_->SetPlacement(FakePlacement(1, 1, {{1}, {1}, {1}}));
  });
  EXPECT_TRUE(Run().ok());
}

TEST_F(TokenDispatcherTest, GivesUpWithATypedFailureThatNamesTheCause) {
  dispatcher_->SetPlacement(FakePlacement(1, 2, {{1}, {2}, {1}}));
  FakeWorld::Behaviour refuse;
  refuse.status = absl::NotFoundError("expert 1 is not held here");
  Misbehave(WorkerId(2), refuse, 1000);
  const absl::Status status = Run(Duration::Millis(300));
  EXPECT_TRUE(absl::IsUnavailable(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("layer 3"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("expert 1 is not held here"));
  EXPECT_EQ(world_.clock.Now(), MonotonicTime{} + Duration::Millis(300));
  EXPECT_EQ(world_.replies_under_way(), 0u);
  // The step runs again from its start.
  Misbehave(WorkerId(2), refuse, 0);
  EXPECT_TRUE(Run().ok());
}

TEST_F(TokenDispatcherTest, SlowWorkThatIsUnderWayIsNotGivenUp) {
  dispatcher_->SetPlacement(FakePlacement(1, 2, {{1}, {2}, {1}}));
  FakeWorld::Behaviour slow;
  slow.delay = Duration::Millis(900);
  Misbehave(WorkerId(1), slow, 1);
  EXPECT_TRUE(Run(Duration::Millis(300)).ok());
  EXPECT_EQ(world_.clock.Now(), MonotonicTime{} + Duration::Millis(900));
}

TEST_F(TokenDispatcherTest, AnOverloadedOnlyReplicaIsAskedAgain) {
  dispatcher_->SetPlacement(FakePlacement(1, 1, {{1}, {1}, {1}}));
  FakeWorld::Behaviour busy;
  busy.status = absl::ResourceExhaustedError("full");
  Misbehave(WorkerId(1), busy, 12);  // more than kDispatchAttemptsMax
  EXPECT_TRUE(Run(Duration::Millis(60'000)).ok());
}

TEST_F(TokenDispatcherTest, AWrongDigestIsNotAskedAgainUnderThisPlacement) {
  dispatcher_->SetPlacement(FakePlacement(1, 2, {{1, 2}, {1, 2}, {1, 2}}));
  FakeWorld::Behaviour other;
  other.status = absl::FailedPreconditionError("another model");
  Misbehave(WorkerId(1), other, 1000);
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(Run().ok());
  EXPECT_EQ(world_.sent[WorkerId(1)], 1);
  Misbehave(WorkerId(1), other, 0);
  dispatcher_->SetPlacement(FakePlacement(2, 2, {{1, 2}, {1, 2}, {1, 2}}));
  EXPECT_TRUE(Run().ok());
  EXPECT_EQ(world_.sent[WorkerId(1)], 2);
}

TEST_F(TokenDispatcherTest, AHungWorkerIsHedgedAndThenPassedOver) {
  dispatcher_->SetPlacement(FakePlacement(1, 2, {{1, 2}, {2, 1}, {1, 2}}));
  Hang(WorkerId(1), 1000);
  EXPECT_TRUE(Run().ok());
  EXPECT_EQ(dispatcher_->stats().hedges, 1u);
  EXPECT_EQ(dispatcher_->stats().hedges_won, 1u);
  EXPECT_EQ(world_.replies_under_way(), 0u);  // the loser was cancelled
  const MonotonicTime before = world_.clock.Now();
  EXPECT_TRUE(Run().ok());
  EXPECT_EQ(world_.clock.Now(), before + Duration::Millis(1));  // did not wait for it again
  EXPECT_EQ(world_.sent[WorkerId(1)], 1);
}

// A worker that hung is well again, and then the other one hangs: the first is trusted as soon as
// it has answered, so the second is not asked at every layer.
TEST_F(TokenDispatcherTest, AnAnswerInTimeRestoresTrust) {
  dispatcher_->SetPlacement(FakePlacement(1, 2, {{1, 2}, {1, 2}, {1, 2}}));
  auto hung = std::make_shared<WorkerId>(1);
  world_.behave = [=](WorkerId w, const ExpertDispatch&) {
    FakeWorld::Behaviour how;
    how.delay = Duration::Millis(1);
    how.hang = w == *hung;
    return how;
  };
  for (int round = 0; round < 6; ++round) {  // worker 1 has been late again and again
    ASSERT_TRUE(Run().ok());
    world_.clock.Advance(Duration::Millis(200 << round));
  }
  *hung = WorkerId(2);
  const int before = world_.sent[WorkerId(2)];
  for (int layer = 0; layer < 20; ++layer) ASSERT_TRUE(Run().ok());
  EXPECT_LE(world_.sent[WorkerId(2)] - before, 1);
}

// All are passed over for having been late once, but one hangs: it is asked once more, not at every
// layer.
TEST_F(TokenDispatcherTest, OfSuspectsTheOneThatHangsIsNotAskedAgainAndAgain) {
  dispatcher_->SetPlacement(FakePlacement(1, 2, {{1, 2}, {1, 2}, {1, 2}}));
  auto hung = std::make_shared<WorkerId>(1);
  world_.behave = [=](WorkerId w, const ExpertDispatch&) {
    FakeWorld::Behaviour how;
    how.delay = Duration::Millis(1);
    how.hang = w == *hung;
    return how;
  };
  ASSERT_TRUE(Run().ok());  // worker 1 was late
  *hung = WorkerId(2);
  ASSERT_TRUE(Run().ok());  // so was worker 2
  const int before = world_.sent[WorkerId(2)];
  for (int layer = 0; layer < 20; ++layer) ASSERT_TRUE(Run().ok());
  EXPECT_LE(world_.sent[WorkerId(2)] - before, 1);
}

// A worker is hung, and the other one fails what it is asked for in its place: neither is given up.
TEST_F(TokenDispatcherTest, AHedgeThatFailsIsNotTheLastOne) {
  dispatcher_->SetPlacement(FakePlacement(1, 2, {{1, 2}, {1, 2}, {1, 2}}));
  auto failures = std::make_shared<int>(5);
  world_.behave = [=](WorkerId w, const ExpertDispatch&) {
    FakeWorld::Behaviour how;
    how.delay = Duration::Millis(1);
    how.hang = w == WorkerId(1);
    if (w == WorkerId(2) && (*failures)-- > 0) how.status = absl::DataLossError("flipped");
    return how;
  };
  const MonotonicTime before = world_.clock.Now();
  EXPECT_TRUE(Run(Duration::Millis(60'000)).ok());
  EXPECT_LT((world_.clock.Now() - before).seconds(), 5);
  EXPECT_GE(world_.sent[WorkerId(2)], 6);
}

// Its connection lives and nobody else has the experts: it is asked again, and deadlines pass.
TEST_F(TokenDispatcherTest, AnOnlyReplicaThatStaysSilentIsAskedAgain) {
  dispatcher_->SetPlacement(FakePlacement(1, 1, {{1}, {1}, {1}}));
  Hang(WorkerId(1), 1);
  const MonotonicTime before = world_.clock.Now();
  EXPECT_TRUE(absl::IsUnavailable(Run(Duration::Millis(250))));
  EXPECT_LE((world_.clock.Now() - before).seconds(), 12);
  EXPECT_TRUE(Run().ok());
  EXPECT_EQ(world_.sent[WorkerId(1)], 2);
}

// The only other replica was late a moment ago and is passed over; but it is not hung.
TEST_F(TokenDispatcherTest, AHungWorkersRowsGoToASuspectWhereThereIsNoOther) {
  dispatcher_->SetPlacement(FakePlacement(1, 2, {{1, 2}, {1, 2}, {1, 2}}));
  for (int round = 0; round < 8; ++round) {
    // Each time worker 1 is suspected for longer.
    Hang(WorkerId(1), 1000);
    ASSERT_TRUE(Run().ok());
    world_.clock.Advance(Duration::Millis(200 << round));
  }
  Hang(WorkerId(1), 1000);
  ASSERT_TRUE(Run().ok());
  Hang(WorkerId(2), 1000);
  const MonotonicTime begin = world_.clock.Now();
  ASSERT_TRUE(Run().ok());
  EXPECT_LT(world_.clock.Now() - begin, Duration::Millis(200));
}

TEST_F(TokenDispatcherTest, AHungWorkerWithoutAReplicaIsWaitedForUntilAPlacementHelps) {
  dispatcher_->SetPlacement(FakePlacement(1, 2, {{1}, {2}, {1}}));
  Hang(WorkerId(1), 1000);
  world_.At(MonotonicTime{} + Duration::Millis(3'000), [&] {
    dispatcher_->SetPlacement(FakePlacement(2, 2, {{2}, {2}, {2}}));
  });
  EXPECT_TRUE(Run(Duration::Millis(20'000)).ok());
  EXPECT_LT(world_.clock.Now(), MonotonicTime{} + Duration::Millis(3'500));
}

TEST_F(TokenDispatcherTest, AHungWorkerThatLeavesThePlacementIsNotWaitedFor) {
  dispatcher_->SetPlacement(FakePlacement(1, 2, {{1}, {2}, {1}}));
  Hang(WorkerId(2), 1000);
  world_.At(MonotonicTime{} + Duration::Millis(10), [&] {
    dispatcher_->SetPlacement(FakePlacement(2, 1, {{1}, {1}, {1}}));
  });
  EXPECT_TRUE(Run().ok());
  EXPECT_EQ(world_.clock.Now(), MonotonicTime{} + Duration::Millis(11));  // late would be at 100
  EXPECT_EQ(world_.cancelled, 1);
  EXPECT_EQ(dispatcher_->stats().redispatches, 1u);
  EXPECT_EQ(dispatcher_->stats().hedges, 0u);
}

TEST_F(TokenDispatcherTest, AHungWorkerThatComesBackElsewhereIsAskedAgain) {
  dispatcher_->SetPlacement(FakePlacement(1, 2, {{1}, {2}, {1}}));
  Hang(WorkerId(2), 1);
  world_.At(MonotonicTime{} + Duration::Millis(10), [&] {
    const auto moved = FakePlacement(2, 2, {{1}, {2}, {1}});
    moved->workers[1].address = "elsewhere";
    dispatcher_->SetPlacement(moved);
  });
  EXPECT_TRUE(Run().ok());
  EXPECT_EQ(world_.clock.Now(), MonotonicTime{} + Duration::Millis(11));
  EXPECT_EQ(world_.sent[WorkerId(2)], 2);
}

TEST_F(TokenDispatcherTest, AWorkerThatLeavesMayStillAnswer) {
  dispatcher_->SetPlacement(FakePlacement(1, 2, {{1}, {2}, {1}}));
  FakeWorld::Behaviour slow;
  slow.delay = Duration::Millis(30);
  Misbehave(WorkerId(2), slow, 1);
  world_.At(MonotonicTime{} + Duration::Millis(10), [&] {
    // The expert moves to a worker that is not connected yet.
    world_.SetUp(WorkerId(3), false);
    auto moved = FakePlacement(2, 3, {{1}, {3}, {1}});
    moved->workers.erase(moved->workers.begin() + 1);
    dispatcher_->SetPlacement(moved);
  });
  EXPECT_TRUE(Run().ok());
  EXPECT_EQ(world_.clock.Now(), MonotonicTime{} + Duration::Millis(30));
  EXPECT_EQ(world_.cancelled, 0);
  EXPECT_EQ(world_.sent[WorkerId(3)], 0);
}

TEST_F(TokenDispatcherTest, AHungWorkerThatLeavesWithoutAnHeirEndsAtTheDeadline) {
  dispatcher_->SetPlacement(FakePlacement(1, 2, {{1}, {2}, {1}}));
  Hang(WorkerId(2), 1);
  world_.At(MonotonicTime{} + Duration::Millis(10), [&] {
    dispatcher_->SetPlacement(FakePlacement(2, 1, {{1}, {}, {1}}));
  });
  const absl::Status status = Run();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("worker 2 left the placement"));
}

TEST_F(TokenDispatcherTest, TheLateReplyOfAHedgedWorkerMayStillWin) {
  dispatcher_->SetPlacement(FakePlacement(1, 2, {{1, 2}, {1, 2}, {1, 2}}));
  world_.behave = [](WorkerId w, const ExpertDispatch& d) {
    FakeWorld::Behaviour b;
    const bool hedge = d.key.attempt > 2;
    b.delay = w == WorkerId(1) ? Duration::Millis(110) : Duration::Millis(hedge ? 500 : 1);
    return b;
  };
  EXPECT_TRUE(Run().ok());
  EXPECT_EQ(world_.clock.Now(), MonotonicTime{} + Duration::Millis(110));
  EXPECT_EQ(dispatcher_->stats().hedges, 1u);
  EXPECT_EQ(dispatcher_->stats().hedges_won, 0u);
}

TEST_F(TokenDispatcherTest, TwoMicroBatchesInFlightAndOneFails) {
  dispatcher_->SetPlacement(FakePlacement(1, 2, {{1, 2}, {2, 1}, {1, 2}}));
  FakeStep other(2, 1, {2, 0});
  FakeWorld::Behaviour refuse;
  refuse.delay = Duration::Millis(1);
  refuse.status = absl::UnavailableError("x");
  Misbehave(WorkerId(1), refuse, 2);
  auto a = Dispatch();
  auto b = dispatcher_->Dispatch(StepId(1), 1, kLayer, false, other.rows, other.choice);
  std::vector<const float*> replies_a, replies_b;
  ASSERT_TRUE(dispatcher_->Combine(*a, kNever, &replies_a).ok());
  ASSERT_TRUE(dispatcher_->Combine(*b, kNever, &replies_b).ok());
  EXPECT_TRUE(step_.Fits(kLayer, replies_a));
  EXPECT_TRUE(other.Fits(kLayer, replies_b));
}

TEST_F(TokenDispatcherTest, DestroyingAHandleCancelsWhatIsInFlight) {
  dispatcher_->SetPlacement(FakePlacement(1, 2, {{1}, {2}, {1}}));
  { auto handle = Dispatch(); }
  EXPECT_EQ(world_.replies_under_way(), 0u);
  EXPECT_EQ(world_.cancelled, 2);
  EXPECT_TRUE(Run().ok());
}

TEST_F(TokenDispatcherTest, NoRowsNeedNoWorker) {
  FakeStep empty(0, 2, {});
  auto handle = dispatcher_->Dispatch(StepId(1), 0, kLayer, false, empty.rows, empty.choice);
  std::vector<const float*> replies;
  EXPECT_TRUE(dispatcher_->Combine(*handle, MonotonicTime{}, &replies).ok());
  EXPECT_TRUE(replies.empty());
}

TEST(TokenDispatcherThreads, StopWakesABlockedCombine) {
  SystemClock clock;
  TokenDispatcher dispatcher(
      {}, [](const PlacedWorker&) { return nullptr; }, &clock);
  dispatcher.SetPlacement(FakePlacement(1, 1, {{1}}));
  EXPECT_FALSE(dispatcher.Ready());
  FakeStep step(1, 1, {0});
  auto handle = dispatcher.Dispatch(StepId(1), 0, LayerId(0), false, step.rows, step.choice);
  std::thread stopper([&] { dispatcher.Stop(); });
  std::vector<const float*> replies;
  EXPECT_TRUE(absl::IsCancelled(dispatcher.Combine(*handle, kNever, &replies)));
  stopper.join();
}

// Fails every dispatch, on a thread of its own.
class FailingLink final : public ExpertLink {
 public:
  ~FailingLink() override {
    for (std::thread& thread : threads_) thread.join();
  }
  void Send(const ExpertDispatch& dispatch, ReplyFn done) override {
    threads_.emplace_back([key = dispatch.key, done = std::move(done)] {
      ExpertReply reply;
      reply.key = key;
      reply.status = absl::UnavailableError("no");
      done(std::move(reply));
    });
  }
  void Cancel(const DispatchKey&) override {}
  bool connected() const override { return true; }

 private:
  std::vector<std::thread> threads_;
};

TEST(TokenDispatcherThreads, AReplyFromWithinSendNeedsNobodyToWakeTheStep) {
  SystemClock clock;
  DispatcherOptions options;
  options.hedge.unknown = Duration::Millis(3'600'000);
  TokenDispatcher dispatcher(
      options,
      [](const PlacedWorker& worker) -> std::shared_ptr<ExpertLink> {
        if (worker.id == WorkerId(1)) return std::make_shared<FailingLink>();
        return std::make_shared<LocalLink>([](LayerId, ExpertId, const ExpertInput&,
                                              absl::Span<const uint32_t>,
                                              TensorF32) { return absl::OkStatus(); });
      },
      &clock);
  dispatcher.SetPlacement(FakePlacement(1, 2, {{1, 2}}));
  FakeStep step(1, 1, {0});
  constexpr int kRounds = 20;
  const MonotonicTime start = clock.Now();
  for (int i = 0; i < kRounds; ++i) {
    auto handle = dispatcher.Dispatch(StepId(1), 0, LayerId(0), false, step.rows, step.choice);
    std::vector<const float*> replies;
    ASSERT_TRUE(dispatcher.Combine(*handle, kNever, &replies).ok());
  }
  // Asleep it would look again after a second.
  EXPECT_LT(clock.Now() - start, Duration::Millis(kRounds * 1'000 / 2));
  EXPECT_EQ(dispatcher.stats().redispatches, static_cast<uint64_t>(kRounds));
}

}  // namespace
}  // namespace octet
