// Carries the coordinator's placements out, one after another, on the thread that calls it: loads,
// verifies, releases. PlacementFollower gives it a queue and a thread.
#ifndef OCTET_EXPERT_WORKER_PLACEMENT_EXECUTOR_H_
#define OCTET_EXPERT_WORKER_PLACEMENT_EXECUTOR_H_

#include <string>

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

// PREPARE loads what the table gives this worker beside what it holds; ACTIVATE releases the rest,
// loading first where the PREPARE was missed. A table that does not list this worker releases only
// what an earlier one gave to the same id: after a new registration what is in memory stays, for
// the coordinator to place again.
class PlacementExecutor {
 public:
  // `store` outlives the executor.
  explicit PlacementExecutor(ExpertStore* store) : store_(store) {}

  // Blocks while experts load. One thread.
  void CarryOut(const PlacementUpdate& update);
  // Thread-safe.
  FollowState state() const;

 private:
  absl::Status Prepare(const PlacementUpdate& update);
  void Activate(const PlacementUpdate& update);

  ExpertStore* const store_;
  MemberId named_;  // id under which an active table listed this worker; CarryOut's thread only

  mutable Mutex mu_;
  FollowState state_ OCTET_GUARDED_BY(mu_);
};

}  // namespace octet

#endif  // OCTET_EXPERT_WORKER_PLACEMENT_EXECUTOR_H_
