#include "transport/replica_choice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <random>
#include <set>

namespace octet {
namespace {

using Rng = std::mt19937_64;

uint32_t Draw(Rng& rng, uint32_t low, uint32_t high) {
  return low + static_cast<uint32_t>(rng() % (high - low + 1));
}

uint32_t RowCost(uint32_t speed) { return kReplicaRowCost / speed; }
constexpr uint64_t kEqual = kReplicaRowCost / kWorkerSpeedEqual;

struct Problem {
  std::vector<std::vector<uint32_t>> replicas;
  std::vector<uint32_t> rows;
  std::vector<ReplicaWorker> workers;
  ReplicaCosts costs;

  std::vector<ReplicaDemand> Demands() const {
    std::vector<ReplicaDemand> demands;
    for (size_t d = 0; d < rows.size(); ++d) demands.push_back({rows[d], replicas[d]});
    return demands;
  }
};

Problem Chain(std::vector<uint32_t> rows, uint32_t workers) {
  Problem p;
  for (uint32_t d = 0; d < rows.size(); ++d) {
    p.replicas.push_back({d % workers, (d + 1) % workers});
  }
  p.rows = std::move(rows);
  for (uint32_t w = 0; w < workers; ++w) p.workers.push_back({w});
  return p;
}

// Speeds differ by up to sixteen times in `unequal` ones.
Problem RandomProblem(Rng& rng, uint32_t workers_max, uint32_t demands_max, uint32_t rows_max,
                      bool unequal) {
  Problem p;
  const uint32_t workers = Draw(rng, 1, workers_max), hosts = Draw(rng, 1, workers);
  for (uint32_t w = 0; w < workers; ++w) {
    p.workers.push_back({Draw(rng, 0, hosts - 1)});
    if (unequal) p.workers.back().row_cost = RowCost(Draw(rng, 4, 64));
  }
  const uint32_t demands = Draw(rng, 0, demands_max);
  std::vector<uint32_t> all(workers);
  std::iota(all.begin(), all.end(), 0u);
  for (uint32_t d = 0; d < demands; ++d) {
    std::shuffle(all.begin(), all.end(), rng);
    p.replicas.emplace_back(all.begin(), all.begin() + Draw(rng, 1, std::min(workers, 3u)));
    p.rows.push_back(Draw(rng, 1, rows_max));
  }
  p.costs.ridge_rows = Draw(rng, 1, 16);
  return p;
}

void CheckParts(const Problem& p, const std::vector<ReplicaPart>& parts, bool may_split) {
  std::vector<uint32_t> rows(p.rows.size(), 0);
  std::set<std::pair<uint32_t, uint32_t>> seen;
  for (const ReplicaPart& part : parts) {
    ASSERT_GT(part.rows, 0u);
    ASSERT_TRUE(seen.emplace(part.demand, part.worker).second);
    const auto& replicas = p.replicas[part.demand];
    ASSERT_NE(std::find(replicas.begin(), replicas.end(), part.worker), replicas.end());
    rows[part.demand] += part.rows;
  }
  ASSERT_EQ(rows, p.rows);
  if (!may_split) {
    ASSERT_EQ(parts.size(), p.rows.size());
  }
}

// The least largest cost over all choices of whole experts.
uint64_t Optimum(const Problem& p) {
  std::vector<ReplicaPart> parts;
  uint64_t best = UINT64_MAX;
  const auto visit = [&](const auto& self, uint32_t d) -> void {
    if (d == p.rows.size()) {
      best = std::min(best, CostOf(parts, p.workers, p.costs).largest);
      return;
    }
    for (const uint32_t w : p.replicas[d]) {
      parts.push_back({d, w, p.rows[d]});
      self(self, d + 1);
      parts.pop_back();
    }
  };
  visit(visit, 0);
  return best;
}

TEST(ReplicaChoice, CostIsTheWeightsOrTheRowsAndHostsShareTheirMemory) {
  const ReplicaCosts costs{10, 2};
  const ReplicaWorker apart[] = {{0}, {1}}, together[] = {{0}, {0}};
  const auto cost = [](uint64_t largest, uint64_t worker) {
    return ReplicaCost{largest * kEqual, worker * kEqual};
  };
  EXPECT_EQ(CostOf({{0, 0, 3}, {1, 1, 25}}, apart, costs), cost(50, 50));
  EXPECT_EQ(CostOf({{0, 0, 3}, {1, 0, 25}}, apart, costs), cost(70, 70));
  // Two workers of a host read at once without loss, three reads are too many.
  EXPECT_EQ(CostOf({{0, 0, 3}, {1, 1, 3}}, together, costs), cost(20, 20));
  const ReplicaWorker three[] = {{0}, {0}, {0}};
  EXPECT_EQ(CostOf({{0, 0, 3}, {1, 1, 3}, {2, 2, 3}}, three, costs), cost(30, 20));
  // A fast worker takes less time, also of its host; a slow one more, but its host reads no more.
  const ReplicaWorker fast[] = {{0, RowCost(4 * kWorkerSpeedEqual)}, {0}};
  EXPECT_EQ(CostOf({{0, 0, 40}}, fast, costs), cost(20, 20));
  EXPECT_EQ(CostOf({{0, 0, 3}, {1, 1, 3}, {2, 1, 3}}, fast, costs).largest, 40 * kEqual);
  const ReplicaWorker slow[] = {{0, RowCost(kWorkerSpeedEqual / 2)}, {0}};
  EXPECT_EQ(CostOf({{0, 0, 25}, {1, 1, 3}}, slow, costs), cost(100, 100));
}

TEST(ReplicaChoice, RowsGoWhereTheyTakeLeast) {
  // Four times as fast: it reads three weights before another has read one.
  Problem p = Chain({1, 1, 1, 1}, 2);
  p.workers[1].row_cost = RowCost(4 * kWorkerSpeedEqual);
  const auto parts = ChooseReplicas(p.Demands(), p.workers, p.costs, true);
  ASSERT_NO_FATAL_FAILURE(CheckParts(p, parts, false));
  for (const ReplicaPart& part : parts) EXPECT_EQ(part.worker, 1u);
  // Rows that are divided are so in proportion.
  Problem many = Chain({1000}, 2);
  many.workers[0].row_cost = RowCost(4 * kWorkerSpeedEqual);
  const auto divided = ChooseReplicas(many.Demands(), many.workers, many.costs, true);
  ASSERT_EQ(divided.size(), 2u);
  EXPECT_EQ(divided[0].worker, 0u);
  EXPECT_EQ(divided[0].rows, 800u);
  EXPECT_EQ(divided[1].rows, 200u);
}

TEST(ReplicaChoice, InDecodeNoWorkerReadsTwiceWhereThatCanBeHelped) {
  // The first of each pair is preferred and worker 1 would be asked twice.
  Problem p = Chain({1, 1, 1, 1}, 4);
  p.replicas = {{1, 0}, {1, 2}, {2, 3}, {3, 2}};
  const auto parts = ChooseReplicas(p.Demands(), p.workers, p.costs, true);
  ASSERT_NO_FATAL_FAILURE(CheckParts(p, parts, false));
  EXPECT_EQ(CostOf(parts, p.workers, p.costs).largest_worker,
            kEqual * p.costs.ridge_rows * p.costs.host_readers);
}

TEST(ReplicaChoice, FewRowsAreNeverSplitAndManyAre) {
  const Problem few = Chain({20, 1, 1, 1}, 4);
  EXPECT_EQ(ChooseReplicas(few.Demands(), few.workers, few.costs, true).size(), 4u);
  const Problem many = Chain({400, 10, 10, 10}, 4);
  const auto parts = ChooseReplicas(many.Demands(), many.workers, many.costs, true);
  ASSERT_NO_FATAL_FAILURE(CheckParts(many, parts, true));
  EXPECT_EQ(parts.size(), 5u);
  EXPECT_LT(CostOf(parts, many.workers, many.costs).largest, 2u * 230 * kEqual);
  EXPECT_EQ(ChooseReplicas(many.Demands(), many.workers, many.costs, false).size(), 4u);
}

TEST(ReplicaChoice, ASplitThatHelpsOneOfTwoBusyWorkersIsNotMade) {
  // Expert 0 can go nowhere else, so that splitting expert 1 gains nothing.
  Problem p = Chain({300, 300}, 3);
  p.replicas = {{0}, {1, 2}};
  EXPECT_EQ(ChooseReplicas(p.Demands(), p.workers, p.costs, true).size(), 2u);
}

TEST(ReplicaChoice, NothingToChooseIsNoPart) {
  EXPECT_TRUE(ChooseReplicas({}, {}, ReplicaCosts{}, true).empty());
}

TEST(ReplicaChoice, AHostThatReadsAllItCanIsNotAskedToReadMore) {
  Problem p = Chain({40}, 8);
  p.replicas = {{0, 1}};
  p.workers.assign(8, ReplicaWorker{0});
  for (uint32_t d = 1; d < 8; ++d) {
    p.rows.push_back(1);
    p.replicas.push_back({d, d});
    p.replicas.back().pop_back();
  }
  EXPECT_EQ(ChooseReplicas(p.Demands(), p.workers, p.costs, true).size(), 8u);
}

TEST(ReplicaChoiceProperty, NeverWorseThanFewestRowsAndNearTheOptimum) {
  Rng rng(51);
  uint64_t optimal[2] = {}, cases[2] = {};  // of equal speeds, unequal ones
  double worst[2] = {1, 1};
  for (int i = 0; i < 100'000; ++i) {
    const bool decode = i % 2 == 0, unequal = i % 4 > 1;
    const Problem p = RandomProblem(rng, 6, 7, decode ? 1 : 60, unequal);
    const auto demands = p.Demands();
    const auto parts = ChooseReplicas(demands, p.workers, p.costs, false);
    ASSERT_NO_FATAL_FAILURE(CheckParts(p, parts, false)) << "case " << i;
    const ReplicaCost cost = CostOf(parts, p.workers, p.costs);
    const auto fewest = ChooseFewestRows(demands, p.workers);
    ASSERT_LE(cost.largest, CostOf(fewest, p.workers, p.costs).largest) << "case " << i;
    const auto split = ChooseReplicas(demands, p.workers, p.costs, true);
    ASSERT_NO_FATAL_FAILURE(CheckParts(p, split, true)) << "case " << i;
    ASSERT_LE(CostOf(split, p.workers, p.costs).largest, cost.largest) << "case " << i;
    if (decode) {
      ASSERT_EQ(split.size(), parts.size()) << "case " << i;
    }
    if (i % 20 > 3) continue;
    const uint64_t best = Optimum(p);
    ++cases[unequal];
    optimal[unequal] += cost.largest == best ? 1 : 0;
    if (best > 0) {
      worst[unequal] =
          std::max(worst[unequal], static_cast<double>(cost.largest) / static_cast<double>(best));
    }
  }
  for (const int unequal : {0, 1}) {
    const uint64_t share = optimal[unequal] * 10'000 / cases[unequal];
    printf("%s speeds: optimal in %.2f %%, at worst %.3f times the optimum\n",
           unequal == 1 ? "unequal" : "equal", static_cast<double>(share) / 100, worst[unequal]);
    EXPECT_LE(worst[unequal], 1.6);
    EXPECT_GE(share, 9'500u);
  }
}

// Without hosts in the way, equal costs are a matching problem that chains of moves solve.
TEST(ReplicaChoiceProperty, DecodeIsOptimal) {
  Rng rng(52);
  for (int i = 0; i < 20'000; ++i) {
    Problem p = RandomProblem(rng, 6, 7, 1, i % 2 == 0);
    for (uint32_t w = 0; w < p.workers.size(); ++w) p.workers[w].host = w;
    const auto parts = ChooseReplicas(p.Demands(), p.workers, p.costs, true);
    ASSERT_EQ(CostOf(parts, p.workers, p.costs).largest, Optimum(p)) << "case " << i;
  }
}

TEST(ReplicaChoiceProperty, ManyExpertsAndWorkers) {
  Rng rng(53);
  for (int i = 0; i < 50; ++i) {
    const Problem p = RandomProblem(rng, 64, 512, i % 2 == 0 ? 1 : 400, i % 4 < 2);
    const auto parts = ChooseReplicas(p.Demands(), p.workers, p.costs, true);
    ASSERT_NO_FATAL_FAILURE(CheckParts(p, parts, true));
    const auto fewest = ChooseFewestRows(p.Demands(), p.workers);
    ASSERT_LE(CostOf(parts, p.workers, p.costs), CostOf(fewest, p.workers, p.costs));
    const auto again = ChooseReplicas(p.Demands(), p.workers, p.costs, true);
    ASSERT_EQ(again.size(), parts.size());
    for (size_t k = 0; k < parts.size(); ++k) ASSERT_EQ(again[k].worker, parts[k].worker);
  }
}

}  // namespace
}  // namespace octet
