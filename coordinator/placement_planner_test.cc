#include "coordinator/placement_planner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <random>
#include <set>

#include "core/limits.h"

namespace octet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

PlannerWorker Worker(uint64_t id, std::string zone = "", std::string host = "") {
  PlannerWorker worker;
  worker.id = WorkerId(id);
  worker.zone = std::move(zone);
  worker.host = std::move(host);
  return worker;
}

PlannerInput Cluster(uint32_t workers, uint32_t experts, uint32_t replication) {
  PlannerInput input;
  for (uint32_t w = 1; w <= workers; ++w) input.workers.push_back(Worker(w));
  input.experts = experts;
  input.replication = replication;
  input.expert_bytes = 100;
  return input;
}

Placement AsPlacement(const PlacementPlan& plan) {
  Placement placement;
  placement.expert_replicas = plan.expert_replicas;
  return placement;
}

std::map<uint64_t, uint32_t> Counts(const PlacementPlan& plan) {
  std::map<uint64_t, uint32_t> counts;
  for (const auto& replicas : plan.expert_replicas) {
    for (const WorkerId id : replicas) ++counts[id.value()];
  }
  return counts;
}

TEST(PlacementPlanner, EightOnEightIsTheChain) {
  const auto plan = PlanPlacement(Cluster(8, 8, 2));
  ASSERT_TRUE(plan.ok());
  for (uint64_t e = 0; e < 8; ++e) {
    EXPECT_THAT(plan->expert_replicas[e], ElementsAre(WorkerId(e + 1), WorkerId((e + 1) % 8 + 1)));
  }
}

TEST(PlacementPlanner, ChainAlternatesZonesThenHosts) {
  std::vector<PlannerWorker> workers = {Worker(1, "a", "h1"), Worker(2, "a", "h1"),
                                        Worker(3, "a", "h2"), Worker(4, "b", "h3"),
                                        Worker(5, "b", "h4"), Worker(6, "b", "h4")};
  const auto order = AlternateDomains(workers);
  ASSERT_THAT(order, SizeIs(6));
  for (size_t i = 0; i + 1 < order.size(); ++i) {
    EXPECT_NE(workers[order[i]].zone, workers[order[i + 1]].zone) << i;
  }
  workers = {Worker(1, "", "h1"), Worker(2, "", "h1"), Worker(3, "", "h2"), Worker(4, "", "h2")};
  const auto hosts = AlternateDomains(workers);
  for (size_t i = 0; i + 1 < hosts.size(); ++i) {
    EXPECT_NE(workers[hosts[i]].host, workers[hosts[i + 1]].host) << i;
  }
}

TEST(PlacementPlanner, ReplicasAreInDifferentZones) {
  PlannerInput input = Cluster(0, 16, 2);
  for (uint64_t w = 1; w <= 6; ++w) input.workers.push_back(Worker(w, w <= 3 ? "a" : "b"));
  const auto plan = PlanPlacement(input);
  ASSERT_TRUE(plan.ok());
  for (const auto& replicas : plan->expert_replicas) {
    ASSERT_THAT(replicas, SizeIs(2));
    EXPECT_NE(replicas[0].value() <= 3, replicas[1].value() <= 3);
  }
}

TEST(PlacementPlanner, FirstReplicasComeBeforeSecondOnes) {
  PlannerInput input = Cluster(2, 8, 2);
  input.workers[0].memory_bytes = 500;
  input.workers[1].memory_bytes = 500;
  const auto plan = PlanPlacement(input);
  ASSERT_TRUE(plan.ok());
  EXPECT_THAT(plan->unplaced, SizeIs(0));
  EXPECT_THAT(plan->under_replicated, SizeIs(6));
}

TEST(PlacementPlanner, ASecondReplicaGivesWayToAnExpertWithoutAny) {
  PlannerInput input = Cluster(2, 4, 2);
  for (auto& worker : input.workers) worker.memory_bytes = 200;
  Placement previous;
  previous.expert_replicas = {{WorkerId(1), WorkerId(2)}, {WorkerId(1), WorkerId(2)}, {}, {}};
  input.previous = &previous;
  const auto plan = PlanPlacement(input);
  ASSERT_TRUE(plan.ok());
  EXPECT_THAT(plan->unplaced, SizeIs(0));
}

TEST(PlacementPlanner, MemoryHeldBeforeIsKeptUnderNewIds) {
  PlannerInput input = Cluster(4, 8, 2);
  const auto before = PlanPlacement(input);
  ASSERT_TRUE(before.ok());
  PlannerInput renamed = Cluster(0, 8, 2);
  for (uint64_t w = 1; w <= 4; ++w) {
    PlannerWorker worker = Worker(100 - w);
    for (uint32_t e = 0; e < 8; ++e) {
      const auto& list = before->expert_replicas[e];
      if (std::count(list.begin(), list.end(), WorkerId(w)) > 0) worker.held.push_back(ExpertId(e));
    }
    renamed.workers.push_back(worker);
  }
  const auto after = PlanPlacement(renamed);
  ASSERT_TRUE(after.ok());
  EXPECT_EQ(after->loads, 0u);
}

