#include "transport/dispatch_plan.h"

#include <algorithm>
#include <limits>
#include <map>

#include "absl/strings/string_view.h"
#include "core/check.h"
#include "core/limits.h"

namespace octet {
namespace {

constexpr uint32_t kAbsent = std::numeric_limits<uint32_t>::max();

// Fills `rows` with the union of the groups' rows and `local_rows` with their places in it.
void IndexRows(WorkerShare& share, std::vector<uint32_t>& place) {
  uint32_t row_end = 0;
  for (const ExpertGroup& group : share.groups) {
    row_end = std::max(row_end, group.rows.back() + 1);
  }
  place.assign(row_end, kAbsent);
  for (const ExpertGroup& group : share.groups) {
    for (const uint32_t row : group.rows) place[row] = 0;
  }
  for (uint32_t row = 0; row < row_end; ++row) {
    if (place[row] == kAbsent) continue;
    place[row] = static_cast<uint32_t>(share.rows.size());
    share.rows.push_back(row);
  }
  share.local_rows.reserve(share.groups.size());
  for (const ExpertGroup& group : share.groups) {
    std::vector<uint32_t> local(group.rows.size());
    for (size_t i = 0; i < local.size(); ++i) local[i] = place[group.rows[i]];
    share.local_rows.push_back(std::move(local));
  }
}

// The usable replicas of each group, as indices into placement.workers.
class UsableReplicas {
 public:
  UsableReplicas(const std::vector<ExpertGroup>& groups, const Placement& placement, LayerId layer,
                 absl::FunctionRef<bool(WorkerId)> usable) {
    std::vector<int8_t> known(placement.workers.size(), -1);  // -1: not asked yet
    begin_.push_back(0);
    for (const ExpertGroup& group : groups) {
      const bool listed = group.expert.value() < placement.expert_replicas.size();
      for (size_t i = 0; listed && i < placement.Replicas(layer, group.expert).size(); ++i) {
        const WorkerId id = placement.Replicas(layer, group.expert)[i];
        const auto at =
            std::lower_bound(placement.workers.begin(), placement.workers.end(), id,
                             [](const PlacedWorker& w, WorkerId value) { return w.id < value; });
        if (at == placement.workers.end() || at->id != id) continue;
        const auto w = static_cast<uint32_t>(at - placement.workers.begin());
        if (known[w] < 0) known[w] = usable(id) ? 1 : 0;
        if (known[w] == 1) workers_.push_back(w);
      }
      begin_.push_back(workers_.size());
    }
    for (size_t g = 0; g < groups.size(); ++g) {
      if (Of(g).empty()) continue;
      demands_.push_back({static_cast<uint32_t>(groups[g].rows.size()), Of(g)});
      group_of_.push_back(g);
    }
  }
  absl::Span<const uint32_t> Of(size_t group) const {
    return absl::MakeConstSpan(workers_).subspan(begin_[group], begin_[group + 1] - begin_[group]);
  }
  const std::vector<ReplicaDemand>& demands() const { return demands_; }
  size_t group(uint32_t demand) const { return group_of_[demand]; }

