// The experts a worker holds: mapped, verified, and kept as long as a kernel runs on them.
#ifndef OCTET_EXPERT_WORKER_EXPERT_STORE_H_
#define OCTET_EXPERT_WORKER_EXPERT_STORE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/mutex.h"
#include "expert_worker/worker_model.h"

namespace octet {

// Thread-safe. Serves any expert in memory, of whatever epoch; only Prepare and Activate enforce
// the order of epochs.
class ExpertStore {
 public:
  explicit ExpertStore(WorkerModel model) : model_(std::move(model)) {}

  const WorkerModel& model() const { return model_; }

  // Maps what is missing of `experts` and verifies it; what is held stays. Blocks while loading.
  // FAILED_PRECONDITION for an epoch below the active one, INVALID_ARGUMENT for an expert that the
  // model does not have, DATA_LOSS where weights are damaged; on failure nothing has changed.
  absl::Status Prepare(Epoch epoch, absl::Span<const ExpertId> experts);
  // Releases what neither this epoch nor a later prepared one needs. FAILED_PRECONDITION for an
  // epoch that was not prepared or is below the active one. Memory is unmapped when the last kernel
  // on it ends.
  absl::Status Activate(Epoch epoch);
  // Forgets a prepared epoch that will not come.
  void Abort(Epoch epoch);

  // Null when not held. The pointer keeps the mapping alive.
  std::shared_ptr<const MappedExpert> Find(ExpertId expert) const;
  bool Holds(absl::string_view compute_digest, LayerId layer, ExpertId expert) const;
  std::vector<ExpertId> Held() const;
  // Highest epoch prepared or active; zero if none.
  Epoch prepared_epoch() const;
  Epoch active_epoch() const;
  uint64_t mapped_bytes() const;

 private:
  // What no epoch needs, taken out. The caller lets it go after the lock: freeing a device's memory
  // may wait for the device.
  std::map<ExpertId, std::shared_ptr<const MappedExpert>> TakeUnneeded() OCTET_REQUIRES(mu_);

  const WorkerModel model_;
  Mutex loading_;  // one Prepare at a time; taken before mu_
  mutable Mutex mu_;
  std::map<ExpertId, std::shared_ptr<const MappedExpert>> experts_ OCTET_GUARDED_BY(mu_);
  std::map<Epoch, std::set<ExpertId>> epochs_ OCTET_GUARDED_BY(mu_);  // active and prepared
  Epoch active_ OCTET_GUARDED_BY(mu_);
};

}  // namespace octet

#endif  // OCTET_EXPERT_WORKER_EXPERT_STORE_H_
