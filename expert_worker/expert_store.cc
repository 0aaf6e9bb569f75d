#include "expert_worker/expert_store.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "core/status_macros.h"

namespace octet {

absl::Status ExpertStore::Prepare(Epoch epoch, absl::Span<const ExpertId> experts) {
  MutexLock one_at_a_time(loading_);
  std::map<ExpertId, std::shared_ptr<const MappedExpert>> loaded;
  for (const ExpertId expert : experts) {
    if (expert.value() >= model_.experts) {
      return absl::InvalidArgumentError(
          absl::StrCat("expert ", expert.value(), ": the model has ", model_.experts));
    }
    {
      MutexLock lock(mu_);
      if (epoch < active_) {
        return absl::FailedPreconditionError(
            absl::StrCat("epoch ", epoch.value(), " is below the active ", active_.value()));
      }
      if (experts_.count(expert) > 0) continue;
    }
    if (loaded.count(expert) > 0) continue;
    OCTET_ASSIGN_OR_RETURN(MappedExpert mapped, model_.load(expert));
    loaded[expert] = std::make_shared<const MappedExpert>(std::move(mapped));
  }
  MutexLock lock(mu_);
  if (epoch < active_) {
    return absl::FailedPreconditionError(
        absl::StrCat("epoch ", epoch.value(), " is below the active ", active_.value()));
  }
  for (const ExpertId expert : experts) {
    // An Activate may have released an expert that was held when loading began.
    if (experts_.count(expert) == 0 && loaded.count(expert) == 0) {
      return absl::AbortedError("another epoch became active while loading");
    }
  }
  experts_.merge(loaded);
  epochs_[epoch] = std::set<ExpertId>(experts.begin(), experts.end());
  return absl::OkStatus();
}

absl::Status ExpertStore::Activate(Epoch epoch) {
  std::map<ExpertId, std::shared_ptr<const MappedExpert>> unneeded;  // outlives the lock
  MutexLock lock(mu_);
  if (epoch < active_ || epochs_.count(epoch) == 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        "epoch ", epoch.value(), " was not prepared; epoch ", active_.value(), " is active"));
  }
  active_ = epoch;
  epochs_.erase(epochs_.begin(), epochs_.find(epoch));
  unneeded = TakeUnneeded();
  return absl::OkStatus();
}

void ExpertStore::Abort(Epoch epoch) {
  std::map<ExpertId, std::shared_ptr<const MappedExpert>> unneeded;  // outlives the lock
  MutexLock lock(mu_);
  if (epoch == active_) return;
  epochs_.erase(epoch);
  unneeded = TakeUnneeded();
}

std::map<ExpertId, std::shared_ptr<const MappedExpert>> ExpertStore::TakeUnneeded() {
  std::map<ExpertId, std::shared_ptr<const MappedExpert>> taken;
  for (auto it = experts_.begin(); it != experts_.end();) {
    bool needed = false;
    for (const auto& entry : epochs_) needed = needed || entry.second.count(it->first) > 0;
    if (needed) {
      ++it;
    } else {
      taken.insert(experts_.extract(it++));
    }
  }
  return taken;
}

std::shared_ptr<const MappedExpert> ExpertStore::Find(ExpertId expert) const {
  MutexLock lock(mu_);
  const auto it = experts_.find(expert);
  return it == experts_.end() ? nullptr : it->second;
}

bool ExpertStore::Holds(absl::string_view compute_digest, LayerId layer, ExpertId expert) const {
  return compute_digest == model_.compute_digest && layer.value() < model_.formats.size() &&
         Find(expert) != nullptr;
}

std::vector<ExpertId> ExpertStore::Held() const {
  MutexLock lock(mu_);
  std::vector<ExpertId> held;
  for (const auto& entry : experts_) held.push_back(entry.first);
  return held;
}

Epoch ExpertStore::prepared_epoch() const {
  MutexLock lock(mu_);
  return epochs_.empty() ? active_ : epochs_.rbegin()->first;
}

Epoch ExpertStore::active_epoch() const {
  MutexLock lock(mu_);
  return active_;
}

uint64_t ExpertStore::mapped_bytes() const {
  MutexLock lock(mu_);
  uint64_t bytes = 0;
  for (const auto& entry : experts_) bytes += entry.second->bytes;
  return bytes;
}

}  // namespace octet
