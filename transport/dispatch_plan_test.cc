#include "transport/dispatch_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <random>
#include <set>

namespace octet {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

struct Choice {
  std::vector<uint32_t> experts;
  std::vector<float> weights;
  TopK view;
};

Choice MakeChoice(size_t k, std::vector<uint32_t> experts) {
  Choice c;
  c.experts = std::move(experts);
  c.weights.assign(c.experts.size(), 1.0f);
  c.view = {c.experts.size() / k, k, c.experts.data(), c.weights.data()};
  return c;
}

Placement MakePlacement(size_t workers, std::vector<std::vector<uint64_t>> replicas) {
  Placement p;
  p.epoch = Epoch(7);
  for (uint64_t w = 1; w <= workers; ++w) p.workers.push_back({WorkerId(w), ""});
  for (const auto& list : replicas) {
    std::vector<WorkerId> ids;
    for (const uint64_t w : list) ids.emplace_back(w);
    p.expert_replicas.push_back(std::move(ids));
  }
  return p;
}

bool Everyone(WorkerId) { return true; }

DispatchPlan Plan(const Choice& c, const Placement& p, absl::FunctionRef<bool(WorkerId)> usable,
                  bool may_split = false) {
  const std::vector<ReplicaWorker> workers = ReplicaWorkersOf(p);
  return BuildDispatchPlan(GroupByExpert(c.view), p, LayerId(0),
                           {ReplicaCosts{}, workers, may_split}, usable);
}

TEST(DispatchPlan, GroupsRowsByExpertAscending) {
  Choice c = MakeChoice(2, {3, 1, 1, 0, 3, 0});
  const auto groups = GroupByExpert(c.view);
  ASSERT_THAT(groups, SizeIs(3));
  EXPECT_EQ(groups[0].expert, ExpertId(0));
  EXPECT_THAT(groups[0].rows, ElementsAre(1, 2));
  EXPECT_THAT(groups[0].slot_index, ElementsAre(3, 5));
  EXPECT_EQ(groups[1].expert, ExpertId(1));
  EXPECT_THAT(groups[1].rows, ElementsAre(0, 1));
  EXPECT_THAT(groups[1].slot_index, ElementsAre(1, 2));
  EXPECT_EQ(groups[2].expert, ExpertId(3));
  EXPECT_THAT(groups[2].rows, ElementsAre(0, 2));
}

TEST(DispatchPlan, SendsEachRowOncePerWorker) {
  Choice c = MakeChoice(2, {0, 1, 1, 0, 2, 0});
  const Placement p = MakePlacement(2, {{1}, {1}, {2}});
  const DispatchPlan plan = Plan(c, p, Everyone);
  EXPECT_EQ(plan.epoch, Epoch(7));
  EXPECT_THAT(plan.unplaceable, IsEmpty());
  ASSERT_THAT(plan.shares, SizeIs(2));
  EXPECT_EQ(plan.shares[0].worker, WorkerId(1));
  EXPECT_THAT(plan.shares[0].rows, ElementsAre(0, 1, 2));
  EXPECT_THAT(plan.shares[0].local_rows, ElementsAre(ElementsAre(0, 1, 2), ElementsAre(0, 1)));
  EXPECT_THAT(plan.shares[1].rows, ElementsAre(2));
  EXPECT_THAT(plan.shares[1].local_rows, ElementsAre(ElementsAre(0)));
}

TEST(DispatchPlan, TiesGoToTheEarlierReplicaAndLoadIsSpread) {
  Choice c = MakeChoice(2, {0, 1, 0, 1});
  const Placement p = MakePlacement(2, {{2, 1}, {2, 1}});
  const DispatchPlan plan = Plan(c, p, Everyone);
  ASSERT_THAT(plan.shares, SizeIs(2));
  EXPECT_EQ(plan.shares[0].groups[0].expert, ExpertId(1));  // worker 1
  EXPECT_EQ(plan.shares[1].groups[0].expert, ExpertId(0));  // worker 2 is preferred for both
}

TEST(DispatchPlan, ExpertsWithoutAUsableReplicaAreUnplaceable) {
  Choice c = MakeChoice(1, {0, 1, 5});
  const Placement p = MakePlacement(2, {{1, 2}, {1}, {}});
  const DispatchPlan plan = Plan(c, p, [](WorkerId w) { return w == WorkerId(2); });
  ASSERT_THAT(plan.shares, SizeIs(1));
  EXPECT_EQ(plan.shares[0].worker, WorkerId(2));
  ASSERT_THAT(plan.unplaceable, SizeIs(2));
  EXPECT_EQ(plan.unplaceable[0].expert, ExpertId(1));
  EXPECT_EQ(plan.unplaceable[1].expert, ExpertId(5));  // past the placement's table
}

TEST(DispatchPlan, HostsAreTakenFromAddressesAndSpeedsFromThePlacement) {
  Placement p = MakePlacement(5, {});
  p.workers[0].address = "a:1";
  p.workers[1].address = "[::1]:1";
  p.workers[2].address = "a:2";
  p.workers[3].speed = 4 * kWorkerSpeedEqual;
  std::vector<uint32_t> hosts, row_costs;
  for (const ReplicaWorker& worker : ReplicaWorkersOf(p)) {
    hosts.push_back(worker.host);
    row_costs.push_back(worker.row_cost);
  }
  EXPECT_THAT(hosts, ElementsAre(0, 1, 0, 2, 3));
  const uint32_t equal = ReplicaWorker{}.row_cost;
  EXPECT_THAT(row_costs, ElementsAre(equal, equal, equal, equal / 4, equal));
}

TEST(DispatchPlan, ManyRowsOfOneExpertAreSharedByItsReplicas) {
  const Choice c = MakeChoice(1, std::vector<uint32_t>(200, 0));
  const Placement p = MakePlacement(3, {{1, 2, 3}});
  const DispatchPlan plan = Plan(c, p, Everyone, true);
  ASSERT_THAT(plan.shares, SizeIs(3));
  for (const WorkerShare& share : plan.shares) {
    EXPECT_GE(share.rows.size(), 60u);
    EXPECT_LE(share.rows.size(), 80u);
  }
  EXPECT_THAT(Plan(c, p, Everyone, false).shares, SizeIs(1));
}

// What was divided stays so when it is sent again, though one worker gets both.
TEST(DispatchPlan, PartsOfOneExpertThatMeetAreMessagesOfTheirOwn) {
  const Choice c = MakeChoice(1, std::vector<uint32_t>(200, 0));
  const Placement p = MakePlacement(2, {{1, 2}});
  const DispatchPlan first = Plan(c, p, Everyone, true);
  ASSERT_THAT(first.shares, SizeIs(2));
  std::vector<ExpertGroup> parts = {first.shares[0].groups[0], first.shares[1].groups[0]};
  std::sort(parts.begin(), parts.end());
  const std::vector<ReplicaWorker> workers = ReplicaWorkersOf(p);
  const DispatchPlan again =
      BuildDispatchPlan(parts, p, LayerId(0), {ReplicaCosts{}, workers, false},
                        [](WorkerId w) { return w == WorkerId(2); });
  ASSERT_THAT(again.shares, SizeIs(2));
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(again.shares[i].worker, WorkerId(2));
    ASSERT_THAT(again.shares[i].groups, SizeIs(1));
    EXPECT_EQ(again.shares[i].groups[0].rows, parts[i].rows);
  }
}

