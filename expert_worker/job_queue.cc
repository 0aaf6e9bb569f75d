#include "expert_worker/job_queue.h"

#include <tuple>

#include "core/limits.h"

namespace octet {

void JobQueue::Add(ExpertJob* job) {
  for (size_t g = 0; g < job->groups.size(); ++g) {
    Bucket& bucket = buckets_[{job->groups[g].weights.get(), job->layer}];
    (job->prefill ? bucket.prefill : bucket.decode).push_back({job, g, next_order_++});
  }
}

std::vector<QueuedGroup> JobQueue::Take(MonotonicTime now) {
  // (patient, order): an aged prefill group competes with decode by order of arrival.
  using Urgency = std::tuple<bool, uint64_t>;
  auto best = buckets_.end();
  Urgency best_urgency{true, UINT64_MAX};
  for (auto it = buckets_.begin(); it != buckets_.end(); ++it) {
    const Bucket& bucket = it->second;
    if (!bucket.decode.empty() && Urgency{false, bucket.decode.front().order} < best_urgency) {
      best_urgency = {false, bucket.decode.front().order};
      best = it;
    }
    if (!bucket.prefill.empty()) {
      const QueuedGroup& oldest = bucket.prefill.front();
      const Urgency urgency{now - oldest.job->submitted < kPrefillAge, oldest.order};
      if (urgency < best_urgency) {
        best_urgency = urgency;
        best = it;
      }
    }
  }
  std::vector<QueuedGroup> taken;
  if (best == buckets_.end()) return taken;
  size_t rows = 0;
  const auto take_from = [&](std::deque<QueuedGroup>& queue) {
    while (!queue.empty()) {
      const size_t more = queue.front().job->groups[queue.front().group].rows.size();
      if (!taken.empty() && rows + more > kDispatchRowsMax) return;
      rows += more;
      taken.push_back(queue.front());
      queue.pop_front();
    }
  };
  Bucket& bucket = best->second;
  const bool prefill_first =
      bucket.decode.empty() ||
      (!bucket.prefill.empty() && bucket.prefill.front().order == std::get<1>(best_urgency));
  take_from(prefill_first ? bucket.prefill : bucket.decode);
  take_from(prefill_first ? bucket.decode : bucket.prefill);
  if (bucket.decode.empty() && bucket.prefill.empty()) buckets_.erase(best);
  return taken;
}

}  // namespace octet