TEST(PlacementPlanner, AWorkerThatAcceptsNothingNewKeepsWhatItHas) {
  PlannerInput input = Cluster(3, 6, 1);
  Placement previous;
  previous.expert_replicas = {{WorkerId(1)}, {WorkerId(1)}, {WorkerId(2)},
                              {WorkerId(2)}, {WorkerId(3)}, {WorkerId(9)}};
  input.previous = &previous;
  input.workers[2].accepts_new = false;
  const auto plan = PlanPlacement(input);
  ASSERT_TRUE(plan.ok());
  EXPECT_THAT(plan->unplaced, SizeIs(0));
  EXPECT_EQ(Counts(*plan)[3], 1u);
}

TEST(PlacementPlanner, ExtraReplicasGoToTheHottestExperts) {
  PlannerInput input = Cluster(4, 8, 1);
  input.extra_replicas = 2;
  input.load = {1, 1, 1, 90, 1, 1, 50, 1};
  const auto plan = PlanPlacement(input);
  ASSERT_TRUE(plan.ok());
  EXPECT_THAT(plan->expert_replicas[3], SizeIs(2));
  EXPECT_THAT(plan->expert_replicas[6], SizeIs(2));
}

TEST(PlacementPlanner, RefusesMalformedInputByName) {
  const auto refused = [](const PlannerInput& input, const char* what) {
    EXPECT_THAT(std::string(PlanPlacement(input).status().message()), HasSubstr(what));
  };
  refused(Cluster(2, 0, 1), "experts");
  refused(Cluster(2, kExpertsMax + 1, 1), "experts");
  refused(Cluster(2, 8, 0), "replication");
  refused(Cluster(0, 8, 1), "no live worker");
  PlannerInput input = Cluster(2, 8, 1);
  input.load = {1};
  refused(input, "load");
  input = Cluster(2, 8, 1);
  input.workers[1].id = WorkerId(1);
  refused(input, "appears twice");
}

// ---- Properties over random clusters ----

using Rng = std::mt19937_64;

uint32_t Draw(Rng& rng, uint32_t low, uint32_t high) {
  return low + static_cast<uint32_t>(rng() % (high - low + 1));
}

PlannerInput RandomInput(Rng& rng, bool large) {
  const uint32_t workers = large ? Draw(rng, 1, 64) : Draw(rng, 1, 9);
  const uint32_t experts = large ? Draw(rng, 1, 512) : Draw(rng, 1, 16);
  PlannerInput input = Cluster(workers, experts, Draw(rng, 1, 3));
  const uint32_t zones = Draw(rng, 1, 3), hosts = Draw(rng, 1, workers);
  const bool bounded = Draw(rng, 0, 1) == 1;
  for (auto& worker : input.workers) {
    worker.zone = std::string(1, static_cast<char>('a' + Draw(rng, 0, zones - 1)));
    worker.host = std::to_string(Draw(rng, 1, hosts));
    const uint32_t share = 2 * experts * input.replication / workers + 1;
    if (bounded) worker.memory_bytes = 1 + 100 * Draw(rng, 0, share);
  }
  return input;
}

uint64_t Slots(const PlannerInput& input, const PlannerWorker& worker) {
  if (worker.memory_bytes == 0) return input.experts;
  return std::min<uint64_t>(input.experts, worker.memory_bytes / input.expert_bytes);
}

// Replicas at or below `level`, summed over experts: the most that any placement reaches is
// min(level * experts, sum of slots), because slots are at most `experts` each.
void CheckPlan(const PlannerInput& input, const PlacementPlan& plan) {
  ASSERT_EQ(plan.expert_replicas.size(), input.experts);
  std::map<uint64_t, uint64_t> slots;
  uint64_t total = 0;
  for (const auto& worker : input.workers) {
    slots[worker.id.value()] = Slots(input, worker);
    total += Slots(input, worker);
  }
  const uint64_t wanted = std::min<uint64_t>(input.replication, input.workers.size());
  std::vector<uint64_t> reached(wanted + 1, 0);
  for (const auto& replicas : plan.expert_replicas) {
    ASSERT_EQ(std::set<WorkerId>(replicas.begin(), replicas.end()).size(), replicas.size());
    ASSERT_LE(replicas.size(), wanted);
    for (uint64_t level = 1; level <= wanted; ++level) {
      reached[level] += std::min<uint64_t>(replicas.size(), level);
    }
  }
  for (uint64_t level = 1; level <= wanted; ++level) {
    ASSERT_EQ(reached[level], std::min<uint64_t>(level * input.experts, total)) << level;
  }
  for (const auto& entry : Counts(plan)) ASSERT_LE(entry.second, slots.at(entry.first));
}

