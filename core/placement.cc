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

}  // namespace octet
