#include "coordinator/cluster_state.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "coordinator/cluster_state_sim.h"

namespace octet {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

uint32_t PreparesSent(const ClusterSim& sim) {
  std::set<Epoch> epochs;
  for (const auto& send : sim.sent_) {
    if (send.phase == PlacementPhase::kPrepare) epochs.insert(send.placement->epoch);
  }
  return static_cast<uint32_t>(epochs.size());
}

TEST(ClusterState, WorkersThatStartTogetherGetOneRollout) {
  ClusterSim sim = Serving(4, 2);
  EXPECT_EQ(PreparesSent(sim), 1u);
  EXPECT_EQ(sim.active()->epoch, Epoch(1));
  EXPECT_TRUE(sim.active()->Complete());
  for (auto& entry : sim.members_) EXPECT_EQ(sim.StateOf(entry.second), MemberState::kReady);
}

TEST(ClusterState, ExpectedWorkersAreWaitedForAndThenNotASecondLonger) {
  ClusterSim sim(Settings(1, 3));
  SimMember& first = sim.Add();
  SimMember& second = sim.Add();
  ASSERT_TRUE(sim.Register(first).ok());
  ASSERT_TRUE(sim.Register(second).ok());
  sim.Run(Duration::Millis(2000));
  EXPECT_EQ(PreparesSent(sim), 0u);
  ASSERT_TRUE(sim.Register(sim.Add()).ok());
  sim.Advance(Duration::Millis(310));
  EXPECT_EQ(PreparesSent(sim), 1u);
}

TEST(ClusterState, AMissingExpectedWorkerIsNotWaitedForForever) {
  ClusterSim sim(Settings(1, 3));
  sim.Add();
  sim.Run(Duration::Millis(11'000));
  ASSERT_NE(sim.active(), nullptr);
  EXPECT_TRUE(sim.active()->Complete());
}

TEST(ClusterState, NothingIsActiveBeforeEveryoneIsPrepared) {
  ClusterSim sim(Settings(1));
  sim.Add();
  SimMember& slow = sim.Add();
  slow.prepares = false;
  sim.Run(Duration::Millis(2000));
  EXPECT_EQ(sim.active(), nullptr);
  EXPECT_THAT(sim.snapshot().rollout, HasSubstr("preparing epoch 1"));
  EXPECT_EQ(sim.StateOf(slow), MemberState::kLoading);
  slow.prepares = true;
  sim.Run(Duration::Millis(200));
  EXPECT_NE(sim.active(), nullptr);
}

TEST(ClusterState, ALostWorkerIsOutAtOnceAndReplicationComesBack) {
  ClusterSim sim = Serving(4, 2);
  SimMember& dead = sim.members_[2];
  dead.up = false;
  sim.sent_.clear();
  sim.Run(Duration::Millis(3500));
  ASSERT_FALSE(sim.sent_.empty());
  // First a table without the dead worker, which nobody had to prepare for.
  EXPECT_EQ(sim.sent_.front().phase, PlacementPhase::kActivate);
  EXPECT_FALSE(Names(*sim.sent_.front().placement, dead));
  EXPECT_EQ(sim.StateOf(dead), MemberState::kLost);
  EXPECT_FALSE(Names(*sim.active(), dead));
  for (const auto& set : sim.active()->expert_replicas) EXPECT_THAT(set, SizeIs(2));
  EXPECT_TRUE(sim.snapshot().ready);
}

TEST(ClusterState, TheLastReplicaStaysListedUntilAnotherIsReady) {
  ClusterSim sim = Serving(2, 1);
  SimMember& lost = sim.members_[1];
  SimMember& other = sim.members_[2];
  const auto only = ExpertsOf(*sim.active(), WorkerId(lost.id.value()));
  ASSERT_FALSE(only.empty());
  lost.up = false;
  other.prepares = false;
  sim.Run(Duration::Millis(4000));
  EXPECT_EQ(ExpertsOf(*sim.active(), WorkerId(lost.id.value())), only);
  EXPECT_FALSE(sim.snapshot().ready);
  other.prepares = true;
  sim.Run(Duration::Millis(500));
  EXPECT_FALSE(Names(*sim.active(), lost));
  EXPECT_TRUE(sim.active()->Complete());
  EXPECT_TRUE(sim.snapshot().ready);
}

TEST(ClusterState, AFasterWorkerHoldsMoreAndRoutersHearOfItsSpeed) {
  ClusterSim sim(Settings(1));
  sim.Add();
  SimMember& fast = sim.Add();
  fast.record.speed = 3 * kWorkerSpeedEqual;
  sim.Add(MemberRole::kRouter);
  sim.Run(Duration::Millis(2000));
  ASSERT_NE(sim.active(), nullptr);
  const WorkerId id(fast.id.value());
  EXPECT_EQ(ExpertsOf(*sim.active(), id).size(), sim.active()->expert_replicas.size() * 3 / 4);
  ASSERT_NE(sim.active()->FindWorker(id), nullptr);
  EXPECT_EQ(sim.active()->FindWorker(id)->speed, 3 * kWorkerSpeedEqual);
}

TEST(ClusterState, ADeathDuringARolloutAbortsItAndANewerEpochFollows) {
  ClusterSim sim(Settings(2));
  for (int i = 0; i < 3; ++i) sim.Add();
  SimMember& victim = sim.members_[3];
  victim.prepares = false;
  sim.Run(Duration::Millis(1000));
  ASSERT_EQ(PreparesSent(sim), 1u);
  victim.up = false;
  sim.Run(Duration::Millis(4000));
  EXPECT_TRUE(std::any_of(sim.sent_.begin(), sim.sent_.end(), [](const auto& send) {
    return send.phase == PlacementPhase::kAbort && send.placement->epoch == Epoch(1);
  }));
  ASSERT_NE(sim.active(), nullptr);
  EXPECT_GT(sim.active()->epoch, Epoch(1));
  EXPECT_FALSE(Names(*sim.active(), victim));
}

TEST(ClusterState, AJoinDuringARolloutWaitsForAnother) {
  ClusterSim sim(Settings(1));
  sim.Add();
  SimMember& slow = sim.Add();
  slow.prepares = false;
  sim.Run(Duration::Millis(1000));
  SimMember& late = sim.Add();
  sim.Run(Duration::Millis(2000));
  EXPECT_EQ(PreparesSent(sim), 1u);
  slow.prepares = true;
  sim.Run(Duration::Millis(1500));
  EXPECT_EQ(PreparesSent(sim), 2u);
  EXPECT_TRUE(Names(*sim.active(), late));
}

TEST(ClusterState, AWorkerThatCannotPrepareGetsNothingNew) {
  ClusterSim sim = Serving(2, 2);
  SimMember& broken = sim.Add();
  broken.prepares = false;
  sim.Run(Duration::Millis(1000));
  ASSERT_NE(broken.pending, nullptr);
  broken.prepare_error = "expert 3: no such file";
  broken.prepare_error_epoch = broken.pending->epoch;
  sim.Run(Duration::Millis(1000));
  EXPECT_TRUE(sim.snapshot().rollout.empty());
  EXPECT_FALSE(Names(*sim.active(), broken));
  EXPECT_TRUE(sim.snapshot().ready);
}

TEST(ClusterState, DrainMovesEverythingFirst) {
  ClusterSim sim = Serving(3, 1);
  SimMember& leaver = sim.members_[1];
  sim.Do(DrainRequestedEvent{77, leaver.id});
  sim.Run(Duration::Millis(1000));
  ASSERT_FALSE(sim.drains_.empty());
  EXPECT_TRUE(sim.drains_.back().done);
  EXPECT_EQ(sim.drains_.back().drain, 77u);
  EXPECT_FALSE(Names(*sim.active(), leaver));
  EXPECT_TRUE(sim.active()->Complete());
  EXPECT_EQ(sim.StateOf(leaver), MemberState::kDraining);
}

TEST(ClusterState, ADrainingLastWorkerKeepsServing) {
  ClusterSim sim = Serving(1, 1);
  SimMember& only = sim.members_[1];
  only.state = MemberState::kDraining;
  sim.Run(Duration::Millis(1000));
  EXPECT_TRUE(sim.active()->Complete());
  EXPECT_TRUE(Names(*sim.active(), only));
  SimMember& next = sim.Add();
  sim.Run(Duration::Millis(1500));
  EXPECT_FALSE(Names(*sim.active(), only));
  EXPECT_TRUE(Names(*sim.active(), next));
}

TEST(ClusterState, DrainOfAnUnknownWorkerIsRefused) {
  ClusterSim sim = Serving(1, 1);
  sim.Do(DrainRequestedEvent{5, MemberId(99)});
  ASSERT_THAT(sim.drains_, SizeIs(1));
  EXPECT_EQ(sim.drains_[0].status.code(), absl::StatusCode::kNotFound);
}

TEST(ClusterState, ARestartWithTheStoreChangesNothing) {
  ClusterSim sim = Serving(4, 2);
  const Placement before = *sim.active();
  const uint64_t term = sim.state_->term();
  sim.Restart(/*keep_store=*/true);
  EXPECT_GT(sim.state_->term(), term);
  sim.Run(Duration::Millis(6000));
  EXPECT_EQ(sim.active()->epoch, before.epoch);
  EXPECT_EQ(sim.active()->expert_replicas, before.expert_replicas);
  EXPECT_TRUE(sim.snapshot().ready);
}

TEST(ClusterState, AWorkerThatDiedWithTheCoordinatorIsLostAfterTheGrace) {
  ClusterSim sim = Serving(3, 2);
  SimMember& dead = sim.members_[1];
  dead.up = false;
  sim.Restart(/*keep_store=*/true);
  sim.Run(Duration::Millis(5000));
  EXPECT_FALSE(Names(*sim.active(), dead));
  EXPECT_TRUE(sim.active()->Complete());
}

TEST(ClusterState, ARestartWithAnEmptyStoreGoesOnFromWhatMembersSaw) {
  ClusterSim sim = Serving(4, 2);
  sim.members_[4].up = false;
  sim.Run(Duration::Millis(4000));
  const Epoch before = sim.active()->epoch;
  ASSERT_GT(before, Epoch(1));
  sim.Restart(/*keep_store=*/false);
  sim.sent_.clear();
  sim.Run(Duration::Millis(6000));
  ASSERT_NE(sim.active(), nullptr);
  EXPECT_GT(sim.active()->epoch, before);
  for (const auto& send : sim.sent_) EXPECT_GT(send.placement->epoch, before);
  // Members came back under their ids with what they held, so nothing was loaded.
  EXPECT_TRUE(sim.active()->Complete());
  EXPECT_TRUE(sim.snapshot().ready);
}

TEST(ClusterState, AZombieComesBackUnderItsId) {
  ClusterSim sim = Serving(3, 2);
  SimMember& zombie = sim.members_[2];
  const MemberId id = zombie.id;
  zombie.up = false;
  sim.Run(Duration::Millis(4000));
  ASSERT_FALSE(Names(*sim.active(), zombie));
  zombie.up = true;
  sim.Run(Duration::Millis(2000));
  EXPECT_EQ(zombie.id, id);
  EXPECT_TRUE(Names(*sim.active(), zombie));
  EXPECT_EQ(sim.StateOf(zombie), MemberState::kReady);
}

TEST(ClusterState, ARestartedProcessReplacesItsFormerSelf) {
  ClusterSim sim = Serving(3, 2);
  SimMember& worker = sim.members_[2];
  const MemberId old = worker.id;
  SimMember fresh = worker;
  fresh.id = MemberId(0);
  fresh.record.incarnation += 1'000'000;
  fresh.held.clear();
  fresh.watch = 0;
  fresh.prepared = fresh.active = fresh.seen_epoch = Epoch(0);
  fresh.seen_term = 0;
  worker = fresh;
  ASSERT_TRUE(sim.Register(worker).ok());
  EXPECT_NE(worker.id, old);
  EXPECT_EQ(sim.active()->FindWorker(WorkerId(old.value())), nullptr);
  sim.Run(Duration::Millis(1500));
  EXPECT_TRUE(Names(*sim.active(), worker));
}

TEST(ClusterState, AnExpertThatAWorkerNoLongerHoldsIsPreparedAgain) {
  ClusterSim sim = Serving(2, 1);
  SimMember& worker = sim.members_[1];
  const Epoch before = sim.active()->epoch;
  ASSERT_FALSE(worker.held.empty());
  worker.held.clear();
  sim.Run(Duration::Millis(1500));
  EXPECT_GT(sim.active()->epoch, before);
  EXPECT_FALSE(worker.held.empty());
  EXPECT_TRUE(sim.snapshot().ready);
}

TEST(ClusterState, TooLittleMemoryIsWaitedOut) {
  ClusterSim sim(Settings(1));
  sim.Add(MemberRole::kWorker, 500);
  sim.Run(Duration::Millis(2000));
  EXPECT_EQ(sim.active(), nullptr);
  sim.Add(MemberRole::kWorker, 500);
  sim.Run(Duration::Millis(2000));
  ASSERT_NE(sim.active(), nullptr);
  EXPECT_TRUE(sim.active()->Complete());
}

TEST(ClusterState, AStoppedCoordinatorDoesNotBlameItsMembers) {
  ClusterSim sim = Serving(3, 2);
  const Epoch before = sim.active()->epoch;
  sim.Advance(Duration::Millis(60'000));
  sim.Run(Duration::Millis(500));
  EXPECT_EQ(sim.active()->epoch, before);
}

TEST(ClusterState, AClosedStreamShortensTheLease) {
  ClusterSim sim = Serving(3, 2);
  SimMember& dead = sim.members_[3];
  dead.up = false;
  sim.Do(WatchClosedEvent{dead.watch});
  sim.Run(Duration::Millis(1200));
  EXPECT_EQ(sim.StateOf(dead), MemberState::kLost);
}

TEST(ClusterState, AbsurdSeenNumbersAreRefused) {
  ClusterSim sim = Serving(1, 1);
  SimMember& liar = sim.Add();
  liar.seen_epoch = Epoch(UINT64_MAX);
  EXPECT_EQ(sim.Register(liar).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace octet