 private:
  std::vector<uint32_t> workers_;
  std::vector<size_t> begin_;
  std::vector<ReplicaDemand> demands_;
  std::vector<size_t> group_of_;
};

ExpertGroup RowsOf(const ExpertGroup& group, uint32_t begin, uint32_t rows) {
  const auto from = static_cast<ptrdiff_t>(begin), to = static_cast<ptrdiff_t>(begin + rows);
  ExpertGroup part;
  part.expert = group.expert;
  part.rows.assign(group.rows.begin() + from, group.rows.begin() + to);
  part.slot_index.assign(group.slot_index.begin() + from, group.slot_index.begin() + to);
  return part;
}

// One share, or several where parts of one expert meet: a message names an expert once. `groups`
// are sorted.
void AddShares(WorkerId worker, std::vector<ExpertGroup> groups, std::vector<uint32_t>& place,
               std::vector<WorkerShare>* shares) {
  while (!groups.empty()) {
    WorkerShare& share = shares->emplace_back();
    share.worker = worker;
    std::vector<ExpertGroup> left;
    for (ExpertGroup& group : groups) {
      const bool again = !share.groups.empty() && share.groups.back().expert == group.expert;
      (again ? left : share.groups).push_back(std::move(group));
    }
    IndexRows(share, place);
    groups = std::move(left);
  }
}

}  // namespace

std::vector<ExpertGroup> GroupByExpert(const TopK& choice) {
  const size_t pairs = choice.rows * choice.k;
  uint32_t counts[kExpertsMax] = {};
  for (size_t i = 0; i < pairs; ++i) {
    OCTET_CHECK_LT(choice.experts[i], kExpertsMax);
    ++counts[choice.experts[i]];
  }
  std::vector<ExpertGroup> groups;
  uint32_t group_of[kExpertsMax];
  for (uint32_t expert = 0; expert < kExpertsMax; ++expert) {
    if (counts[expert] == 0) continue;
    group_of[expert] = static_cast<uint32_t>(groups.size());
    ExpertGroup& group = groups.emplace_back();
    group.expert = ExpertId(expert);
    group.rows.reserve(counts[expert]);
    group.slot_index.reserve(counts[expert]);
  }
  for (size_t i = 0; i < pairs; ++i) {
    ExpertGroup& group = groups[group_of[choice.experts[i]]];
    const uint32_t row = static_cast<uint32_t>(i / choice.k);
    OCTET_CHECK(group.rows.empty() || group.rows.back() < row) << "an expert twice in one row";
    group.rows.push_back(row);
    group.slot_index.push_back(static_cast<uint32_t>(i));
  }
  return groups;
}

std::vector<ReplicaWorker> ReplicaWorkersOf(const Placement& placement) {
  std::map<absl::string_view, uint32_t> numbers;
  std::vector<ReplicaWorker> workers;
  uint32_t next = 0;
  for (const PlacedWorker& worker : placement.workers) {
    const absl::string_view address = worker.address;
    const absl::string_view host = address.substr(0, address.rfind(':'));
    const auto known = host.empty() ? numbers.end() : numbers.find(host);
    const uint32_t number = known == numbers.end() ? next++ : known->second;
    if (!host.empty()) numbers[host] = number;
    workers.push_back({number, kReplicaRowCost / worker.speed});
  }
  return workers;
}

DispatchPlan BuildDispatchPlan(std::vector<ExpertGroup> groups, const Placement& placement,
                               LayerId layer, const ReplicaPolicy& policy,
                               absl::FunctionRef<bool(WorkerId)> usable) {
  OCTET_CHECK_EQ(policy.workers.size(), placement.workers.size());
  DispatchPlan plan;
  plan.epoch = placement.epoch;
  const UsableReplicas replicas(groups, placement, layer, usable);
  std::vector<std::vector<ExpertGroup>> of_worker(placement.workers.size());
  for (size_t g = 0; g < groups.size(); ++g) {
    if (replicas.Of(g).empty()) plan.unplaceable.push_back(std::move(groups[g]));
  }
  std::vector<ReplicaPart> parts =
      ChooseReplicas(replicas.demands(), policy.workers, policy.costs, policy.may_split);
  for (size_t p = 0; p < parts.size();) {
    ExpertGroup& group = groups[replicas.group(parts[p].demand)];
    size_t end = p + 1;
    while (end < parts.size() && parts[end].demand == parts[p].demand) ++end;
    if (end == p + 1) {
      of_worker[parts[p].worker].push_back(std::move(group));
    } else {
      uint32_t begin = 0;
      for (size_t i = p; i < end; ++i) {
        of_worker[parts[i].worker].push_back(RowsOf(group, begin, parts[i].rows));
        begin += parts[i].rows;
      }
    }
    p = end;
  }
  std::vector<uint32_t> place;
  for (size_t w = 0; w < of_worker.size(); ++w) {
    AddShares(placement.workers[w].id, std::move(of_worker[w]), place, &plan.shares);
  }
  return plan;
}

}  // namespace octet
