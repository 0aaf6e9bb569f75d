// Several model versions side by side, damaged workers, and random interleavings of all of it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>

#include "coordinator/cluster_state.h"
#include "coordinator/cluster_state_sim.h"

namespace octet {
namespace {

using ::testing::HasSubstr;

// A member of another version than the sim's own.
SimMember& AddOther(ClusterSim& sim, MemberRole role = MemberRole::kWorker) {
  SimMember& member = sim.Add(role);
  member.model.compute_digest = std::string(64, 'b');
  member.model.model_version = "v2";
  return member;
}

TEST(ClusterVersions, AVersionTooManyIsRefusedWithDigests) {
  ClusterSettings settings = Settings(1);
  settings.versions_max = 1;
  ClusterSim sim(settings);
  ASSERT_TRUE(sim.Register(sim.Add()).ok());
  const absl::Status status = sim.Register(AddOther(sim));
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr(std::string(64, 'a')));
  EXPECT_THAT(std::string(status.message()), HasSubstr(std::string(64, 'b')));
  EXPECT_THAT(std::string(status.message()), HasSubstr("--versions-max"));
}

TEST(ClusterVersions, OneDigestHasOneNumberOfExperts) {
  ClusterSim sim = Serving(1, 1);
  SimMember& odd = sim.Add();
  odd.model.experts = 9;
  const absl::Status status = sim.Register(odd);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("model.experts: 9"));
}

TEST(ClusterVersions, TwoVersionsServeSideBySide) {
  ClusterSim sim = Serving(3, 2);
  const Epoch before = sim.active()->epoch;
  SimMember& worker = AddOther(sim);
  SimMember& router = AddOther(sim, MemberRole::kRouter);
  sim.Run(Duration::Millis(1500));
  const VersionSnapshot next = sim.snapshot(worker.model.compute_digest);
  EXPECT_TRUE(next.ready);
  ASSERT_NE(next.active, nullptr);
  EXPECT_EQ(next.active->model_version, "v2");
  EXPECT_TRUE(Names(*next.active, worker));
  ASSERT_NE(router.table, nullptr);
  EXPECT_EQ(router.table->epoch, next.active->epoch);
  // The first version was not touched by it, and epochs are the cluster's.
  EXPECT_TRUE(sim.snapshot().ready);
  EXPECT_EQ(sim.active()->epoch, before);
  EXPECT_GT(next.active->epoch, before);
  EXPECT_EQ(sim.state_->epoch(), next.active->epoch);
}

TEST(ClusterVersions, BothVersionsOutliveTheCoordinator) {
  ClusterSim sim = Serving(2, 2);
  SimMember& worker = AddOther(sim);
  AddOther(sim, MemberRole::kRouter);
  sim.Run(Duration::Millis(1500));
  const Epoch first = sim.active()->epoch;
  const Epoch second = sim.snapshot(worker.model.compute_digest).active->epoch;
  sim.Restart(/*keep_store=*/true);
  sim.Run(Duration::Millis(1500));
  EXPECT_TRUE(sim.snapshot().ready);
  EXPECT_EQ(sim.active()->epoch, first);
  EXPECT_TRUE(sim.snapshot(worker.model.compute_digest).ready);
  EXPECT_EQ(sim.snapshot(worker.model.compute_digest).active->epoch, second);
}

// Both go on from what their members have seen; neither hides the other's epochs.
TEST(ClusterVersions, BothVersionsOutliveTheCoordinatorAndItsDisk) {
  ClusterSim sim = Serving(2, 2);
  SimMember& worker = AddOther(sim);
  AddOther(sim, MemberRole::kRouter);
  sim.Run(Duration::Millis(1500));
  const Epoch first = sim.active()->epoch;
  const Epoch second = sim.snapshot(worker.model.compute_digest).active->epoch;
  sim.Restart(/*keep_store=*/false);
  sim.Run(Duration::Millis(4000));
  EXPECT_TRUE(sim.snapshot().ready);
  EXPECT_GT(sim.active()->epoch, first);
  EXPECT_TRUE(sim.snapshot(worker.model.compute_digest).ready);
  EXPECT_GT(sim.snapshot(worker.model.compute_digest).active->epoch, second);
}

// A process that comes back at its address with another package moves to the other version.
TEST(ClusterVersions, ARestartWithAnotherPackageReplacesTheMember) {
  ClusterSim sim = Serving(2, 1);
  SimMember& worker = sim.members_[1];
  const SimMember old = worker;
  SimMember fresh;
  fresh.record = old.record;
  fresh.record.id = MemberId();
  fresh.record.incarnation = 4711;
  fresh.model = old.model;
  fresh.model.compute_digest = std::string(64, 'b');
  worker = fresh;
  sim.Run(Duration::Millis(1500));
  EXPECT_FALSE(Names(*sim.active(), old));
  EXPECT_TRUE(sim.active()->Complete());
  EXPECT_NE(worker.id, old.id);
  ASSERT_NE(worker.table, nullptr);
  EXPECT_EQ(worker.table->compute_digest, std::string(64, 'b'));
}

