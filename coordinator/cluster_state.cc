#include "coordinator/cluster_state.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/status_macros.h"

namespace octet {

ClusterState::ClusterState(const ClusterSettings& settings,
                           const std::optional<DurableState>& restored, uint64_t fresh_term,
                           MonotonicTime now)
    : settings_(settings), term_draw_(fresh_term & ((uint64_t{1} << kTermDrawBits) - 1)) {
  ledger_.now = now;
  if (!restored.has_value()) {
    ledger_.term = std::max<uint64_t>(fresh_term, 1);
    return;
  }
  ledger_.term = TermAfter(restored->term);
  ledger_.epoch = restored->epoch;
  ledger_.next_id = restored->next_id;
  for (const DurableVersion& version : restored->versions) {
    versions_[version.model.compute_digest] =
        std::make_unique<VersionState>(&settings_, &ledger_, version);
  }
}

Actions ClusterState::Step(const ClusterEvent& event, MonotonicTime now) {
  ExtendLeasesOverStall(now);
  ledger_.now = std::max(ledger_.now, now);
  std::visit([this](const auto& e) { Handle(e); }, event);
  for (auto& entry : versions_) entry.second->Advance();
  ForgetDeserted();
  // One record of the final state covers every action of this step, so it comes first.
  Actions actions;
  if (std::exchange(ledger_.durable_changed, false)) actions.push_back(PersistAction{Durable()});
  actions.insert(actions.end(), std::make_move_iterator(ledger_.out.begin()),
                 std::make_move_iterator(ledger_.out.end()));
  ledger_.out.clear();
  return actions;
}

// A process that was stopped, or waited for its disk, has not listened to anyone meanwhile.
void ClusterState::ExtendLeasesOverStall(MonotonicTime now) {
  if (now <= ledger_.now) return;
  const Duration gap = now - ledger_.now;
  if (gap.ns < settings_.lease.ns / 2) return;
  for (auto& entry : versions_) entry.second->ExtendLeases(gap);
}

void ClusterState::Handle(const RegisterEvent& event) {
  absl::StatusOr<RegisterGrant> result = Admit(event);
  if (!result.ok()) {
    ledger_.out.push_back(LogAction{
        LogLevel::kWarning, absl::StrCat("refused ", MemberRoleName(event.member.role), " at ",
                                         event.member.address, ": ", result.status().message())});
  }
  ledger_.out.push_back(RegisterReplyAction{event.call, std::move(result)});
}

absl::Status ClusterState::CheckRoom(const RegisterEvent& event) const {
  if (event.seen_term > kSeenMax || event.seen_epoch.value() > kSeenMax ||
      event.member.id.value() > kSeenMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("seen_term ", event.seen_term, ", seen_epoch ", event.seen_epoch.value(),
                     ", previous_id ", event.member.id.value(), ": at most ", kSeenMax));
  }
  size_t others = 0;
  for (const auto& entry : versions_) {
    others += entry.second->Others(event.member.role, event.member.address);
  }
  const uint32_t most =
      event.member.role == MemberRole::kWorker ? kWorkersMax : kWatchersMax - kWorkersMax;
  if (others < most) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      "the cluster has ", others, " ", MemberRoleName(event.member.role), "s, at most ", most));
}

absl::StatusOr<VersionState*> ClusterState::VersionOf(const RegisterEvent& event) {
  const auto found = versions_.find(event.model.compute_digest);
  if (found != versions_.end()) return found->second.get();
  if (versions_.size() >= settings_.versions_max) {
    const ModelSummary& one = versions_.begin()->second->model();
    return absl::FailedPreconditionError(absl::StrCat(
        "compute digest differs: the cluster serves ", versions_.size(), " of at most ",
        settings_.versions_max, " versions, one of them model \"", one.name, "\" with digest ",
        one.compute_digest, "; this ", MemberRoleName(event.member.role), " has \"",
        event.model.name, "\" with digest ", event.model.compute_digest,
        "; give it a package that is served, let go of a version, or raise --versions-max"));
  }
  if (!versions_.empty()) {
    ledger_.out.push_back(LogAction{
        LogLevel::kWarning,
        absl::StrCat("another version comes in beside ", versions_.size(), ": model \"",
                     event.model.name, "\" with digest ", event.model.compute_digest, " of the ",
                     MemberRoleName(event.member.role), " at ", event.member.address)});
  }
  auto& version = versions_[event.model.compute_digest];
  version = std::make_unique<VersionState>(&settings_, &ledger_, event.model);
  ledger_.durable_changed = true;
  return version.get();
}

