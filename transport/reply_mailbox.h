// Where replies and placements, which come on any thread, meet the step loop.
#ifndef OCTET_TRANSPORT_REPLY_MAILBOX_H_
#define OCTET_TRANSPORT_REPLY_MAILBOX_H_

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "core/mutex.h"
#include "core/placement.h"
#include "transport/doorbell.h"
#include "transport/expert_link.h"
#include "transport/replica_choice.h"

namespace octet {

// What the data path plans with: replaced as a whole, never changed.
struct PlacementLinks {
  std::shared_ptr<const Placement> placement;
  std::vector<ReplicaWorker> workers;  // ReplicaWorkersOf the placement
  std::map<WorkerId, std::shared_ptr<ExpertLink>> links;

  // Null where the worker has no connected link.
  ExpertLink* Connected(WorkerId id) const {
    const auto it = links.find(id);
    const bool up = it != links.end() && it->second != nullptr && it->second->connected();
    return up ? it->second.get() : nullptr;
  }
};

// Push is thread-safe.
struct ReplyMailbox {
  explicit ReplyMailbox(std::shared_ptr<DoorbellWords> w)
      : words(w != nullptr ? std::move(w) : std::make_shared<DoorbellWords>()), bell(words.get()) {}

  const std::shared_ptr<DoorbellWords> words;
  Doorbell bell;  // rung after what it announces is here
  // The step loop's thread, which need not ring for itself: it finds `own` set before it sleeps.
  std::atomic<std::thread::id> step_thread;
  bool own = false;  // its own replies lie here; only that thread touches it
  Mutex mu;
  std::vector<std::pair<uint32_t, ExpertReply>> replies OCTET_GUARDED_BY(mu);
  std::shared_ptr<const PlacementLinks> view OCTET_GUARDED_BY(mu);
  bool stopped OCTET_GUARDED_BY(mu) = false;

  // `serial` is the dispatch's DispatchKey::attempt.
  void Push(uint32_t serial, ExpertReply reply) {
    const bool failed = !reply.status.ok();
    {
      MutexLock lock(mu);
      replies.emplace_back(serial, std::move(reply));
    }
    if (step_thread == std::this_thread::get_id()) {
      own = true;
      return;
    }
    // A failure is sent elsewhere at once; of the rest the last one wakes.
    failed ? bell.RingNow() : bell.Ring();
  }
};

}  // namespace octet

#endif  // OCTET_TRANSPORT_REPLY_MAILBOX_H_