TEST(ClusterVersions, AVersionThatNobodyServesAnyMoreIsForgotten) {
  ClusterSim sim = Serving(2, 2);
  AddOther(sim);
  AddOther(sim, MemberRole::kRouter);
  sim.Run(Duration::Millis(1500));
  for (uint64_t key : {1, 2, 3}) sim.members_[key].up = false;
  sim.Run(Duration::Millis(kLostShownMs + 5000));
  EXPECT_EQ(sim.state_->Snapshot(sim.now_).versions.size(), 1u);
  ASSERT_EQ(sim.store_->versions.size(), 1u);
  EXPECT_EQ(sim.store_->versions[0].model.model_version, "v2");
}

// The last workers of a version may go once no router asks them.
TEST(ClusterVersions, LastReplicasAreDrainedOnceTheirRoutersAreGone) {
  ClusterSim sim = Serving(1, 1);
  SimMember& worker = sim.members_[1];
  sim.Do(DrainRequestedEvent{5, worker.id});
  sim.Run(Duration::Millis(1000));
  EXPECT_FALSE(sim.drains_.back().done) << sim.drains_.back().message;
  sim.members_[2].up = false;
  sim.Do(WatchClosedEvent{sim.members_[2].watch});
  sim.Run(Duration::Millis(3000));
  EXPECT_TRUE(sim.drains_.back().done);
  EXPECT_THAT(sim.drains_.back().message, HasSubstr("no router asks"));
}

// Routers hear of it with the table that no longer has it, and again if they come back.
TEST(ClusterVersions, ADamagedWorkerIsOutAtOnceAndItsRoutersAreTold) {
  ClusterSim sim = Serving(3, 2);
  SimMember& worker = sim.members_[1];
  SimMember& router = sim.members_[4];
  const MemberId id = worker.id;
  sim.sent_.clear();
  worker.state = MemberState::kDamaged;
  sim.Beat(worker);
  EXPECT_FALSE(Names(*sim.active(), worker));
  const auto told = [&] {
    return std::any_of(sim.sent_.begin(), sim.sent_.end(), [&](const auto& send) {
      return send.watch == router.watch && send.damaged == std::vector<MemberId>{id};
    });
  };
  EXPECT_TRUE(told());
  // The process is not taken back; a new one is.
  EXPECT_EQ(sim.Register(worker).code(), absl::StatusCode::kFailedPrecondition);
  sim.sent_.clear();
  sim.Do(WatchClosedEvent{router.watch});
  ASSERT_TRUE(sim.Register(router).ok());
  EXPECT_TRUE(told());
  SimMember fresh;
  fresh.record = worker.record;
  fresh.record.id = MemberId();
  fresh.record.incarnation = 77;
  fresh.model = worker.model;
  worker = fresh;
  sim.Run(Duration::Millis(2000));
  EXPECT_TRUE(Names(*sim.active(), worker));
  // After a while nobody has to hear of it any more.
  sim.Run(Duration::Millis(kLostShownMs));
  sim.sent_.clear();
  sim.Do(WatchClosedEvent{router.watch});
  ASSERT_TRUE(sim.Register(router).ok());
  ASSERT_FALSE(sim.sent_.empty());
  EXPECT_TRUE(sim.sent_.back().damaged.empty());
}

TEST(ClusterVersions, ADamagedWorkerThatNoTableNamesIsToldOfToo) {
  ClusterSim sim = Serving(2, 2);
  SimMember& spare = sim.Add(MemberRole::kWorker, /*memory_bytes=*/1);  // room for nothing
  sim.Run(Duration::Millis(1500));
  ASSERT_FALSE(Names(*sim.active(), spare));
  const Epoch before = sim.active()->epoch;
  sim.sent_.clear();
  spare.state = MemberState::kDamaged;
  sim.Beat(spare);
  EXPECT_EQ(sim.active()->epoch, before);
  ASSERT_FALSE(sim.sent_.empty());
  EXPECT_EQ(sim.sent_.back().damaged, std::vector<MemberId>{spare.id});
}

// Without routers a draining worker is not kept for the sake of a table.
TEST(ClusterVersions, ADrainingWorkerLeavesTheTableOnceNoRouterIsLeft) {
  ClusterSim sim = Serving(1, 1);
  SimMember& worker = sim.members_[1];
  worker.state = MemberState::kDraining;
  sim.Run(Duration::Millis(1000));
  EXPECT_TRUE(Names(*sim.active(), worker));
  sim.members_[2].up = false;
  sim.Do(WatchClosedEvent{sim.members_[2].watch});
  sim.Run(Duration::Millis(3000));
  EXPECT_FALSE(Names(*sim.active(), worker));
}