absl::StatusOr<RegisterGrant> ClusterState::Admit(const RegisterEvent& event) {
  OCTET_RETURN_IF_ERROR(CheckRoom(event));
  OCTET_ASSIGN_OR_RETURN(VersionState* const version, VersionOf(event));
  if (event.seen_term > ledger_.term ||
      (event.seen_epoch > ledger_.epoch && event.seen_term == ledger_.term)) {
    ledger_.term = TermAfter(event.seen_term);
    ledger_.durable_changed = true;
  }
  for (auto& entry : versions_) {
    entry.second->Replaced(event.member.role, event.member.address, event.member.incarnation);
  }
  // An id that another version has given away is not taken up again.
  const VersionState* const owner = VersionWith(event.member.id);
  if (owner == nullptr || owner == version) return version->Admit(event);
  RegisterEvent renamed = event;
  renamed.member.id = MemberId();
  return version->Admit(renamed);
}

void ClusterState::Handle(const HeartbeatEvent& event) {
  if (VersionState* const version = VersionWith(event.id)) {
    version->Beat(event);
  } else {
    ledger_.out.push_back(HeartbeatReplyAction{event.call, false, ledger_.term});
  }
}

void ClusterState::Handle(const WatchOpenedEvent& event) {
  VersionState* const version = VersionWith(event.id);
  size_t watches = 0;
  for (const auto& entry : versions_) watches += entry.second->watches();
  if (version == nullptr) {
    ledger_.out.push_back(UnknownMember(event, ledger_.term));
  } else if (watches >= kWatchersMax) {
    ledger_.out.push_back(CloseWatchAction{
        event.watch,
        absl::ResourceExhaustedError(absl::StrCat("at most ", kWatchersMax, " watch streams"))});
  } else {
    version->OpenWatch(event);
  }
}

void ClusterState::Handle(const WatchClosedEvent& event) {
  for (auto& entry : versions_) {
    if (entry.second->CloseWatch(event.watch)) return;
  }
}

void ClusterState::Handle(const DrainRequestedEvent& event) {
  VersionState* const version = VersionWith(event.worker);
  size_t drains = 0;
  for (const auto& entry : versions_) drains += entry.second->drains();
  if (version == nullptr) {
    ledger_.out.push_back(NoLiveWorker(event));
  } else if (drains >= kDrainsMax) {
    ledger_.out.push_back(DrainUpdateAction{
        event.drain, absl::ResourceExhaustedError(absl::StrCat("at most ", kDrainsMax, " drains")),
        0, false, ""});
  } else {
    version->StartDrain(event);
  }
}

void ClusterState::Handle(const DrainClosedEvent& event) {
  for (auto& entry : versions_) {
    if (entry.second->CloseDrain(event.drain)) return;
  }
}

void ClusterState::Handle(const TickEvent&) {
  for (auto& entry : versions_) entry.second->Tick();
}

VersionState* ClusterState::VersionWith(MemberId id) {
  for (auto& entry : versions_) {
    if (entry.second->Has(id)) return entry.second.get();
  }
  return nullptr;
}

// Only beside a version that lives: with nobody there, the coordinator may be the one that is cut
// off.
void ClusterState::ForgetDeserted() {
  const bool alive = std::any_of(versions_.begin(), versions_.end(),
                                 [](const auto& entry) { return entry.second->Alive(); });
  if (!alive) return;
  const size_t gone =
      std::erase_if(versions_, [](const auto& entry) { return entry.second->Deserted(); });
  if (gone > 0) ledger_.durable_changed = true;
}

uint64_t ClusterState::TermAfter(uint64_t term) const {
  return (((term >> kTermDrawBits) + 1) << kTermDrawBits) | term_draw_;
}

DurableState ClusterState::Durable() const {
  DurableState state{ledger_.term, ledger_.epoch, ledger_.next_id, {}};
  for (const auto& entry : versions_) state.versions.push_back(entry.second->Durable());
  return state;
}

ClusterSnapshot ClusterState::Snapshot(MonotonicTime now) const {
  ClusterSnapshot snapshot{ledger_.term, ledger_.epoch, settings_.replication, {}};
  for (const auto& entry : versions_) snapshot.versions.push_back(entry.second->Snapshot(now));
  const auto rank = [](const VersionSnapshot& version) {
    const Epoch epoch = version.active == nullptr ? Epoch() : version.active->epoch;
    return std::make_pair(version.ready, epoch);
  };
  std::stable_sort(snapshot.versions.begin(), snapshot.versions.end(),
                   [&](const auto& a, const auto& b) { return rank(a) > rank(b); });
  return snapshot;
}

}  // namespace octet
