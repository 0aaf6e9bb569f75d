// How placements compare: ours (chain, extra replicas, replicas chosen by cost) and EPLB's, in the
// same memory, over lognormal loads. Prints a table in Markdown and how long planning takes.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include "bench/eplb.h"
#include "coordinator/placement_planner.h"
#include "transport/replica_choice.h"

namespace octet {
namespace {

constexpr int kCases = 200;
constexpr double kRows = 1e6;   // of a step, so many that dividing them is exact enough
constexpr double kDrift = 0.2;  // lognormal sigma of the change of load between two plans

using Table = std::vector<std::vector<uint32_t>>;  // [expert] → workers, one entry a replica

std::vector<double> Lognormal(size_t n, double sigma, std::mt19937_64& rng) {
  std::normal_distribution<double> normal(0.0, sigma);
  std::vector<double> values(n);
  for (double& value : values) value = std::exp(normal(rng));
  return values;
}

struct Figures {
  double balance = 0, balance_even = 0, single = 0, some_single = 0, after_loss = 0, moved = 0;
};

// Mean over highest load of `workers` workers, where each replica gets an equal part.
double Even(const Table& table, const std::vector<double>& load, uint32_t workers) {
  std::vector<double> busy(workers, 0);
  double total = 0;
  for (size_t e = 0; e < table.size(); ++e) {
    if (table[e].empty()) return 0;  // an expert is gone
    total += load[e];
    for (const uint32_t w : table[e]) busy[w] += load[e] / static_cast<double>(table[e].size());
  }
  return total / workers / *std::max_element(busy.begin(), busy.end());
}

// Each on a host of its own.
std::vector<ReplicaWorker> Apart(uint32_t workers) {
  std::vector<ReplicaWorker> apart;
  for (uint32_t w = 0; w < workers; ++w) apart.push_back({w});
  return apart;
}

// The same where the router chooses.
double Chosen(const Table& table, const std::vector<double>& load, uint32_t workers) {
  const double scale = kRows / std::accumulate(load.begin(), load.end(), 0.0);
  std::vector<std::vector<uint32_t>> distinct;
  for (const auto& list : table) {
    if (list.empty()) return 0;
    const std::set<uint32_t> set(list.begin(), list.end());
    distinct.emplace_back(set.begin(), set.end());
  }
  std::vector<ReplicaDemand> demands;
  for (size_t e = 0; e < table.size(); ++e) {
    demands.push_back({static_cast<uint32_t>(load[e] * scale) + 1, distinct[e]});
  }
  const ReplicaCosts costs;
  const std::vector<ReplicaWorker> apart = Apart(workers);
  const auto parts = ChooseReplicas(demands, apart, costs, /*may_split=*/true);
  const double largest = static_cast<double>(CostOf(parts, apart, costs).largest_worker);
  return kRows / workers / (largest / costs.host_readers / apart[0].row_cost);
}

Table Without(const Table& table, uint32_t gone) {
  Table left = table;
  for (auto& list : left) std::erase(list, gone);
  return left;
}

size_t Moved(const Table& before, const Table& after) {
  size_t moved = 0;
  for (size_t e = 0; e < after.size(); ++e) {
    const std::set<uint32_t> had(before[e].begin(), before[e].end());
    const std::set<uint32_t> has(after[e].begin(), after[e].end());
    for (const uint32_t w : has) moved += had.count(w) == 0 ? 1 : 0;
  }
  return moved;
}

struct Shape {
  uint32_t experts, workers;
};

Table PlaceOurs(const Shape& shape, const std::vector<double>& load, const Table* before) {
  PlannerInput input;
  input.experts = shape.experts;
  input.replication = 2;
  input.extra_replicas = shape.workers;
  input.expert_bytes = 1;
  for (uint32_t w = 0; w < shape.workers; ++w) {
    PlannerWorker& worker = input.workers.emplace_back();
    worker.id = WorkerId(w + 1);
    worker.memory_bytes = 2 * shape.experts / shape.workers + 1;
  }
  for (const double l : load) input.load.push_back(static_cast<uint64_t>(l * 1e6));
  Placement previous;
  if (before != nullptr) {
    for (const auto& list : *before) {
      auto& ids = previous.expert_replicas.emplace_back();
      for (const uint32_t w : list) ids.emplace_back(w + 1);
    }
    input.previous = &previous;
  }
  const auto plan = PlanPlacement(input);
  Table table;
  if (!plan.ok()) return table;
  for (const auto& ids : plan->expert_replicas) {
    auto& list = table.emplace_back();
    for (const WorkerId id : ids) list.push_back(static_cast<uint32_t>(id.value()) - 1);
  }
  return table;
}

void AddTo(Figures* sum, const Table& table, const Table& next, const std::vector<double>& load,
           uint32_t workers, bool ours) {
  sum->balance += Chosen(table, load, workers);
  sum->balance_even += Even(table, load, workers);
  size_t single = 0, slots = 0;
  for (const auto& list : table) {
    single += std::set<uint32_t>(list.begin(), list.end()).size() < 2 ? 1 : 0;
    slots += list.size();
  }
  sum->single += static_cast<double>(single) / static_cast<double>(table.size());
  sum->some_single += single > 0 ? 1 : 0;
  double worst = 1;
  for (uint32_t gone = 0; gone < workers; ++gone) {
    const Table left = Without(table, gone);
    worst = std::min(worst, ours ? Chosen(left, load, workers) : Even(left, load, workers));
  }
  sum->after_loss += worst;
  sum->moved += static_cast<double>(Moved(table, next)) / static_cast<double>(slots);
}

void Print(const char* name, double sigma, const Shape& shape, const Figures& sum) {
  std::printf("| %.1f | %u on %u | %s | %.3f | %.3f | %.0f %% (%.1f %%) | %.0f %% | %.1f %% |\n",
              sigma, shape.experts, shape.workers, name, sum.balance_even / kCases,
              sum.balance / kCases, 100 * sum.some_single / kCases, 100 * sum.single / kCases,
              100 * sum.after_loss / kCases, 100 * sum.moved / kCases);
}

void Compare(double sigma, const Shape& shape) {
  std::mt19937_64 rng(shape.experts * 1000 + shape.workers);
  Figures ours, eplb;
  const uint32_t slots = 2 * shape.experts + shape.workers;
  for (int i = 0; i < kCases; ++i) {
    const std::vector<double> load = Lognormal(shape.experts, sigma, rng);
    std::vector<double> later = Lognormal(shape.experts, kDrift, rng);
    for (size_t e = 0; e < later.size(); ++e) later[e] *= load[e];
    const Table table = PlaceOurs(shape, load, nullptr);
    AddTo(&ours, table, PlaceOurs(shape, later, &table), load, shape.workers, true);
    AddTo(&eplb, PlaceLikeEplb(load, shape.workers, slots),
          PlaceLikeEplb(later, shape.workers, slots), load, shape.workers, false);
  }
  Print("Octet", sigma, shape, ours);
  Print("EPLB", sigma, shape, eplb);
}

// Microseconds of one call, the least of some.
template <typename F>
double Micros(int calls, const F& call) {
  double least = 1e30;
  for (int repetition = 0; repetition < 5; ++repetition) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < calls; ++i) call();
    const std::chrono::duration<double, std::micro> taken =
        std::chrono::steady_clock::now() - start;
    least = std::min(least, taken.count() / calls);
  }
  return least;
}

