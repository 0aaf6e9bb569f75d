#include "coordinator/placement_planner.h"

#include <algorithm>
#include <bitset>
#include <deque>
#include <map>
#include <numeric>
#include <tuple>
#include <unordered_map>
#include <unordered_set>

#include "absl/strings/str_cat.h"
#include "core/limits.h"
#include "core/rebalance_limits.h"
#include "core/status_macros.h"

namespace octet {
namespace {

using ExpertSet = std::bitset<kExpertsMax>;

// Takes from the fullest queue that is not the one taken from last, so that equal keys are apart.
std::vector<uint32_t> Interleave(std::map<std::string, std::deque<uint32_t>> queues) {
  std::vector<uint32_t> order;
  const std::string* last = nullptr;
  while (true) {
    std::deque<uint32_t>* best = nullptr;
    const std::string* best_key = nullptr;
    for (auto& entry : queues) {
      if (entry.second.empty()) continue;
      const bool repeats = last == &entry.first;
      const bool better =
          best == nullptr || best_key == last || (!repeats && entry.second.size() > best->size());
      if (better) {
        best = &entry.second;
        best_key = &entry.first;
      }
    }
    if (best == nullptr) return order;
    order.push_back(best->front());
    best->pop_front();
    last = best_key;
  }
}

// The working state of one call. Workers are indices in the order of ids.
class Planner {
 public:
  explicit Planner(const PlannerInput& input);
  PlacementPlan Run();

 private:
  void SetTargets();
  void CarryOver();
  void FillLevel(uint32_t level);
  bool PlaceDirectly(uint32_t expert, uint32_t level);
  bool PlaceByMoves(uint32_t expert, uint32_t level);
  void Improve();
  bool SpreadOnce(uint32_t expert);
  bool SwapOnce(uint32_t expert);
  bool BalanceOnce();
  void OrderReplicas();
  PlacementPlan Result() const;

  bool Holds(uint32_t w, uint32_t e) const { return has_[w].test(e); }
  bool Free(uint32_t w) const { return count_[w] < slots_[w]; }
  bool Allowed(uint32_t w, uint32_t e) const { return workers_[w].accepts_new || kept_[w].test(e); }
  bool Crowded(uint32_t w) const { return count_[w] >= 2 * fair_[w]; }
  // How full a worker would be with one expert more; only comparisons matter.
  double Fill(uint32_t w) const { return (count_[w] + 1.0) / workers_[w].speed; }
  // Rows that would come to `w` if replicas shared the rows of their expert evenly.
  double ExpectedRows(uint32_t w) const;
  void Add(uint32_t w, uint32_t e) {
    has_[w].set(e);
    ++count_[w];
    replicas_[e].push_back(w);
  }
  void Remove(uint32_t w, uint32_t e) {
    has_[w].reset(e);
    --count_[w];
    auto& list = replicas_[e];
    list.erase(std::find(list.begin(), list.end(), w));
  }
  // Keeps the position in the list, so that a preferred replica stays preferred.
  void Move(uint32_t from, uint32_t to, uint32_t e) {
    has_[from].reset(e);
    --count_[from];
    has_[to].set(e);
    ++count_[to];
    *std::find(replicas_[e].begin(), replicas_[e].end(), from) = to;
  }
  // How much one failure could take of both: 2 same host, 1 same zone, 0 neither.
  int Overlap(uint32_t a, uint32_t b) const {
    if (zone_[a] != zone_[b]) return 0;
    return host_[a] == host_[b] ? 2 : 1;
  }
  // Overlap of `w` with the replicas of `e` other than `except`.
  int OverlapWith(uint32_t w, uint32_t e, uint32_t except) const {
    int sum = 0;
    for (const uint32_t other : replicas_[e]) {
      if (other != except) sum += Overlap(w, other);
    }
    return sum;
  }
  uint32_t ChainDistance(uint32_t w, uint32_t e) const {
    const uint32_t n = static_cast<uint32_t>(workers_.size());
    return (position_[w] + n - e % n) % n;
  }

