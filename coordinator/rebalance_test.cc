// Placement under load: extra replicas for hot experts, what moves and what stays, unequal speed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "coordinator/cluster_state_sim.h"
#include "coordinator/placement_planner.h"
#include "core/rebalance_limits.h"

namespace octet {
namespace {

using Rng = std::mt19937_64;

uint32_t Draw(Rng& rng, uint32_t low, uint32_t high) {
  return low + static_cast<uint32_t>(rng() % (high - low + 1));
}

PlannerInput LoadedInput(Rng& rng, bool large) {
  PlannerInput input;
  const uint32_t workers = large ? Draw(rng, 2, 64) : Draw(rng, 2, 8);
  input.experts = large ? Draw(rng, 2, 512) : Draw(rng, 2, 12);
  input.replication = Draw(rng, 1, 2);
  input.extra_replicas = Draw(rng, 0, 6);
  input.expert_bytes = 100;
  const bool bounded = Draw(rng, 0, 1) == 1;
  for (uint32_t w = 1; w <= workers; ++w) {
    PlannerWorker& worker = input.workers.emplace_back();
    worker.id = WorkerId(w);
    worker.zone = std::string(1, static_cast<char>('a' + Draw(rng, 0, 2)));
    worker.speed = Draw(rng, 0, 1) == 1 ? kWorkerSpeedEqual : Draw(rng, 1, 64);
    const uint32_t share = (2 * input.replication * input.experts + workers - 1) / workers;
    if (bounded) worker.memory_bytes = 100 * Draw(rng, 1, share + 1);
  }
  for (uint32_t e = 0; e < input.experts; ++e) input.load.push_back(Draw(rng, 1'000, 100'000));
  return input;
}

uint64_t SlotsOf(const PlannerInput& input) {
  uint64_t slots = 0;
  for (const PlannerWorker& worker : input.workers) {
    const bool bounded = worker.memory_bytes > 0;
    slots += bounded ? std::min<uint64_t>(worker.memory_bytes / 100, input.experts) : input.experts;
  }
  return slots;
}

std::vector<uint64_t> Noisy(const std::vector<uint64_t>& load, uint32_t percent, Rng& rng) {
  std::vector<uint64_t> noisy = load;
  for (uint64_t& rows : noisy) rows = rows * Draw(rng, 100 - percent, 100 + percent) / 100;
  return noisy;
}

Placement AsPlacement(const PlacementPlan& plan) {
  Placement placement;
  placement.expert_replicas = plan.expert_replicas;
  return placement;
}

void CheckLoadedPlan(const PlannerInput& input, const PlacementPlan& plan) {
  const size_t n = input.workers.size();
  const size_t base = std::min<size_t>(input.replication, n);
  const uint64_t slots = SlotsOf(input);
  std::map<uint64_t, uint64_t> count;
  uint64_t total = 0;
  size_t fewest = SIZE_MAX, most = 0;
  for (const auto& set : plan.expert_replicas) {
    ASSERT_EQ(std::set<WorkerId>(set.begin(), set.end()).size(), set.size());
    for (const WorkerId id : set) ++count[id.value()];
    total += set.size();
    fewest = std::min(fewest, set.size());
    most = std::max(most, set.size());
  }
  for (const PlannerWorker& worker : input.workers) {
    if (worker.memory_bytes == 0) continue;
    ASSERT_LE(count[worker.id.value()], worker.memory_bytes / 100);
  }
  // Extra replicas never cost an expert a replica of the base.
  ASSERT_EQ(fewest >= base, slots >= base * input.experts);
  if (most > base) {
    ASSERT_GE(fewest, base);
  }
  const uint64_t spare = slots > base * input.experts ? slots - base * input.experts : 0;
  const uint64_t room = (n - base) * input.experts;
  ASSERT_LE(total, std::min<uint64_t>(slots, base * input.experts + input.extra_replicas));
  const bool unbounded = slots == n * input.experts;
  if (unbounded) {
    ASSERT_EQ(total,
              base * input.experts + std::min<uint64_t>({spare, room, input.extra_replicas}));
  }
  for (uint32_t a = 0; a < input.experts && unbounded; ++a) {
    for (uint32_t b = 0; b < std::min(input.experts, 12u); ++b) {
      if (input.load[a] <= input.load[b]) continue;
      ASSERT_GE(plan.expert_replicas[a].size(), plan.expert_replicas[b].size());
    }
  }
  // Any one worker may go.
  for (const auto& set : plan.expert_replicas) {
    if (base >= 2 && slots >= base * input.experts) {
      ASSERT_GE(set.size(), 2u);
    }
  }
}

TEST(RebalanceProperty, ExtraReplicasKeepBudgetsAvailabilityAndOrderOfLoad) {
  Rng rng(41);
  for (int i = 0; i < 100'000; ++i) {
    const PlannerInput input = LoadedInput(rng, i % 2000 == 0);
    const auto plan = PlanPlacement(input);
    ASSERT_TRUE(plan.ok()) << plan.status();
    ASSERT_NO_FATAL_FAILURE(CheckLoadedPlan(input, *plan)) << "case " << i;
  }
}

TEST(RebalanceProperty, AStationaryNoisyLoadMovesNothing) {
  Rng rng(42);
  for (int i = 0; i < 4'000; ++i) {
    PlannerInput input = LoadedInput(rng, i % 1000 == 0);
    const std::vector<uint64_t> load = input.load;
    input.load = Noisy(load, 5, rng);
    const auto first = PlanPlacement(input);
    ASSERT_TRUE(first.ok());
    const Placement previous = AsPlacement(*first);
    input.previous = &previous;
    for (int round = 0; round < 5; ++round) {
      input.load = Noisy(load, 5, rng);
      const auto next = PlanPlacement(input);
      ASSERT_TRUE(next.ok());
      ASSERT_EQ(next->expert_replicas, first->expert_replicas) << "case " << i;
      ASSERT_EQ(next->loads, 0u);
    }
    input.load.clear();  // idle: nothing to judge by
    const auto idle = PlanPlacement(input);
    ASSERT_TRUE(idle.ok());
    ASSERT_EQ(idle->expert_replicas, first->expert_replicas) << "case " << i;
  }
}

// A shift of load moves extra replicas and, to keep workers even, at most as many others.
TEST(RebalanceProperty, AShiftMovesNoMoreThanTheExtraReplicas) {
  Rng rng(43);
  for (int i = 0; i < 4'000; ++i) {
    PlannerInput input = LoadedInput(rng, i % 1000 == 0);
    for (PlannerWorker& worker : input.workers) {
      worker.memory_bytes = 0;
      worker.zone.clear();
      worker.speed = kWorkerSpeedEqual;
    }
    const auto before = PlanPlacement(input);
    ASSERT_TRUE(before.ok());
    const Placement previous = AsPlacement(*before);
    input.previous = &previous;
    std::shuffle(input.load.begin(), input.load.end(), rng);
    const auto after = PlanPlacement(input);
    ASSERT_TRUE(after.ok());
    ASSERT_LE(after->loads, 2 * input.extra_replicas) << "case " << i;
  }
}

TEST(RebalanceProperty, ExpertsAreSharedInProportionToSpeed) {
  Rng rng(44);
  for (int i = 0; i < 3'000; ++i) {
    PlannerInput input;
    input.experts = Draw(rng, 1, 64);
    const uint32_t workers = Draw(rng, 1, 12);
    for (uint32_t w = 1; w <= workers; ++w) {
      PlannerWorker& worker = input.workers.emplace_back();
      worker.id = WorkerId(w);
      worker.speed = Draw(rng, 1, 64);
    }
    const auto plan = PlanPlacement(input);
    ASSERT_TRUE(plan.ok());
    std::map<uint64_t, uint64_t> count;
    for (const auto& set : plan->expert_replicas) ++count[set.front().value()];
    // No worker would be less busy with one of another's experts than that one is.
    for (const PlannerWorker& a : input.workers) {
      for (const PlannerWorker& b : input.workers) {
        if (a.id == b.id) continue;
        ASSERT_LE(count[a.id.value()] * b.speed, (count[b.id.value()] + 1) * a.speed);
      }
    }
  }
}

TEST(RebalanceProperty, NoZoneTakesAnExpertWhereNoneHasMoreThanHalfOfTheWorkers) {
  Rng rng(45);
  for (int i = 0; i < 3'000; ++i) {
    PlannerInput input;
    input.experts = Draw(rng, 1, 64);
    input.replication = 2;
    const uint32_t zones = Draw(rng, 2, 4), each = Draw(rng, 1, 4);
    for (uint32_t w = 0; w < zones * each; ++w) {
      PlannerWorker& worker = input.workers.emplace_back();
      worker.id = WorkerId(w + 1);
      worker.zone = std::string(1, static_cast<char>('a' + w % zones));
    }
    const auto plan = PlanPlacement(input);
    ASSERT_TRUE(plan.ok());
    for (const auto& set : plan->expert_replicas) {
      ASSERT_EQ(set.size(), 2u);
      ASSERT_NE((set[0].value() - 1) % zones, (set[1].value() - 1) % zones);
    }
  }
}

TEST(RebalancePlanner, AbsurdSpeedIsRefused) {
  PlannerInput input;
  input.experts = 2;
  input.workers.emplace_back().id = WorkerId(1);
  for (const uint32_t speed : {0u, kWorkerSpeedMax + 1}) {
    input.workers[0].speed = speed;
    const auto plan = PlanPlacement(input);
    EXPECT_EQ(plan.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(plan.status().message(), ::testing::HasSubstr("speed"));
  }
}

// ---- The coordinator under a shifting load.

class Rebalance : public ::testing::Test {
 protected:
  void Start(uint32_t replication, uint32_t extra) {
    ClusterSettings settings;
    settings.replication = replication;
    settings.extra_replicas = extra;
    sim_ = std::make_unique<ClusterSim>(settings);
    for (int w = 0; w < 4; ++w) workers_.push_back(&sim_->Add());
    sim_->Add(MemberRole::kRouter);
    sim_->Run(Duration::Millis(2'000));
    ASSERT_NE(Active(), nullptr);
  }
  std::shared_ptr<const Placement> Active() { return sim_->snapshot().active; }
  size_t Replicas(uint32_t expert) { return Active()->expert_replicas[expert].size(); }
  // Rows arrive at the experts' first replicas, `hot` getting four times as many.
  void Serve(uint32_t hot, int64_t ms, uint32_t noise_percent = 0) {
    for (int64_t t = 0; t < ms; t += 500) {
      for (uint32_t e = 0; e < 8; ++e) {
        const WorkerId at = Active()->expert_replicas[e].front();
        for (SimMember* worker : workers_) {
          if (worker->id.value() != at.value()) continue;
          worker->expert_rows.resize(8, 1);
          const uint64_t rows = e == hot ? 4'000 : 1'000;
          worker->expert_rows[e] +=
              rows * Draw(rng_, 100 - noise_percent, 100 + noise_percent) / 100;
        }
      }
      sim_->Run(Duration::Millis(500));
    }
  }

  Rng rng_{46};
  std::unique_ptr<ClusterSim> sim_;
  std::vector<SimMember*> workers_;
};

TEST_F(Rebalance, TheHotExpertGetsTheExtraReplicaAndTheNextOneWithinTenSeconds) {
  ASSERT_NO_FATAL_FAILURE(Start(1, 1));
  Serve(5, 10'000);
  EXPECT_EQ(Replicas(5), 2u);
  Serve(2, 10'000);
  EXPECT_EQ(Replicas(5), 1u);
  EXPECT_EQ(Replicas(2), 2u);
}

TEST_F(Rebalance, AStationaryNoisyLoadGivesNoNewEpoch) {
  ASSERT_NO_FATAL_FAILURE(Start(2, 2));
  Serve(5, 20'000, 30);
  const Epoch settled = Active()->epoch;
  Serve(5, 120'000, 30);
  EXPECT_EQ(Active()->epoch, settled);
  EXPECT_GT(Replicas(5), 2u);
}

TEST_F(Rebalance, WithoutExtraReplicasLoadMovesNothing) {
  ASSERT_NO_FATAL_FAILURE(Start(2, 0));
  const Epoch before = Active()->epoch;
  Serve(5, 20'000);
  EXPECT_EQ(Active()->epoch, before);
}

TEST_F(Rebalance, ExtraReplicasOutliveIdleTimeAndALostWorker) {
  ASSERT_NO_FATAL_FAILURE(Start(2, 1));
  Serve(5, 10'000);
  ASSERT_EQ(Replicas(5), 3u);
  sim_->Run(Duration::Millis(60'000));
  EXPECT_EQ(Replicas(5), 3u);
  SimMember* gone = workers_.back();
  gone->up = false;
  sim_->Run(Duration::Millis(10'000));
  for (uint32_t e = 0; e < 8; ++e) EXPECT_GE(Replicas(e), 2u) << e;
}

TEST_F(Rebalance, ReplicationIsWholeWithinTenSecondsOfARejoin) {
  ASSERT_NO_FATAL_FAILURE(Start(2, 0));
  // Down to one worker: one replica each.
  for (int w = 1; w < 4; ++w) workers_[static_cast<size_t>(w)]->up = false;
  sim_->Run(Duration::Millis(10'000));
  for (uint32_t e = 0; e < 8; ++e) ASSERT_EQ(Replicas(e), 1u) << e;
  workers_[1]->up = true;
  workers_[1]->held.clear();
  ++workers_[1]->record.incarnation;
  sim_->Run(Duration::Millis(10'000));
  for (uint32_t e = 0; e < 8; ++e) EXPECT_EQ(Replicas(e), 2u) << e;
}

}  // namespace
}  // namespace octet