// Any choice, placement and health: every (row, slot) lands exactly once, with a replica of its
// expert that is usable, or is unplaceable because there is none.
TEST(DispatchPlan, PropertyEverySlotIsPlannedOnce) {
  std::mt19937_64 rng(11);
  for (int round = 0; round < 500; ++round) {
    const uint32_t experts = 1 + rng() % 16;
    const size_t k = 1 + rng() % std::min<uint32_t>(experts, 4);
    const size_t rows = rng() % (round % 3 == 0 ? 300 : 40);
    const size_t workers = 1 + rng() % 6;
    std::vector<uint32_t> chosen;
    std::vector<uint32_t> all(experts);
    std::iota(all.begin(), all.end(), 0u);
    for (size_t r = 0; r < rows; ++r) {
      std::shuffle(all.begin(), all.end(), rng);
      chosen.insert(chosen.end(), all.begin(), all.begin() + static_cast<long>(k));
    }
    std::vector<std::vector<uint64_t>> replicas(experts);
    for (auto& list : replicas) {
      for (uint64_t w = 1; w <= workers; ++w) {
        if (rng() % 2 == 0) list.push_back(w);
      }
    }
    std::set<WorkerId> up;
    for (uint64_t w = 1; w <= workers; ++w) {
      if (rng() % 4 != 0) up.insert(WorkerId(w));
    }
    Choice c = MakeChoice(k, chosen);
    c.view.rows = rows;
    const Placement p = MakePlacement(workers, replicas);
    const DispatchPlan plan = Plan(
        c, p, [&](WorkerId w) { return up.count(w) > 0; }, round % 2 == 0);
    std::vector<int> seen(chosen.size(), 0);
    for (const WorkerShare& share : plan.shares) {
      EXPECT_TRUE(up.count(share.worker));
      EXPECT_TRUE(std::is_sorted(share.rows.begin(), share.rows.end()));
      ASSERT_EQ(share.local_rows.size(), share.groups.size());
      std::set<uint32_t> used;
      for (size_t g = 0; g < share.groups.size(); ++g) {
        const ExpertGroup& group = share.groups[g];
        const auto& holders = p.Replicas(LayerId(0), group.expert);
        EXPECT_NE(std::find(holders.begin(), holders.end(), share.worker), holders.end());
        for (size_t i = 0; i < group.rows.size(); ++i) {
          EXPECT_EQ(share.rows[share.local_rows[g][i]], group.rows[i]);
          EXPECT_EQ(group.slot_index[i] / k, group.rows[i]);
          EXPECT_EQ(chosen[group.slot_index[i]], group.expert.value());
          ++seen[group.slot_index[i]];
          used.insert(group.rows[i]);
        }
      }
      EXPECT_EQ(used.size(), share.rows.size());
    }
    for (const ExpertGroup& group : plan.unplaceable) {
      for (const WorkerId w : p.Replicas(LayerId(0), group.expert)) EXPECT_FALSE(up.count(w));
      for (const uint32_t slot : group.slot_index) ++seen[slot];
    }
    EXPECT_THAT(seen, ::testing::Each(1));
  }
}

}  // namespace
}  // namespace octet
