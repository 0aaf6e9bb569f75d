#include "transport/replica_choice.h"

#include <algorithm>
#include <numeric>

namespace octet {
namespace {

constexpr uint32_t kNone = UINT32_MAX;

class Chooser {
 public:
  Chooser(const std::vector<ReplicaDemand>& demands, absl::Span<const ReplicaWorker> workers,
          const ReplicaCosts& costs)
      : demands_(demands),
        workers_(workers),
        costs_(costs),
        cost_(workers.size(), 0),
        host_(workers.size(), 0) {}

  void LargestFirst();
  void Adopt(const std::vector<ReplicaPart>& parts);
  void Relieve();
  void Split();
  ReplicaCost Value() const {
    ReplicaCost value;
    for (const uint64_t cost : cost_) value.largest_worker = std::max(value.largest_worker, cost);
    value.largest = value.largest_worker;
    for (const uint64_t cost : host_) value.largest = std::max(value.largest, cost);
    return value;
  }
  std::vector<ReplicaPart>& parts() { return parts_; }

 private:
  uint64_t Cost(uint32_t worker, uint32_t rows) const {
    if (rows == 0) return 0;
    return uint64_t{std::max(rows, costs_.ridge_rows)} * costs_.host_readers *
           workers_[worker].row_cost;
  }
  // What reading an expert's weights is for the host of `worker`. A slow worker reads as many bytes
  // as others.
  uint64_t ReadCost(uint32_t worker) const {
    return uint64_t{costs_.ridge_rows} *
           std::min(workers_[worker].row_cost, kReplicaRowCost / kWorkerSpeedEqual);
  }
  uint64_t& HostCost(uint32_t worker) { return host_[workers_[worker].host]; }
  // Of the host of `worker`, were it to read once more.
  uint64_t HostThen(uint32_t worker) const {
    return host_[workers_[worker].host] + ReadCost(worker);
  }
  void Add(const ReplicaPart& part) {
    cost_[part.worker] += Cost(part.worker, part.rows);
    HostCost(part.worker) += ReadCost(part.worker);
    parts_.push_back(part);
  }
  void Move(uint32_t p, uint32_t to) {
    ReplicaPart& part = parts_[p];
    cost_[part.worker] -= Cost(part.worker, part.rows);
    HostCost(part.worker) -= ReadCost(part.worker);
    part.worker = to;
    cost_[to] += Cost(to, part.rows);
    HostCost(to) += ReadCost(to);
  }
  uint32_t Busiest() const {
    return static_cast<uint32_t>(std::max_element(cost_.begin(), cost_.end()) - cost_.begin());
  }
  // The host of `to` reads for it what `from` did, and that does not make it the bottleneck.
  bool HostHasRoom(uint32_t from, uint32_t to, uint64_t largest) const {
    const bool same = workers_[from].host == workers_[to].host;
    return HostThen(to) - (same ? ReadCost(from) : 0) <= largest;
  }
  // A message more to `worker`, and weights read twice, must be worth so much.
  uint64_t Margin(uint32_t worker) const { return Cost(worker, 1) / 2; }
  // Rows of a part that another replica would take over; `taken` is what it has of the same demand.
  struct Gift {
    uint32_t part = kNone, taken = kNone, to = kNone;
    uint32_t rows = 0;
    uint64_t cost = 0;  // of the busier of the two then
  };
  void Weigh(uint32_t p, uint32_t taken, Gift* gift) const;
  void IndexParts();
  bool RelieveOnce();
  bool SplitOnce();

  const std::vector<ReplicaDemand>& demands_;
  const absl::Span<const ReplicaWorker> workers_;
  const ReplicaCosts costs_;
  std::vector<uint64_t> cost_, host_;  // in the units of ReplicaCost
  std::vector<ReplicaPart> parts_;
  std::vector<uint32_t> first_, next_;  // parts of a worker, as a list
};

// The costliest experts first, of equal ones those with the least choice, each to where the outcome
// is the cheapest.
void Chooser::LargestFirst() {
  std::vector<uint32_t> order(demands_.size());
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
    const uint32_t rows_a = std::max(demands_[a].rows, costs_.ridge_rows);
    const uint32_t rows_b = std::max(demands_[b].rows, costs_.ridge_rows);
    if (rows_a != rows_b) return rows_a > rows_b;
    return demands_[a].workers.size() < demands_[b].workers.size();
  });
  for (const uint32_t d : order) {
    uint32_t best = kNone;
    ReplicaCost best_cost;
    for (const uint32_t w : demands_[d].workers) {
      ReplicaCost then;
      then.largest_worker = cost_[w] + Cost(w, demands_[d].rows);
      then.largest = std::max(then.largest_worker, HostThen(w));
      if (best == kNone || then < best_cost) {
        best = w;
        best_cost = then;
      }
    }
    Add({d, best, demands_[d].rows});
  }
}

