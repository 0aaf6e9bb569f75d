// The order in which a worker computes what waits: a pure structure without threads or clocks.
#ifndef OCTET_EXPERT_WORKER_JOB_QUEUE_H_
#define OCTET_EXPERT_WORKER_JOB_QUEUE_H_

#include <cstdint>
#include <deque>
#include <map>
#include <utility>
#include <vector>

#include "core/clock.h"
#include "expert_worker/worker_loop.h"

namespace octet {

// One expert group of one job.
struct QueuedGroup {
  ExpertJob* job = nullptr;
  size_t group = 0;
  uint64_t order = 0;  // of arrival
};

// Groups by (weights, layer). The weights' address stands for (digest, expert): equal addresses are
// the same mapping.
class JobQueue {
 public:
  // Prefill that waited so long is as urgent as decode.
  static constexpr Duration kPrefillAge = Duration::Millis(20);

  void Add(ExpertJob* job);
  bool empty() const { return buckets_.empty(); }
  // Takes the most urgent group, and with it all that wait for the same expert and layer, up to
  // kDispatchRowsMax rows. All of them are in one layer, so in one wire format.
  std::vector<QueuedGroup> Take(MonotonicTime now);
  // The same, and what waits for other experts of that layer, as far as it may share a call with
  // the most urgent: experts one after another.
  std::vector<QueuedGroup> TakeLayer(MonotonicTime now);

 private:
  struct Bucket {
    std::deque<QueuedGroup> decode;
    std::deque<QueuedGroup> prefill;
  };
  using Key = std::pair<const MappedExpert*, LayerId>;
  using Buckets = std::map<Key, Bucket>;

  // The bucket of the most urgent group and whether that is of prefill; end where nothing waits.
  std::pair<Buckets::iterator, bool> MostUrgent(MonotonicTime now);
  // Takes from a bucket, `prefill` first or last, while the rows in `taken` stay within a call's
  // bound. Erases the bucket when it is empty.
  Buckets::iterator Drain(Buckets::iterator at, bool prefill_first, size_t* rows,
                          std::vector<QueuedGroup>* taken);

  Buckets buckets_;
  uint64_t next_order_ = 0;
};

}  // namespace octet

#endif  // OCTET_EXPERT_WORKER_JOB_QUEUE_H_
