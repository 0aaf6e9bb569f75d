#include "router/placement_view.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace octet {

absl::Status PlacementView::Apply(std::shared_ptr<const Placement> placement) {
  if (placement->compute_digest != compute_digest_) {
    return absl::FailedPreconditionError(
        absl::StrCat("the cluster serves compute digest ", placement->compute_digest,
                     " but this router's model has ", compute_digest_));
  }
  if (placement->expert_replicas.size() != experts_) {
    return absl::InvalidArgumentError(absl::StrCat("the placement has ",
                                                   placement->expert_replicas.size(),
                                                   " experts, this model has ", experts_));
  }
  for (size_t expert = 0; expert < placement->expert_replicas.size(); ++expert) {
    for (const WorkerId worker : placement->expert_replicas[expert]) {
      if (placement->FindWorker(worker) != nullptr) continue;
      return absl::InvalidArgumentError(absl::StrCat("the placement puts expert ", expert,
                                                     " on worker ", worker.value(),
                                                     ", which it does not list"));
    }
  }
  dispatcher_->SetPlacement(std::move(placement));
  return absl::OkStatus();
}

}  // namespace octet
