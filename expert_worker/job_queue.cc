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

std::pair<JobQueue::Buckets::iterator, bool> JobQueue::MostUrgent(MonotonicTime now) {
  // (patient, order): an aged prefill group competes with decode by order of arrival.
  using Urgency = std::tuple<bool, uint64_t>;
  auto best = buckets_.end();
  bool prefill = false;
  Urgency best_urgency{true, UINT64_MAX};
  for (auto it = buckets_.begin(); it != buckets_.end(); ++it) {
    const Bucket& bucket = it->second;
    if (!bucket.decode.empty() && Urgency{false, bucket.decode.front().order} < best_urgency) {
      best_urgency = {false, bucket.decode.front().order};
      best = it;
      prefill = false;
    }
    if (!bucket.prefill.empty()) {
      const QueuedGroup& oldest = bucket.prefill.front();
      const Urgency urgency{now - oldest.job->submitted < kPrefillAge, oldest.order};
      if (urgency < best_urgency) {
        best_urgency = urgency;
        best = it;
        prefill = true;
      }
    }
  }
  return {best, prefill};
}

JobQueue::Buckets::iterator JobQueue::Drain(Buckets::iterator at, bool prefill_first, size_t* rows,
                                            std::vector<QueuedGroup>* taken) {
  const auto take_from = [&](std::deque<QueuedGroup>& queue) {
    while (!queue.empty()) {
      const size_t more = queue.front().job->groups[queue.front().group].rows.size();
      if (!taken->empty() && *rows + more > kDispatchRowsMax) return;
      *rows += more;
      taken->push_back(queue.front());
      queue.pop_front();
    }
  };
  Bucket& bucket = at->second;
  take_from(prefill_first ? bucket.prefill : bucket.decode);
  take_from(prefill_first ? bucket.decode : bucket.prefill);
  return bucket.decode.empty() && bucket.prefill.empty() ? buckets_.erase(at) : std::next(at);
}

std::vector<QueuedGroup> JobQueue::Take(MonotonicTime now) {
  std::vector<QueuedGroup> taken;
  const auto [best, prefill] = MostUrgent(now);
  size_t rows = 0;
  if (best != buckets_.end()) Drain(best, prefill, &rows, &taken);
  return taken;
}

std::vector<QueuedGroup> JobQueue::TakeLayer(MonotonicTime now) {
  std::vector<QueuedGroup> taken;
  const auto [best, prefill] = MostUrgent(now);
  if (best == buckets_.end()) return taken;
  const LayerId layer = best->first.second;
  size_t rows = 0;
  // The most urgent group's own expert goes first: the bound on rows must not leave it out.
  const MappedExpert* const first = best->first.first;
  Drain(best, prefill, &rows, &taken);
  for (auto it = buckets_.begin(); it != buckets_.end();) {
    const bool share = it->first.second == layer && it->first.first != first;
    it = share ? Drain(it, prefill, &rows, &taken) : std::next(it);
  }
  return taken;
}

}  // namespace octet
