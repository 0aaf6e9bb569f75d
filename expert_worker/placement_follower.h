// Carries the coordinator's placements out: loads, verifies, releases, on a thread of its own.
#ifndef OCTET_EXPERT_WORKER_PLACEMENT_FOLLOWER_H_
#define OCTET_EXPERT_WORKER_PLACEMENT_FOLLOWER_H_

#include <deque>
#include <functional>
#include <string>
#include <thread>

#include "coordinator/client.h"
#include "core/mutex.h"
#include "expert_worker/expert_store.h"

namespace octet {

// Where following has got to.
struct FollowState {
  // The active placement gives this worker something to serve, and it is in memory.
  bool serving = false;
  std::string prepare_error;  // of the last prepare that failed, until one succeeds
  Epoch prepare_error_epoch;
};

// Thread-safe. PREPARE loads what the table gives this worker beside what it holds; ACTIVATE
// releases the rest, loading first where the PREPARE was missed. A table that does not list this
// worker releases only what an earlier one gave to the same id: after a new registration what is in
// memory stays, for the coordinator to place again.
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
  FollowState state() const;
  // Ends after the load in progress; updates still queued are dropped. `changed` may run until it
  // returns and not after. Idempotent; not to be called from `changed`.
  void Stop();

 private:
  void Run();
  void CarryOut(const PlacementUpdate& update);
  absl::Status Prepare(const PlacementUpdate& update);
  void Activate(const PlacementUpdate& update);

  ExpertStore* const store_;
  const std::function<void()> changed_;
  MemberId named_;  // id under which an active table listed this worker; follower's thread only

  mutable Mutex mu_;
  CondVar work_;
  std::deque<PlacementUpdate> updates_ OCTET_GUARDED_BY(mu_);
  FollowState state_ OCTET_GUARDED_BY(mu_);
  bool stopping_ OCTET_GUARDED_BY(mu_) = false;
  std::thread thread_;  // last: starts when all else is made
};

}  // namespace octet

#endif  // OCTET_EXPERT_WORKER_PLACEMENT_FOLLOWER_H_