  static constexpr uint32_t kNone = UINT32_MAX;

  const PlannerInput& input_;
  std::vector<PlannerWorker> workers_;  // sorted by id
  std::vector<uint32_t> position_;      // in the chain
  std::vector<uint32_t> zone_, host_;   // numbered
  std::vector<uint32_t> slots_, count_;
  std::vector<ExpertSet> has_, kept_;  // kept: held in memory or given by the previous placement
  std::vector<std::vector<uint32_t>> replicas_;
  std::vector<uint32_t> target_;
  std::vector<uint32_t> fair_;  // share of each worker, rounded up
  uint32_t base_ = 1;           // replicas of an expert that is not hot, where memory allows
};

Planner::Planner(const PlannerInput& input) : input_(input), workers_(input.workers) {
  std::sort(workers_.begin(), workers_.end(),
            [](const PlannerWorker& a, const PlannerWorker& b) { return a.id < b.id; });
  const size_t n = workers_.size();
  position_.resize(n);
  const std::vector<uint32_t> order = AlternateDomains(workers_);
  for (uint32_t i = 0; i < n; ++i) position_[order[i]] = i;
  std::map<std::string, uint32_t> zones;
  std::map<std::pair<uint32_t, std::string>, uint32_t> hosts;
  for (uint32_t w = 0; w < n; ++w) {
    const PlannerWorker& worker = workers_[w];
    zone_.push_back(zones.emplace(worker.zone, zones.size()).first->second);
    const std::string host = worker.host.empty() ? absl::StrCat("\n", w) : worker.host;
    host_.push_back(hosts.emplace(std::make_pair(zone_[w], host), hosts.size()).first->second);
    const bool bounded = worker.memory_bytes > 0 && input.expert_bytes > 0;
    const uint64_t fit = bounded ? worker.memory_bytes / input.expert_bytes : input.experts;
    slots_.push_back(static_cast<uint32_t>(std::min<uint64_t>(fit, input.experts)));
  }
  count_.assign(n, 0);
  has_.resize(n);
  kept_.resize(n);
  replicas_.resize(input.experts);
}

// Extra replicas go one by one to the expert with the most load per replica. A slot that an expert
// has already counts kRebalanceGain times as much for it, so that small changes of load move
// nothing; each one by itself, so that having one does not help to a second. Without load they stay
// where they are.
void Planner::SetTargets() {
  const uint32_t n = static_cast<uint32_t>(workers_.size());
  base_ = std::min(input_.replication, n);
  target_.assign(input_.experts, base_);
  const auto has = [&](uint32_t e) {
    return input_.previous != nullptr && e < input_.previous->expert_replicas.size() &&
           input_.previous->expert_replicas[e].size() > target_[e];
  };
  const auto load = [&](uint32_t e) { return input_.load.empty() ? 0 : input_.load[e]; };
  const auto priority = [&](uint32_t e) {
    return (static_cast<double>(load(e)) + 1) * (has(e) ? kRebalanceGain : 1.0) / target_[e];
  };
  uint64_t total = uint64_t{base_} * input_.experts;
  const uint64_t slots = std::accumulate(slots_.begin(), slots_.end(), uint64_t{0});
  const uint64_t spare = slots > total ? slots - total : 0;
  const uint64_t extra = std::min<uint64_t>(input_.extra_replicas, spare);
  for (uint64_t i = 0; i < extra; ++i) {
    uint32_t best = kNone;
    for (uint32_t e = 0; e < input_.experts; ++e) {
      if (target_[e] >= n || (load(e) == 0 && !has(e))) continue;
      if (best == kNone || priority(e) > priority(best)) best = e;
    }
    if (best == kNone) break;
    ++target_[best];
    ++total;
  }
  uint64_t speeds = 0;
  for (const PlannerWorker& worker : workers_) speeds += worker.speed;
  for (const PlannerWorker& worker : workers_) {
    const uint64_t share = (total * worker.speed + speeds - 1) / speeds;
    fair_.push_back(static_cast<uint32_t>(std::max<uint64_t>(1, share)));
  }
}

double Planner::ExpectedRows(uint32_t w) const {
  double rows = 0;
  for (uint32_t e = 0; e < input_.load.size(); ++e) {
    if (!Holds(w, e)) continue;
    rows += static_cast<double>(input_.load[e]) / static_cast<double>(replicas_[e].size());
  }
  return rows / workers_[w].speed;
}

void Planner::CarryOver() {
  std::unordered_map<uint64_t, uint32_t> index;
  for (uint32_t w = 0; w < workers_.size(); ++w) {
    index[workers_[w].id.value()] = w;
    for (const ExpertId e : workers_[w].held) {
      if (e.value() < input_.experts) kept_[w].set(e.value());
    }
  }
  if (input_.previous == nullptr) return;
  const auto& previous = input_.previous->expert_replicas;
  const uint32_t known = std::min<uint32_t>(input_.experts, static_cast<uint32_t>(previous.size()));
  size_t longest = 0;
  for (uint32_t e = 0; e < known; ++e) longest = std::max(longest, previous[e].size());
  // Rank by rank, so that a budget that shrank costs second replicas before first ones.
  for (size_t rank = 0; rank < longest; ++rank) {
    for (uint32_t e = 0; e < known; ++e) {
      if (rank >= previous[e].size()) continue;
      const auto found = index.find(previous[e][rank].value());
      if (found == index.end()) continue;
      const uint32_t w = found->second;
      kept_[w].set(e);
      if (Free(w) && !Holds(w, e) && replicas_[e].size() < target_[e]) Add(w, e);
    }
  }
}

bool Planner::PlaceDirectly(uint32_t e, uint32_t level) {
  uint32_t best = kNone;
  std::tuple<bool, int, bool, double, double, uint32_t> best_score;
  for (uint32_t w = 0; w < workers_.size(); ++w) {
    if (Holds(w, e) || !Free(w) || !Allowed(w, e)) continue;
    // The base is a chain; what comes on top goes where the least is to be done.
    const double rows = level > base_ ? ExpectedRows(w) : 0.0;
    const auto score = std::make_tuple(Crowded(w), OverlapWith(w, e, kNone), !kept_[w].test(e),
                                       Fill(w), rows, ChainDistance(w, e));
    if (best == kNone || score < best_score) {
      best = w;
      best_score = score;
    }
  }
  if (best == kNone) return false;
  Add(best, e);
  return true;
}

// Breadth-first over "e could be on w if f moved from w to w'": ends at a free slot, or at a
// replica that its expert can spare at this level.
bool Planner::PlaceByMoves(uint32_t expert, uint32_t level) {
  struct Visit {
    uint32_t worker, expert, parent;  // `expert` would come to `worker`, leaving the parent's
  };
  std::vector<Visit> visits;
  std::vector<bool> seen(workers_.size(), false);
  const auto expand = [&](uint32_t e, uint32_t parent) {
    for (uint32_t w = 0; w < workers_.size(); ++w) {
      if (seen[w] || Holds(w, e) || !Allowed(w, e) || slots_[w] == 0) continue;
      seen[w] = true;
      visits.push_back({w, e, parent});
    }
  };
  expand(expert, kNone);
  for (uint32_t i = 0; i < visits.size(); ++i) {
    const uint32_t w = visits[i].worker;
    uint32_t spare = kNone;
    for (uint32_t f = 0; f < input_.experts && !Free(w); ++f) {
      if (!Holds(w, f)) continue;
      if (replicas_[f].size() > level) spare = f;
      if (spare != kNone) break;
    }
    if (Free(w) || spare != kNone) {
      if (spare != kNone) Remove(w, spare);
      uint32_t at = i;
      while (visits[at].parent != kNone) {
        Move(visits[visits[at].parent].worker, visits[at].worker, visits[at].expert);
        at = visits[at].parent;
      }
      Add(visits[at].worker, expert);
      return true;
    }
    for (uint32_t f = 0; f < input_.experts; ++f) {
      if (Holds(w, f)) expand(f, i);
    }
  }
  return false;
}

void Planner::FillLevel(uint32_t level) {
  for (uint32_t e = 0; e < input_.experts; ++e) {
    if (target_[e] < level || replicas_[e].size() >= level) continue;
    if (!PlaceDirectly(e, level)) PlaceByMoves(e, level);
  }
}

// Moves one replica of `e` to where it shares fewer domains with the others.
bool Planner::SpreadOnce(uint32_t e) {
  for (const uint32_t from : replicas_[e]) {
    const int now = OverlapWith(from, e, from);
    if (now == 0) continue;
    uint32_t best = kNone;
    std::tuple<int, bool, double> best_score;
    for (uint32_t to = 0; to < workers_.size(); ++to) {
      if (Holds(to, e) || !Free(to) || !Allowed(to, e) || Crowded(to)) continue;
      const int then = OverlapWith(to, e, from);
      const auto score = std::make_tuple(then, !kept_[to].test(e), Fill(to));
      if (then < now && (best == kNone || score < best_score)) {
        best = to;
        best_score = score;
      }
    }
    if (best != kNone) {
      Move(from, best, e);
      return true;
    }
  }
  return false;
}

// The same where the better worker is full: exchanges with one of its experts.
bool Planner::SwapOnce(uint32_t e) {
  for (const uint32_t from : replicas_[e]) {
    const int now = OverlapWith(from, e, from);
    if (now == 0) continue;
    for (uint32_t to = 0; to < workers_.size(); ++to) {
      if (Holds(to, e) || !Allowed(to, e)) continue;
      const int gain = now - OverlapWith(to, e, from);
      if (gain <= 0) continue;
      for (uint32_t f = 0; f < input_.experts; ++f) {
        if (!Holds(to, f) || Holds(from, f) || !Allowed(from, f)) continue;
        if (OverlapWith(from, f, to) - OverlapWith(to, f, to) >= gain) continue;
        Move(from, to, e);
        Move(to, from, f);
        return true;
      }
    }
  }
  return false;
}

// Moves one replica to a worker that is less full with it than the other without moving, for equal
// speeds one with at least two fewer, if no domain is lost by it.
bool Planner::BalanceOnce() {
  const uint32_t n = static_cast<uint32_t>(workers_.size());
  std::vector<uint32_t> by_count(n);
  for (uint32_t w = 0; w < n; ++w) by_count[w] = w;
  std::stable_sort(by_count.begin(), by_count.end(),
                   [&](uint32_t a, uint32_t b) { return Fill(a) < Fill(b); });
  for (uint32_t i = n; i-- > 0;) {
    const uint32_t from = by_count[i];
    for (const uint32_t to : by_count) {
      if (uint64_t{count_[to] + 1} * workers_[from].speed >=
          uint64_t{count_[from]} * workers_[to].speed) {
        break;
      }
      if (!Free(to)) continue;
      uint32_t best = kNone;
      for (uint32_t e = 0; e < input_.experts; ++e) {
        if (!Holds(from, e) || Holds(to, e) || !Allowed(to, e)) continue;
        if (OverlapWith(to, e, from) > OverlapWith(from, e, from)) continue;
        if (best == kNone || (kept_[to].test(e) && !kept_[to].test(best))) best = e;
      }
      if (best != kNone) {
        Move(from, to, best);
        return true;
      }
    }
  }
  return false;
}

// Every move lowers (sum of overlaps, sum of count * (count + 1) / speed) in lexicographic order,
// so this ends, and a plan that comes back as `previous` is left alone.
void Planner::Improve() {
  const bool one_domain =
      std::all_of(host_.begin(), host_.end(), [&](uint32_t host) { return host == host_.front(); });
  bool changed = true;
  while (changed) {
    changed = false;
    for (uint32_t e = 0; e < input_.experts && !one_domain; ++e) {
      while (SpreadOnce(e) || SwapOnce(e)) changed = true;
    }
    while (BalanceOnce()) changed = true;
  }
}

// The preferred replica is a matter of order alone, so it may be balanced at no cost.
void Planner::OrderReplicas() {
  std::vector<uint32_t> first(workers_.size(), 0);
  for (const auto& list : replicas_) {
    if (!list.empty()) ++first[list.front()];
  }
  bool changed = true;
  while (changed) {
    changed = false;
    for (auto& list : replicas_) {
      for (size_t i = 1; i < list.size(); ++i) {
        if (first[list[0]] < first[list[i]] + 2) continue;
        --first[list[0]];
        ++first[list[i]];
        std::swap(list[0], list[i]);
        changed = true;
      }
    }
  }
}

PlacementPlan Planner::Result() const {
  PlacementPlan plan;
  const size_t wanted = std::min<size_t>(input_.replication, workers_.size());
  for (uint32_t e = 0; e < input_.experts; ++e) {
    std::vector<WorkerId> ids;
    for (const uint32_t w : replicas_[e]) {
      ids.push_back(workers_[w].id);
      if (!kept_[w].test(e)) ++plan.loads;
    }
    if (ids.empty()) plan.unplaced.push_back(ExpertId(e));
    if (ids.size() < wanted) plan.under_replicated.push_back(ExpertId(e));
    plan.expert_replicas.push_back(std::move(ids));
  }
  return plan;
}

PlacementPlan Planner::Run() {
  SetTargets();
  CarryOver();
  const uint32_t levels = *std::max_element(target_.begin(), target_.end());
  for (uint32_t level = 1; level <= levels; ++level) FillLevel(level);
  Improve();
  OrderReplicas();
  return Result();
}

absl::Status CheckInput(const PlannerInput& input) {
  if (input.experts == 0 || input.experts > kExpertsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("experts: ", input.experts, ", allowed are 1 to ", kExpertsMax));
  }
  if (input.replication == 0) return absl::InvalidArgumentError("replication: 0, must be positive");
  if (!input.load.empty() && input.load.size() != input.experts) {
    return absl::InvalidArgumentError(
        absl::StrCat("load: ", input.load.size(), " entries for ", input.experts, " experts"));
  }
  if (input.workers.empty()) return absl::FailedPreconditionError("no live worker");
  if (input.workers.size() > kWorkersMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("workers: ", input.workers.size(), ", at most ", kWorkersMax, " allowed"));
  }
  std::unordered_set<uint64_t> ids;
  for (const PlannerWorker& worker : input.workers) {
    if (!ids.insert(worker.id.value()).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("workers: id ", worker.id.value(), " appears twice"));
    }
    if (worker.speed == 0 || worker.speed > kWorkerSpeedMax) {
      return absl::InvalidArgumentError(absl::StrCat("workers: speed ", worker.speed, " of worker ",
                                                     worker.id.value(), ", allowed are 1 to ",
                                                     kWorkerSpeedMax));
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<uint32_t> AlternateDomains(const std::vector<PlannerWorker>& workers) {
  std::map<std::string, std::map<std::string, std::deque<uint32_t>>> zones;
  for (uint32_t w = 0; w < workers.size(); ++w) {
    const PlannerWorker& worker = workers[w];
    const std::string host = worker.host.empty() ? absl::StrCat("\n", w) : worker.host;
    zones[worker.zone][host].push_back(w);
  }
  std::map<std::string, std::deque<uint32_t>> merged;
  for (auto& zone : zones) {
    const std::vector<uint32_t> order = Interleave(std::move(zone.second));
    merged[zone.first] = std::deque<uint32_t>(order.begin(), order.end());
  }
  return Interleave(std::move(merged));
}

absl::StatusOr<PlacementPlan> PlanPlacement(const PlannerInput& input) {
  OCTET_RETURN_IF_ERROR(CheckInput(input));
  return Planner(input).Run();
}

}  // namespace octet