void Chooser::Adopt(const std::vector<ReplicaPart>& parts) {
  cost_.assign(cost_.size(), 0);
  host_.assign(host_.size(), 0);
  parts_.clear();
  for (const ReplicaPart& part : parts) Add(part);
}

void Chooser::IndexParts() {
  first_.assign(cost_.size(), kNone);
  next_.assign(parts_.size(), kNone);
  for (uint32_t p = static_cast<uint32_t>(parts_.size()); p-- > 0;) {
    next_[p] = first_[parts_[p].worker];
    first_[parts_[p].worker] = p;
  }
}

// Breadth-first from the busiest worker over "p goes from here to another replica, where q makes
// room": ends where a worker stays below the present largest cost. For experts of equal cost, as in
// decoding, no better choice exists once no such chain does.
bool Chooser::RelieveOnce() {
  struct Visit {
    uint32_t worker, arrives, parent;  // `arrives`: a part that came from the parent's worker
  };
  IndexParts();
  const uint32_t busiest = Busiest();
  const uint64_t limit = cost_[busiest];
  const uint64_t largest = Value().largest;
  std::vector<bool> seen(cost_.size(), false);
  seen[busiest] = true;
  std::vector<Visit> visits = {{busiest, kNone, kNone}};
  for (uint32_t i = 0; i < visits.size(); ++i) {
    const Visit visit = visits[i];
    const uint64_t arrived =
        visit.arrives == kNone ? 0 : Cost(visit.worker, parts_[visit.arrives].rows);
    for (uint32_t p = first_[visit.worker]; p != kNone; p = next_[p]) {
      const uint32_t rows = parts_[p].rows;
      const uint64_t leaves = Cost(visit.worker, rows);
      if (visit.arrives != kNone && cost_[visit.worker] + arrived - leaves >= limit) continue;
      for (const uint32_t to : demands_[parts_[p].demand].workers) {
        if (seen[to]) continue;
        if (cost_[to] + Cost(to, rows) >= limit) {
          seen[to] = true;
          visits.push_back({to, p, i});
          continue;
        }
        if (!HostHasRoom(busiest, to, largest)) continue;
        Move(p, to);
        for (uint32_t at = i; visits[at].parent != kNone; at = visits[at].parent) {
          Move(visits[at].arrives, visits[at].worker);
        }
        return true;
      }
    }
  }
  return false;
}

void Chooser::Relieve() {
  // What no choice can be below.
  uint64_t floor = 0;
  for (const ReplicaDemand& demand : demands_) {
    uint64_t least = UINT64_MAX;
    for (const uint32_t w : demand.workers) least = std::min(least, Cost(w, demand.rows));
    floor = std::max(floor, least);
  }
  for (size_t i = 0; i < 2 * cost_.size() && cost_[Busiest()] > floor; ++i) {
    if (!RelieveOnce()) return;
  }
}