// ---- Random interleavings: the checks of ClusterSim hold at every step, and once the trouble
// ends, everyone alive serves a complete table.

void RandomTrouble(ClusterSim& sim, std::mt19937_64& rng, bool upgrades) {
  auto it = sim.members_.begin();
  std::advance(it, static_cast<long>(rng() % sim.members_.size()));
  SimMember& member = it->second;
  const uint64_t dice = rng() % 100;
  if (dice < 40) {
    if (member.up) sim.Beat(member);
  } else if (dice < 65) {
    if (member.up) sim.Prepare(member);
  } else if (dice < 85) {
    sim.Advance(Duration::Millis(static_cast<int64_t>(rng() % 400)));
  } else if (dice < 88) {
    member.up = !member.up;
  } else if (dice < 90) {
    member.prepares = !member.prepares;
  } else if (dice < 92) {
    if (member.watch != 0) sim.Do(WatchClosedEvent{member.watch});
    member.watch = 0;
  } else if (dice < 94) {
    if (member.pending != nullptr) {
      member.prepare_error = "broken";
      member.prepare_error_epoch = member.pending->epoch;
    }
  } else if (dice < 95) {
    sim.Do(DrainRequestedEvent{rng(), member.id});
  } else if (dice < 97) {
    // The process is restarted.
    SimMember fresh;
    fresh.record = member.record;
    fresh.record.incarnation = rng();
    fresh.model = member.model;
    // With another package, where the cluster has two.
    if (upgrades && rng() % 2 == 0) {
      fresh.model.compute_digest =
          std::string(64, member.model.compute_digest[0] == 'a' ? 'b' : 'a');
    }
    member = fresh;
  } else if (dice < 98) {
    if (member.active > Epoch(0)) member.held.clear();
  } else if (dice < 99) {
    if (sim.members_.size() < 8) sim.Add();
  } else {
    sim.Restart(/*keep_store=*/rng() % 2 == 0);
  }
}

// No trouble any more.
void Calm(ClusterSim& sim, std::mt19937_64& rng) {
  for (auto& entry : sim.members_) {
    SimMember& member = entry.second;
    member.up = member.prepares = true;
    member.prepare_error.clear();
    // Drained ones stay drained; a restart makes them serve again.
    if (member.record.role == MemberRole::kWorker &&
        sim.StateOf(member) == MemberState::kDraining) {
      SimMember fresh;
      fresh.record = member.record;
      fresh.record.incarnation = rng();
      fresh.model = member.model;
      member = fresh;
    }
  }
}

// Its workers, if there are any, serve a complete table that all its members have.
void ExpectServed(const ClusterSim& sim, const std::string& digest) {
  bool workers = false, routers = false;
  for (const auto& [key, member] : sim.members_) {
    if (member.model.compute_digest != digest) continue;
    (member.record.role == MemberRole::kWorker ? workers : routers) = true;
  }
  if (!workers) return;
  const VersionSnapshot version = sim.snapshot(digest);
  ASSERT_NE(version.active, nullptr);
  EXPECT_TRUE(version.active->Complete());
  EXPECT_EQ(version.ready, routers);
  for (const PlacedWorker& worker : version.active->workers) {
    EXPECT_TRUE(std::any_of(sim.members_.begin(), sim.members_.end(), [&](const auto& entry) {
      return entry.second.id.value() == worker.id.value();
    })) << "names a worker that is gone";
  }
  for (const auto& [key, member] : sim.members_) {
    if (member.model.compute_digest != digest) continue;
    ASSERT_NE(member.table, nullptr);
    EXPECT_EQ(member.table->epoch, version.active->epoch);
  }
}

TEST(ClusterStateProperty, RandomInterleavingsKeepEveryPromiseAndRecover) {
  for (uint64_t seed = 1; seed <= 600; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 rng(seed);
    const bool upgrades = seed % 2 == 0;
    ClusterSim sim(
        Settings(1 + static_cast<uint32_t>(rng() % 3), static_cast<uint32_t>(rng() % 4)));
    const uint64_t workers = 1 + rng() % 5;
    for (uint64_t w = 0; w < workers; ++w) sim.Add();
    sim.Add(MemberRole::kRouter);
    for (int step = 0; step < 400; ++step) {
      RandomTrouble(sim, rng, upgrades);
      if (::testing::Test::HasFailure()) return;
    }
    Calm(sim, rng);
    sim.Run(Duration::Millis(45'000));
    for (const char version : {'a', 'b'}) ExpectServed(sim, std::string(64, version));
    if (::testing::Test::HasFailure()) return;
  }
}

}  // namespace
}  // namespace octet
