#include "core/placement.h"

#include <algorithm>

namespace octet {

const PlacedWorker* Placement::FindWorker(WorkerId id) const {
  const auto it = std::find_if(workers.begin(), workers.end(),
                               [&](const PlacedWorker& w) { return w.id == id; });
  return it == workers.end() ? nullptr : &*it;
}

bool Placement::Complete() const {
  return !expert_replicas.empty() &&
         std::none_of(expert_replicas.begin(), expert_replicas.end(),
                      [](const std::vector<WorkerId>& r) { return r.empty(); });
}

std::vector<ExpertId> ExpertsOf(const Placement& placement, WorkerId worker) {
  std::vector<ExpertId> experts;
  for (uint32_t e = 0; e < placement.expert_replicas.size(); ++e) {
    const auto& set = placement.expert_replicas[e];
    if (std::find(set.begin(), set.end(), worker) != set.end()) experts.push_back(ExpertId(e));
  }
  return experts;
}

}  // namespace octet
