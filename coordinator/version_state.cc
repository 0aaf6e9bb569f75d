#include "coordinator/version_state.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/status_macros.h"

namespace octet {

const char* MemberStateName(MemberState state) {
  switch (state) {
    case MemberState::kJoining:
      return "joining";
    case MemberState::kLoading:
      return "loading";
    case MemberState::kReady:
      return "ready";
    case MemberState::kDraining:
      return "draining";
    case MemberState::kLost:
      return "lost";
    case MemberState::kDamaged:
      return "damaged";
  }
  return "unknown";
}

const char* MemberRoleName(MemberRole role) {
  return role == MemberRole::kWorker ? "worker" : "router";
}

namespace {

std::string Describe(const MemberRecord& record) {
  return absl::StrCat(MemberRoleName(record.role), " ", record.id.value(), " at ", record.address,
                      " (pid ", record.pid, ")");
}

}  // namespace

CloseWatchAction UnknownMember(const WatchOpenedEvent& event, uint64_t term) {
  return CloseWatchAction{event.watch, absl::FailedPreconditionError(absl::StrCat(
                                           "member ", event.id.value(), " of term ", event.term,
                                           " is unknown in term ", term, ": register again"))};
}

DrainUpdateAction NoLiveWorker(const DrainRequestedEvent& event) {
  return DrainUpdateAction{
      event.drain,
      absl::NotFoundError(absl::StrCat("worker_id: ", event.worker.value(), " is no live worker")),
      0, false, ""};
}

VersionState::VersionState(const ClusterSettings* settings, ClusterLedger* ledger,
                           const ModelSummary& model)
    : settings_(*settings),
      ledger_(ledger),
      model_(model),
      last_join_(ledger->now),
      plan_not_before_(ledger->now) {}

VersionState::VersionState(const ClusterSettings* settings, ClusterLedger* ledger,
                           const DurableVersion& restored)
    : VersionState(settings, ledger, restored.model) {
  epoch_ = ledger->epoch;
  if (restored.active.has_value()) active_ = std::make_shared<Placement>(*restored.active);
  for (const MemberRecord& record : restored.members) {
    Member& member = members_[record.id];
    member.record = record;
    member.lease_until = now() + settings_.lease + settings_.heartbeat;
  }
  if (members_.empty()) return;
  // A rollout may have been cut short: plan again once the members had time to come back.
  plan_not_before_ = now() + settings_.lease + settings_.heartbeat;
  RequestPlan(now());
}

void VersionState::Advance() {
  ExpireLeases();
  ReleaseDraining();
  AdvanceRollout();
  ConsiderLoad();
  PlanIfDue();
  UpdateDrains();
  ForgetLost();
  std::erase_if(damaged_, [&](const auto& entry) {
    return now() >= entry.second.at + Duration::Millis(kLostShownMs);
  });
}

void VersionState::ExtendLeases(Duration by) {
  for (auto& entry : members_) entry.second.lease_until = entry.second.lease_until + by;
}

absl::Status VersionState::CheckModel(const RegisterEvent& event) {
  if (event.model.experts != model_.experts) {
    return absl::FailedPreconditionError(
        absl::StrCat("model.experts: ", event.model.experts, ", but the version with digest ",
                     model_.compute_digest, " has ", model_.experts));
  }
  if (event.model.expert_bytes > model_.expert_bytes) {
    model_.expert_bytes = event.model.expert_bytes;
    ledger_->durable_changed = true;
  }
  return absl::OkStatus();
}

// A member that has seen more than this version knows of is proof that the store is empty or old.
// Others may be on their way back, too.
void VersionState::LearnSeen(const RegisterEvent& event) {
  if (event.seen_epoch <= epoch_) return;
  Log(LogLevel::kWarning,
      absl::StrCat("epoch goes on from ", event.seen_epoch.value(), ", seen by ",
                   event.member.address, "; the store had ", epoch_.value()));
  AbortRollout("a member has seen a newer epoch");
  epoch_ = event.seen_epoch;
  ledger_->epoch = std::max(ledger_->epoch, epoch_);
  ledger_->durable_changed = true;
  force_epoch_ = true;
  plan_not_before_ = std::max(plan_not_before_, now() + settings_.lease);
  RequestPlan(now());
}

// The member that this process already is, or a new one. The id of a process never changes, so
// that tables made before a restart of the coordinator stay valid.
VersionState::Member& VersionState::FindOrAdd(const MemberRecord& record, bool* fresh) {
  for (auto& entry : members_) {
    Member& member = entry.second;
    const bool same_process =
        member.record.role == record.role && member.record.incarnation == record.incarnation &&
        (member.record.address == record.address || member.record.id == record.id);
    if (same_process && !member.dead) {
      *fresh = member.lost;
      return member;
    }
  }
  *fresh = true;
  const bool adopt = record.id.value() != 0 && members_.count(record.id) == 0;
  const MemberId id = adopt ? record.id : MemberId(ledger_->next_id);
  ledger_->next_id = std::max(ledger_->next_id, id.value() + 1);
  members_[id].record.id = id;
  return members_[id];
}

void VersionState::Replaced(MemberRole role, const std::string& address, uint64_t incarnation) {
  for (auto& entry : members_) {
    Member& other = entry.second;
    if (!other.lost && other.record.role == role && other.record.address == address &&
        other.record.incarnation != incarnation) {
      LoseMember(other, /*dead=*/true);
    }
  }
}

absl::StatusOr<RegisterGrant> VersionState::Admit(const RegisterEvent& event) {
  OCTET_RETURN_IF_ERROR(CheckNotDamaged(event));
  OCTET_RETURN_IF_ERROR(CheckModel(event));
  LearnSeen(event);
  bool fresh = false;
  Member& member = FindOrAdd(event.member, &fresh);
  MemberRecord record = event.member;
  record.id = member.record.id;
  record.draining = !fresh && member.record.draining;
  ledger_->durable_changed = ledger_->durable_changed || fresh || !(record == member.record);
  if (fresh) member = Member{};
  member.record = record;
  member.confirmed = true;
  member.held = std::set<ExpertId>(event.held.begin(), event.held.end());
  member.lease_until = now() + settings_.lease;
  if (fresh) {
    last_join_ = now();
    Log(LogLevel::kInfo, absl::StrCat(Describe(record), " joined"));
    if (member.is_worker()) RequestPlan(now() + settings_.settle);
  }
  return RegisterGrant{record.id, ledger_->term};
}

void VersionState::Beat(const HeartbeatEvent& event) {
  Member* member = Find(event.id);
  const bool known = member != nullptr && !member->lost && member->confirmed &&
                     member->record.incarnation == event.incarnation && event.term == ledger_->term;
  ledger_->out.push_back(HeartbeatReplyAction{event.call, known, ledger_->term});
  if (!known) return;
  if (event.state == MemberState::kDamaged && member->is_worker()) return Condemn(*member);
  member->lease_until = now() + settings_.lease;
  member->reported = event.state;
  member->prepared_epoch = event.prepared_epoch;
  member->active_epoch = event.active_epoch;
  member->held = std::set<ExpertId>(event.held.begin(), event.held.end());
  if (!member->is_worker()) return;
  if (!event.expert_rows.empty()) {
    load_.Report(event.id, event.incarnation, event.expert_rows, now());
  }
  if (event.state == MemberState::kDraining) SetDraining(*member);
  if (rollout_ && rollout_->target->FindWorker(member->worker_id()) != nullptr) {
    const Placement& target = *rollout_->target;
    if (!event.prepare_error.empty() && event.prepare_error_epoch == target.epoch) {
      Freeze(*member, event.prepare_error);
    } else if (member->prepared_epoch >= target.epoch && !Prepared(*member, target)) {
      Freeze(*member, "it no longer holds what it prepared");
    }
  }
  if (Repairs(*member)) {
    force_epoch_ = true;
    RequestPlan(now() + settings_.settle);
  }
}

void VersionState::OpenWatch(const WatchOpenedEvent& event) {
  const Member* member = Find(event.id);
  if (member == nullptr || member->lost || !member->confirmed || event.term != ledger_->term) {
    ledger_->out.push_back(UnknownMember(event, ledger_->term));
    return;
  }
  watches_[event.watch] = Watch{event.id, Epoch()};
  const bool placed = Placed(*member);
  // A worker outside the table in force would release all it holds; if a plan is on its way, that
  // may be just what it is about to be given.
  const bool wait = member->is_worker() && !placed && (plan_at_.has_value() || rollout_);
  if (active_ != nullptr && !wait) SendTo(event.watch, PlacementPhase::kActivate, active_);
  if (rollout_ && rollout_->target->FindWorker(member->worker_id()) != nullptr) {
    SendTo(event.watch, PlacementPhase::kPrepare, rollout_->target);
  }
}

// A closed stream is a hint of death: what lives beats or comes back within two heartbeats.
bool VersionState::CloseWatch(uint64_t watch) {
  const auto found = watches_.find(watch);
  if (found == watches_.end()) return false;
  const MemberId id = found->second.member;
  watches_.erase(found);
  const bool another = std::any_of(watches_.begin(), watches_.end(),
                                   [&](const auto& entry) { return entry.second.member == id; });
  Member* member = Find(id);
  if (member == nullptr || another) return true;
  const Duration grace{2 * settings_.heartbeat.ns};
  member->lease_until = std::min(member->lease_until, now() + grace);
  return true;
}

void VersionState::StartDrain(const DrainRequestedEvent& event) {
  Member* member = Find(event.worker);
  if (member == nullptr || !member->is_worker() || member->lost) {
    ledger_->out.push_back(NoLiveWorker(event));
    return;
  }
  drains_[event.drain] = Drain{event.worker, ""};
  SetDraining(*member);
}

void VersionState::Tick() {
  for (auto& entry : members_) {
    Member& member = entry.second;
    if (!member.frozen || now() < member.frozen_until) continue;
    member.frozen = false;
    RequestPlan(now());
  }
}

void VersionState::SetDraining(Member& member) {
  if (member.record.draining) return;
  member.record.draining = true;
  ledger_->durable_changed = true;
  Log(LogLevel::kInfo, absl::StrCat(Describe(member.record), " drains"));
  if (rollout_ && rollout_->target->FindWorker(member.worker_id()) != nullptr) {
    AbortRollout("one of its workers drains");
  }
  RequestPlan(now());
}

void VersionState::Condemn(Member& member) {
  damaged_[member.record.id] = {member.record.incarnation, now()};
  Log(LogLevel::kError, absl::StrCat(Describe(member.record), " found its weights damaged"));
  const std::shared_ptr<const Placement> before = active_;
  LoseMember(member, /*dead=*/true);
  if (active_ == nullptr || active_ != before) return;
  // It was in no table of late, but routers may have used it before.
  Announce(PlacementPhase::kActivate, active_);
}

absl::Status VersionState::CheckNotDamaged(const RegisterEvent& event) const {
  for (const auto& [id, damaged] : damaged_) {
    if (damaged.incarnation == event.member.incarnation) {
      return absl::FailedPreconditionError(
          absl::StrCat("worker ", id.value(), " found its weights damaged; start it anew"));
    }
  }
  return absl::OkStatus();
}

void VersionState::ExpireLeases() {
  for (auto& entry : members_) {
    if (!entry.second.lost && now() >= entry.second.lease_until) {
      LoseMember(entry.second, /*dead=*/false);
    }
  }
}

void VersionState::LoseMember(Member& member, bool dead) {
  member.lost = true;
  member.dead = dead;
  member.lost_at = now();
  member.held.clear();
  load_.Forget(member.record.id);
  ledger_->durable_changed = true;
  Log(LogLevel::kWarning,
      absl::StrCat(Describe(member.record), dead ? " was replaced" : " lost its lease"));
  if (!member.is_worker()) return;
  const bool in_rollout = rollout_ && rollout_->target->FindWorker(member.worker_id()) != nullptr;
  const bool in_active = active_ && active_->FindWorker(member.worker_id()) != nullptr;
  if (!in_rollout && !in_active) return;
  AbortRollout(absl::StrCat("worker ", member.record.id.value(), " is lost"));
  if (in_active) Shrink(member);
  RequestPlan(now());
}

bool VersionState::LongLost(const Member& member) const {
  return member.lost && now() >= member.lost_at + Duration::Millis(kLostShownMs);
}

bool VersionState::Placed(const Member& member) const {
  return active_ != nullptr && active_->FindWorker(member.worker_id()) != nullptr;
}

void VersionState::ForgetLost() {
  std::erase_if(members_,
                [&](const auto& entry) { return LongLost(entry.second) && !Placed(entry.second); });
}

bool VersionState::Alive() const {
  return std::any_of(members_.begin(), members_.end(),
                     [](const auto& entry) { return !entry.second.lost; });
}

bool VersionState::Deserted() const {
  return std::all_of(members_.begin(), members_.end(),
                     [&](const auto& entry) { return LongLost(entry.second); });
}

bool VersionState::Routed() const {
  return std::any_of(members_.begin(), members_.end(), [](const auto& entry) {
    return !entry.second.is_worker() && !entry.second.lost;
  });
}

void VersionState::ReleaseDraining() {
  // Its table has an older epoch than one made now.
  if (rollout_.has_value()) return;
  for (const auto& [id, member] : members_) {
    if (member.is_worker() && !member.lost && Placed(member) && Released(member)) Shrink(member);
  }
}

size_t VersionState::Others(MemberRole role, const std::string& address) const {
  return static_cast<size_t>(
      std::count_if(members_.begin(), members_.end(), [&](const auto& entry) {
        return !entry.second.lost && entry.second.record.role == role &&
               entry.second.record.address != address;
      }));
}

void VersionState::UpdateDrains() {
  for (auto it = drains_.begin(); it != drains_.end();) {
    Drain& drain = it->second;
    const Member* member = Find(drain.worker);
    DrainUpdateAction update{it->first, absl::OkStatus(), 0, false, ""};
    if (active_ != nullptr) {
      update.experts_left =
          static_cast<uint32_t>(ExpertsOf(*active_, WorkerId(drain.worker.value())).size());
    }
    if (member == nullptr || member->lost) {
      update.experts_left = 0;
      update.done = true;
      update.message = absl::StrCat("worker ", drain.worker.value(), " is gone");
    } else if (!member->record.draining) {
      update.done = true;
      update.message = absl::StrCat("worker ", drain.worker.value(), " was restarted");
    } else if (!Routed() && !rollout_) {
      update.done = true;
      update.message = absl::StrCat("no router asks worker ", drain.worker.value(), " any more");
    } else if (update.experts_left == 0) {
      update.done = true;
      update.message = absl::StrCat("worker ", drain.worker.value(), " holds nothing that is used");
    } else if (rollout_ || plan_at_) {
      update.message = absl::StrCat("moving ", update.experts_left, " experts");
    } else {
      update.message =
          absl::StrCat(update.experts_left, " experts stay: no other worker has room for them");
    }
    if (update.message != drain.last_message) {
      drain.last_message = update.message;
      ledger_->out.push_back(update);
    }
    it = update.done ? drains_.erase(it) : std::next(it);
  }
}

void VersionState::Log(LogLevel level, std::string text) {
  ledger_->out.push_back(LogAction{level, std::move(text)});
}

VersionState::Member* VersionState::Find(MemberId id) {
  const auto found = members_.find(id);
  return found == members_.end() ? nullptr : &found->second;
}

const VersionState::Member* VersionState::Find(MemberId id) const {
  const auto found = members_.find(id);
  return found == members_.end() ? nullptr : &found->second;
}

bool VersionState::Live(WorkerId id) const {
  const Member* member = FindWorker(id);
  return member != nullptr && !member->lost;
}

size_t VersionState::LiveWorkers() const {
  return static_cast<size_t>(std::count_if(members_.begin(), members_.end(), [](const auto& entry) {
    return entry.second.is_worker() && !entry.second.lost;
  }));
}

DurableVersion VersionState::Durable() const {
  DurableVersion version{model_, std::nullopt, {}};
  if (active_ != nullptr) version.active = *active_;
  for (const auto& entry : members_) {
    const Member& member = entry.second;
    if (!member.lost || (Placed(member) && !member.dead)) version.members.push_back(member.record);
  }
  return version;
}

}  // namespace octet