void CheckStable(PlannerInput input, const PlacementPlan& plan, Rng& rng) {
  const Placement previous = AsPlacement(plan);
  input.previous = &previous;
  std::shuffle(input.workers.begin(), input.workers.end(), rng);
  const auto again = PlanPlacement(input);
  ASSERT_TRUE(again.ok());
  ASSERT_EQ(again->expert_replicas, plan.expert_replicas);
  ASSERT_EQ(again->loads, 0u);
}

TEST(PlacementPlannerProperty, BudgetsAvailabilityAndStability) {
  Rng rng(20240607);
  for (int i = 0; i < 100'000; ++i) {
    const PlannerInput input = RandomInput(rng, i % 1000 == 0);
    const auto plan = PlanPlacement(input);
    ASSERT_TRUE(plan.ok()) << plan.status();
    ASSERT_NO_FATAL_FAILURE(CheckPlan(input, *plan)) << "case " << i;
    if (i % 4 == 0) {
      ASSERT_NO_FATAL_FAILURE(CheckStable(input, *plan, rng)) << "case " << i;
    }
  }
}

TEST(PlacementPlannerProperty, CountsDifferByAtMostOneWithoutBudgetsAndDomains) {
  Rng rng(7);
  for (int i = 0; i < 5'000; ++i) {
    const uint32_t workers = Draw(rng, 1, 16);
    const auto plan = PlanPlacement(Cluster(workers, Draw(rng, 1, 64), Draw(rng, 1, 3)));
    ASSERT_TRUE(plan.ok());
    const auto counts = Counts(*plan);
    uint32_t low = counts.size() < workers ? 0 : UINT32_MAX, high = 0;
    for (const auto& entry : counts) {
      low = std::min(low, entry.second);
      high = std::max(high, entry.second);
    }
    ASSERT_LE(high, low + 1);
  }
}

// A join takes only its own share; a leave reloads what was lost and, where replicas must stay
// distinct, exchanges at most as many to make room.
TEST(PlacementPlannerProperty, JoinsAndLeavesMoveABoundedNumber) {
  Rng rng(11);
  for (int i = 0; i < 2'000; ++i) {
    PlannerInput input = Cluster(Draw(rng, 1, 12), Draw(rng, 1, 64), Draw(rng, 1, 3));
    uint64_t next_id = 1000;
    auto plan = PlanPlacement(input);
    ASSERT_TRUE(plan.ok());
    for (int change = 0; change < 6; ++change) {
      const Placement previous = AsPlacement(*plan);
      const auto before = Counts(*plan);
      input.previous = &previous;
      const bool leave = input.workers.size() > 1 && Draw(rng, 0, 1) == 1;
      uint64_t lost = 0;
      const size_t old_copies = std::min<size_t>(input.replication, input.workers.size());
      if (leave) {
        const size_t at = Draw(rng, 0, static_cast<uint32_t>(input.workers.size()) - 1);
        const auto found = before.find(input.workers[at].id.value());
        lost = found == before.end() ? 0 : found->second;
        input.workers.erase(input.workers.begin() + static_cast<ptrdiff_t>(at));
      } else {
        input.workers.push_back(Worker(next_id++));
      }
      plan = PlanPlacement(input);
      ASSERT_TRUE(plan.ok());
      ASSERT_NO_FATAL_FAILURE(CheckPlan(input, *plan));
      const size_t n = input.workers.size();
      const size_t copies = std::min<size_t>(input.replication, n);
      const uint64_t share = (copies * input.experts + n - 1) / n;
      const uint64_t bound =
          leave ? 2 * lost
                : (copies - old_copies) * input.experts + (copies == old_copies ? share : 0);
      ASSERT_LE(plan->loads, bound) << "case " << i << (leave ? " leave" : " join");
    }
  }
}

TEST(PlacementPlannerProperty, ReplicasShareNoZoneWhereBothZonesHaveRoom) {
  Rng rng(13);
  for (int i = 0; i < 2'000; ++i) {
    const uint32_t pairs = Draw(rng, 1, 8);
    PlannerInput input = Cluster(2 * pairs, Draw(rng, 1, 64), 2);
    for (uint32_t w = 0; w < 2 * pairs; ++w) input.workers[w].zone = w < pairs ? "a" : "b";
    std::shuffle(input.workers.begin(), input.workers.end(), rng);
    const auto plan = PlanPlacement(input);
    ASSERT_TRUE(plan.ok());
    for (const auto& replicas : plan->expert_replicas) {
      ASSERT_EQ(replicas.size(), 2u);
      ASSERT_NE(replicas[0].value() <= pairs, replicas[1].value() <= pairs) << "case " << i;
    }
  }
}

}  // namespace
}  // namespace octet
