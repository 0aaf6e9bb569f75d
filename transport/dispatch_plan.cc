#include "transport/dispatch_plan.h"

#include <algorithm>
#include <limits>
#include <map>

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

DispatchPlan BuildDispatchPlan(std::vector<ExpertGroup> groups, const Placement& placement,
                               LayerId layer, absl::FunctionRef<bool(WorkerId)> usable) {
  struct Load {
    bool usable = false;
    size_t rows = 0;
    std::vector<ExpertGroup> groups;
  };
  DispatchPlan plan;
  plan.epoch = placement.epoch;
  std::map<WorkerId, Load> loads;
  for (const PlacedWorker& worker : placement.workers) {
    loads[worker.id].usable = usable(worker.id);
  }
  for (ExpertGroup& group : groups) {
    Load* best = nullptr;
    if (group.expert.value() < placement.expert_replicas.size()) {
      for (const WorkerId id : placement.Replicas(layer, group.expert)) {
        const auto it = loads.find(id);
        if (it == loads.end() || !it->second.usable) continue;
        if (best == nullptr || it->second.rows < best->rows) best = &it->second;
      }
    }
    if (best == nullptr) {
      plan.unplaceable.push_back(std::move(group));
      continue;
    }
    best->rows += group.rows.size();
    best->groups.push_back(std::move(group));
  }
  std::vector<uint32_t> place;
  for (auto& entry : loads) {
    if (entry.second.groups.empty()) continue;
    WorkerShare& share = plan.shares.emplace_back();
    share.worker = entry.first;
    share.groups = std::move(entry.second.groups);
    IndexRows(share, place);
  }
  return plan;
}

}  // namespace octet
