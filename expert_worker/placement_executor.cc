#include "expert_worker/placement_executor.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "core/log.h"

namespace octet {
void PlacementExecutor::CarryOut(const PlacementUpdate& update) {
  switch (update.phase) {
    case PlacementPhase::kAbort:
      store_->Abort(update.placement->epoch);
      return;
    case PlacementPhase::kActivate:
      Activate(update);
      return;
    case PlacementPhase::kPrepare:
      (void)Prepare(update);  // the failure is in the state, for the next heartbeat
      return;
  }
}

absl::Status PlacementExecutor::Prepare(const PlacementUpdate& update) {
  const Placement& placement = *update.placement;
  const std::vector<ExpertId> mine = ExpertsOf(placement, WorkerId(update.self.value()));
  absl::Status status;
  if (placement.compute_digest != store_->model().compute_digest) {
    status = absl::FailedPreconditionError(
        absl::StrCat("the placement is for model ", placement.compute_digest,
                     ", this worker serves ", store_->model().compute_digest));
  } else {
    status = store_->Prepare(placement.epoch, mine);
  }
  MutexLock lock(mu_);
  if (status.ok()) {
    state_.prepare_error.clear();
    state_.prepare_error_epoch = Epoch();
    LogInfo("prepared epoch ", placement.epoch.value(), ": ", mine.size(), " experts");
  } else {
    state_.prepare_error = std::string(status.message());
    state_.prepare_error_epoch = placement.epoch;
    LogError("cannot prepare epoch ", placement.epoch.value(), ": ", status.ToString());
  }
  return status;
}

void PlacementExecutor::Activate(const PlacementUpdate& update) {
  const Epoch epoch = update.placement->epoch;
  const bool listed = !ExpertsOf(*update.placement, WorkerId(update.self.value())).empty();
  absl::Status status;
  if (listed || named_ == update.self) {
    status = store_->Activate(epoch);
    if (absl::IsFailedPrecondition(status)) {
      status = Prepare(update);
      if (status.ok()) status = store_->Activate(epoch);
    }
  }
  if (!status.ok()) {
    LogError("cannot activate epoch ", epoch.value(), ": ", status.ToString());
    return;
  }
  named_ = listed ? update.self : MemberId();
  if (listed) LogInfo("serves epoch ", epoch.value());
  MutexLock lock(mu_);
  state_.serving = listed;
}

FollowState PlacementExecutor::state() const {
  MutexLock lock(mu_);
  return state_;
}

}  // namespace octet