// The rows of part `p` to give to `gift.to`, the fewest that make it at least as busy as the giver.
void Chooser::Weigh(uint32_t p, uint32_t taken, Gift* gift) const {
  const uint32_t from = parts_[p].worker, to = gift->to;
  const uint32_t rows = parts_[p].rows, has = taken == kNone ? 0 : parts_[taken].rows;
  const auto here = [&](uint32_t given) {
    return cost_[from] - Cost(from, rows) + Cost(from, rows - given);
  };
  const auto there = [&](uint32_t given) {
    return cost_[to] - Cost(to, has) + Cost(to, has + given);
  };
  uint32_t low = 1, high = rows - 1;
  while (low < high) {
    const uint32_t middle = low + (high - low) / 2;
    if (there(middle) >= here(middle)) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  gift->part = p;
  gift->taken = taken;
  gift->rows = low;
  gift->cost = std::max(here(low), there(low));
}

// Gives rows of a part on the busiest worker to another replica, as many as make the two equally
// busy.
bool Chooser::SplitOnce() {
  const uint32_t from = Busiest();
  const uint64_t largest = Value().largest;
  Gift best;
  best.cost = cost_[from];
  for (uint32_t p = 0; p < parts_.size(); ++p) {
    if (parts_[p].worker != from || parts_[p].rows <= costs_.ridge_rows) continue;
    for (const uint32_t to : demands_[parts_[p].demand].workers) {
      if (to == from) continue;
      const auto other = std::find_if(parts_.begin(), parts_.end(), [&](const ReplicaPart& part) {
        return part.demand == parts_[p].demand && part.worker == to;
      });
      Gift gift;
      gift.to = to;
      if (other != parts_.end()) {
        Weigh(p, static_cast<uint32_t>(other - parts_.begin()), &gift);
      } else if (HostThen(to) > largest) {
        continue;
      } else {
        Weigh(p, kNone, &gift);
        gift.cost += Margin(to);
      }
      if (gift.cost < best.cost) best = gift;
    }
  }
  if (best.part == kNone) return false;
  ReplicaPart& part = parts_[best.part];
  cost_[from] += Cost(from, part.rows - best.rows);
  cost_[from] -= Cost(from, part.rows);
  part.rows -= best.rows;
  if (best.taken == kNone) {
    Add({part.demand, best.to, best.rows});
    return true;
  }
  ReplicaPart& grown = parts_[best.taken];
  cost_[best.to] += Cost(best.to, grown.rows + best.rows);
  cost_[best.to] -= Cost(best.to, grown.rows);
  grown.rows += best.rows;
  return true;
}

void Chooser::Split() {
  if (parts_.empty()) return;
  const std::vector<ReplicaPart> whole = parts_;
  const uint64_t before = Value().largest, margin = Margin(Busiest());
  for (size_t i = 0; i < 2 * cost_.size(); ++i) {
    if (!SplitOnce()) break;
  }
  // Parts that took load off one worker of several that are as busy have gained nothing.
  if (parts_.size() > whole.size() && Value().largest + margin > before) Adopt(whole);
}

}  // namespace

ReplicaCost CostOf(const std::vector<ReplicaPart>& parts, absl::Span<const ReplicaWorker> workers,
                   const ReplicaCosts& costs) {
  const std::vector<ReplicaDemand> none;
  Chooser chooser(none, workers, costs);
  chooser.Adopt(parts);
  return chooser.Value();
}

std::vector<ReplicaPart> ChooseFewestRows(const std::vector<ReplicaDemand>& demands,
                                          absl::Span<const ReplicaWorker> workers) {
  std::vector<uint64_t> cost(workers.size(), 0);
  std::vector<ReplicaPart> parts;
  parts.reserve(demands.size());
  for (uint32_t d = 0; d < demands.size(); ++d) {
    uint32_t best = demands[d].workers.front();
    for (const uint32_t w : demands[d].workers) {
      if (cost[w] < cost[best]) best = w;
    }
    cost[best] += uint64_t{demands[d].rows} * workers[best].row_cost;
    parts.push_back({d, best, demands[d].rows});
  }
  return parts;
}

std::vector<ReplicaPart> ChooseReplicas(const std::vector<ReplicaDemand>& demands,
                                        absl::Span<const ReplicaWorker> workers,
                                        const ReplicaCosts& costs, bool may_split) {
  Chooser chooser(demands, workers, costs);
  chooser.LargestFirst();
  const std::vector<ReplicaPart> fewest = ChooseFewestRows(demands, workers);
  if (CostOf(fewest, workers, costs) < chooser.Value()) chooser.Adopt(fewest);
  chooser.Relieve();
  if (may_split) chooser.Split();
  std::vector<ReplicaPart> parts = std::move(chooser.parts());
  std::sort(parts.begin(), parts.end(), [](const ReplicaPart& a, const ReplicaPart& b) {
    return a.demand != b.demand ? a.demand < b.demand : a.worker < b.worker;
  });
  return parts;
}

}  // namespace octet