void TimeChoice(const Shape& shape, double rows_per_expert, int calls) {
  std::mt19937_64 rng(5);
  std::vector<std::vector<uint32_t>> replicas;
  for (uint32_t e = 0; e < shape.experts; ++e) {
    replicas.push_back({e % shape.workers, (e + 1) % shape.workers});
  }
  std::vector<ReplicaDemand> demands;
  for (const double load : Lognormal(shape.experts, 1.0, rng)) {
    demands.push_back(
        {static_cast<uint32_t>(rows_per_expert * load) + 1, replicas[demands.size()]});
  }
  const std::vector<ReplicaWorker> apart = Apart(shape.workers);
  size_t parts = 0;
  const double cost =
      Micros(calls, [&] { parts = ChooseReplicas(demands, apart, ReplicaCosts{}, true).size(); });
  const double fewest = Micros(calls, [&] { ChooseFewestRows(demands, apart); });
  std::printf("| %u on %u, %.0f rows an expert | %.1f | %.1f | %zu |\n", shape.experts,
              shape.workers, rows_per_expert, cost, fewest, parts);
}

int Main() {
  std::printf(
      "| sigma | experts on workers | | balance, rows shared evenly | balance, replicas "
      "chosen by cost | cases with an expert on one worker (such experts) | capacity after "
      "the worst loss | weights moved by a replan |\n|--|--|--|--|--|--|--|--|\n");
  for (const double sigma : {0.3, 0.6, 1.0}) {
    for (const Shape shape :
         {Shape{8, 4}, Shape{8, 8}, Shape{64, 8}, Shape{64, 32}, Shape{256, 32}}) {
      Compare(sigma, shape);
    }
  }
  std::printf("\n| choice of replicas | by cost, us | fewest rows, us | parts |\n|--|--|--|--|\n");
  TimeChoice({8, 8}, 0, 20'000);
  TimeChoice({8, 8}, 100, 20'000);
  TimeChoice({64, 16}, 100, 2'000);
  TimeChoice({512, 64}, 0, 200);
  TimeChoice({512, 64}, 100, 200);
  return 0;
}

}  // namespace
}  // namespace octet

int main() { return octet::Main(); }
