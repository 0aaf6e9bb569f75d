// Carries the coordinator's placements out: loads, verifies, releases, on a thread of its own.
#ifndef OCTET_EXPERT_WORKER_PLACEMENT_FOLLOWER_H_
#define OCTET_EXPERT_WORKER_PLACEMENT_FOLLOWER_H_

#include <deque>
#include <functional>
#include <thread>

#include "coordinator/client.h"
#include "core/mutex.h"
#include "expert_worker/placement_executor.h"

namespace octet {

// Thread-safe. What each update does: placement_executor.h.
class PlacementFollower {
 public:
  // `changed` runs on the follower's thread after each update was carried out. `store` outlives the
  // follower.
  PlacementFollower(ExpertStore* store, std::function<void()> changed);
  ~PlacementFollower();  // as Stop
  PlacementFollower(const PlacementFollower&) = delete;
  PlacementFollower& operator=(const PlacementFollower&) = delete;

  // Queues an update; never blocks. Past kPlacementUpdatesMax the oldest is dropped: a later
  // ACTIVATE makes up for it.
  void Follow(PlacementUpdate update);
  FollowState state() const { return executor_.state(); }
  // Ends after the load in progress; updates still queued are dropped. `changed` may run until it
  // returns and not after. Idempotent; not to be called from `changed`.
  void Stop();

 private:
  void Run();

  PlacementExecutor executor_;  // CarryOut on the follower's thread
  const std::function<void()> changed_;

  Mutex mu_;
  CondVar work_;
  std::deque<PlacementUpdate> updates_ OCTET_GUARDED_BY(mu_);
  bool stopping_ OCTET_GUARDED_BY(mu_) = false;
  std::thread thread_;  // last: starts when all else is made
};

}  // namespace octet

#endif  // OCTET_EXPERT_WORKER_PLACEMENT_FOLLOWER_H_
