#include "coordinator/cluster_state.h"

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
  }
  return "unknown";
}

namespace {

const char* RoleName(MemberRole role) { return role == MemberRole::kWorker ? "worker" : "router"; }

std::string Describe(const MemberRecord& record) {
  return absl::StrCat(RoleName(record.role), " ", record.id.value(), " at ", record.address,
                      " (pid ", record.pid, ")");
}

}  // namespace

ClusterState::ClusterState(const ClusterSettings& settings,
                           const std::optional<DurableState>& restored, uint64_t fresh_term,
                           MonotonicTime now)
    : settings_(settings),
      term_draw_(fresh_term & ((uint64_t{1} << kTermDrawBits) - 1)),
      now_(now),
      last_join_(now),
      plan_not_before_(now) {
  if (!restored.has_value()) {
    term_ = std::max<uint64_t>(fresh_term, 1);
    return;
  }
  term_ = TermAfter(restored->term);
  epoch_ = restored->epoch;
  next_id_ = restored->next_id;
  model_ = restored->model;
  if (restored->active.has_value()) active_ = std::make_shared<Placement>(*restored->active);
  for (const MemberRecord& record : restored->members) {
    Member& member = members_[record.id];
    member.record = record;
    member.lease_until = now + settings_.lease + settings_.heartbeat;
  }
  if (!members_.empty()) {
    // A rollout may have been cut short: plan again once the members had time to come back.
    plan_not_before_ = now + settings_.lease + settings_.heartbeat;
    RequestPlan(now);
  }
}

Actions ClusterState::Step(const ClusterEvent& event, MonotonicTime now) {
  ExtendLeasesOverStall(now);
  now_ = std::max(now_, now);
  std::visit([this](const auto& e) { Handle(e); }, event);
  ExpireLeases();
  AdvanceRollout();
  ConsiderLoad();
  PlanIfDue();
  UpdateDrains();
  ForgetLost();
  // One record of the final state covers every action of this step, so it comes first.
  if (durable_changed_) {
    durable_changed_ = false;
    out_.insert(out_.begin(), PersistAction{Durable()});
  }
  return std::exchange(out_, {});
}

// A process that was stopped, or waited for its disk, has not listened to anyone meanwhile.
void ClusterState::ExtendLeasesOverStall(MonotonicTime now) {
  if (now <= now_) return;
  const Duration gap = now - now_;
  if (gap.ns < settings_.lease.ns / 2) return;
  for (auto& entry : members_) entry.second.lease_until = entry.second.lease_until + gap;
}

void ClusterState::Handle(const RegisterEvent& event) {
  absl::StatusOr<RegisterGrant> result = Admit(event);
  if (!result.ok()) {
    Log(LogLevel::kWarning, absl::StrCat("refused ", RoleName(event.member.role), " at ",
                                         event.member.address, ": ", result.status().message()));
  }
  out_.push_back(RegisterReplyAction{event.call, std::move(result)});
}

absl::Status ClusterState::CheckModel(const RegisterEvent& event) {
  if (!model_.has_value()) {
    model_ = event.model;
    durable_changed_ = true;
    return absl::OkStatus();
  }
  if (event.model.compute_digest != model_->compute_digest ||
      event.model.experts != model_->experts) {
    return absl::FailedPreconditionError(absl::StrCat(
        "compute digest differs: the cluster serves model \"", model_->name, "\" with digest ",
        model_->compute_digest, " and ", model_->experts, " experts, this ",
        RoleName(event.member.role), " has \"", event.model.name, "\" with digest ",
        event.model.compute_digest, " and ", event.model.experts,
        " experts; give it the same package, or start a coordinator with another store"));
  }
  if (event.model.expert_bytes > model_->expert_bytes) {
    model_->expert_bytes = event.model.expert_bytes;
    durable_changed_ = true;
  }
  return absl::OkStatus();
}

// A member that has seen more than this store is proof that the store is empty or old. Others may
// be on their way back, too.
void ClusterState::LearnSeen(const RegisterEvent& event) {
  if (event.seen_term > term_) {
    term_ = TermAfter(event.seen_term);
    durable_changed_ = true;
  }
  if (event.seen_epoch <= epoch_) return;
  Log(LogLevel::kWarning,
      absl::StrCat("epoch goes on from ", event.seen_epoch.value(), ", seen by ",
                   event.member.address, "; the store had ", epoch_.value()));
  AbortRollout("a member has seen a newer epoch");
  epoch_ = event.seen_epoch;
  if (event.seen_term >= term_) term_ = TermAfter(event.seen_term);
  durable_changed_ = true;
  force_epoch_ = true;
  plan_not_before_ = std::max(plan_not_before_, now_ + settings_.lease);
  RequestPlan(now_);
}

// The member that this process already is, or a new one. The id of a process never changes, so
// that tables made before a restart of the coordinator stay valid.
ClusterState::Member& ClusterState::FindOrAdd(const MemberRecord& record, bool* fresh) {
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
  const MemberId id = adopt ? record.id : MemberId(next_id_);
  next_id_ = std::max(next_id_, id.value() + 1);
  members_[id].record.id = id;
  return members_[id];
}

absl::StatusOr<RegisterGrant> ClusterState::Admit(const RegisterEvent& event) {
  if (event.seen_term > kSeenMax || event.seen_epoch.value() > kSeenMax ||
      event.member.id.value() > kSeenMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("seen_term ", event.seen_term, ", seen_epoch ", event.seen_epoch.value(),
                     ", previous_id ", event.member.id.value(), ": at most ", kSeenMax));
  }
  OCTET_RETURN_IF_ERROR(CheckModel(event));
  const auto same_role = std::count_if(members_.begin(), members_.end(), [&](const auto& entry) {
    return !entry.second.lost && entry.second.record.role == event.member.role &&
           entry.second.record.address != event.member.address;
  });
  const uint32_t most =
      event.member.role == MemberRole::kWorker ? kWorkersMax : kWatchersMax - kWorkersMax;
  if (same_role >= most) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "the cluster has ", same_role, " ", RoleName(event.member.role), "s, at most ", most));
  }
  LearnSeen(event);
  for (auto& entry : members_) {
    Member& other = entry.second;
    const bool replaced = !other.lost && other.record.role == event.member.role &&
                          other.record.address == event.member.address &&
                          other.record.incarnation != event.member.incarnation;
    if (replaced) LoseMember(other, /*dead=*/true);
  }
  bool fresh = false;
  Member& member = FindOrAdd(event.member, &fresh);
  MemberRecord record = event.member;
  record.id = member.record.id;
  record.draining = !fresh && member.record.draining;
  durable_changed_ = durable_changed_ || fresh || !(record == member.record);
  if (fresh) member = Member{};
  member.record = record;
  member.confirmed = true;
  member.held = std::set<ExpertId>(event.held.begin(), event.held.end());
  member.lease_until = now_ + settings_.lease;
  if (fresh) {
    last_join_ = now_;
    Log(LogLevel::kInfo, absl::StrCat(Describe(record), " joined"));
    if (member.is_worker()) RequestPlan(now_ + settings_.settle);
  }
  return RegisterGrant{record.id, term_};
}

void ClusterState::Handle(const HeartbeatEvent& event) {
  Member* member = Find(event.id);
  const bool known = member != nullptr && !member->lost && member->confirmed &&
                     member->record.incarnation == event.incarnation && event.term == term_;
  out_.push_back(HeartbeatReplyAction{event.call, known, term_});
  if (!known) return;
  member->lease_until = now_ + settings_.lease;
  member->reported = event.state;
  member->prepared_epoch = event.prepared_epoch;
  member->active_epoch = event.active_epoch;
  member->held = std::set<ExpertId>(event.held.begin(), event.held.end());
  if (!member->is_worker()) return;
  if (!event.expert_rows.empty()) {
    load_.Report(event.id, event.incarnation, event.expert_rows, now_);
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
    RequestPlan(now_ + settings_.settle);
  }
}

void ClusterState::Handle(const WatchOpenedEvent& event) {
  const Member* member = Find(event.id);
  if (member == nullptr || member->lost || !member->confirmed || event.term != term_) {
    out_.push_back(
        CloseWatchAction{event.watch, absl::FailedPreconditionError(absl::StrCat(
                                          "member ", event.id.value(), " of term ", event.term,
                                          " is unknown in term ", term_, ": register again"))});
    return;
  }
  if (watches_.size() >= kWatchersMax) {
    out_.push_back(CloseWatchAction{event.watch, absl::ResourceExhaustedError(absl::StrCat(
                                                     "at most ", kWatchersMax, " watch streams"))});
    return;
  }
  watches_[event.watch] = Watch{event.id, Epoch()};
  const bool placed = active_ != nullptr && active_->FindWorker(member->worker_id()) != nullptr;
  // A worker outside the table in force would release all it holds; if a plan is on its way, that
  // may be just what it is about to be given.
  const bool wait = member->is_worker() && !placed && (plan_at_.has_value() || rollout_);
  if (active_ != nullptr && !wait) SendTo(event.watch, PlacementPhase::kActivate, active_);
  if (rollout_ && rollout_->target->FindWorker(member->worker_id()) != nullptr) {
    SendTo(event.watch, PlacementPhase::kPrepare, rollout_->target);
  }
}

// A closed stream is a hint of death: what lives beats or comes back within two heartbeats.
void ClusterState::Handle(const WatchClosedEvent& event) {
  const auto found = watches_.find(event.watch);
  if (found == watches_.end()) return;
  const MemberId id = found->second.member;
  watches_.erase(found);
  const bool another = std::any_of(watches_.begin(), watches_.end(),
                                   [&](const auto& entry) { return entry.second.member == id; });
  Member* member = Find(id);
  if (member == nullptr || another) return;
  const Duration grace{2 * settings_.heartbeat.ns};
  member->lease_until = std::min(member->lease_until, now_ + grace);
}

void ClusterState::Handle(const DrainRequestedEvent& event) {
  Member* member = Find(event.worker);
  DrainUpdateAction refusal{event.drain, absl::OkStatus(), 0, false, ""};
  if (member == nullptr || !member->is_worker() || member->lost) {
    refusal.status = absl::NotFoundError(
        absl::StrCat("worker_id: ", event.worker.value(), " is no live worker"));
  } else if (drains_.size() >= kDrainsMax) {
    refusal.status = absl::ResourceExhaustedError(absl::StrCat("at most ", kDrainsMax, " drains"));
  }
  if (!refusal.status.ok()) {
    out_.push_back(refusal);
    return;
  }
  drains_[event.drain] = Drain{event.worker, ""};
  SetDraining(*member);
}

void ClusterState::Handle(const DrainClosedEvent& event) { drains_.erase(event.drain); }

void ClusterState::Handle(const TickEvent&) {
  for (auto& entry : members_) {
    Member& member = entry.second;
    if (!member.frozen || now_ < member.frozen_until) continue;
    member.frozen = false;
    RequestPlan(now_);
  }
}

void ClusterState::SetDraining(Member& member) {
  if (member.record.draining) return;
  member.record.draining = true;
  durable_changed_ = true;
  Log(LogLevel::kInfo, absl::StrCat(Describe(member.record), " drains"));
  if (rollout_ && rollout_->target->FindWorker(member.worker_id()) != nullptr) {
    AbortRollout("one of its workers drains");
  }
  RequestPlan(now_);
}

void ClusterState::ExpireLeases() {
  for (auto& entry : members_) {
    if (!entry.second.lost && now_ >= entry.second.lease_until) {
      LoseMember(entry.second, /*dead=*/false);
    }
  }
}

void ClusterState::LoseMember(Member& member, bool dead) {
  member.lost = true;
  member.dead = dead;
  member.lost_at = now_;
  member.held.clear();
  load_.Forget(member.record.id);
  durable_changed_ = true;
  Log(LogLevel::kWarning,
      absl::StrCat(Describe(member.record), dead ? " was replaced" : " lost its lease"));
  if (!member.is_worker()) return;
  const bool in_rollout = rollout_ && rollout_->target->FindWorker(member.worker_id()) != nullptr;
  const bool in_active = active_ && active_->FindWorker(member.worker_id()) != nullptr;
  if (!in_rollout && !in_active) return;
  AbortRollout(absl::StrCat("worker ", member.record.id.value(), " is lost"));
  if (in_active) Shrink(member);
  RequestPlan(now_);
}

void ClusterState::ForgetLost() {
  for (auto it = members_.begin(); it != members_.end();) {
    const Member& member = it->second;
    const bool old = member.lost && now_ >= member.lost_at + Duration::Millis(kLostShownMs);
    const bool placed = active_ != nullptr && active_->FindWorker(member.worker_id()) != nullptr;
    it = old && !placed ? members_.erase(it) : std::next(it);
  }
}

void ClusterState::UpdateDrains() {
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
      out_.push_back(update);
    }
    it = update.done ? drains_.erase(it) : std::next(it);
  }
}

void ClusterState::Log(LogLevel level, std::string text) {
  out_.push_back(LogAction{level, std::move(text)});
}

ClusterState::Member* ClusterState::Find(MemberId id) {
  const auto found = members_.find(id);
  return found == members_.end() ? nullptr : &found->second;
}

const ClusterState::Member* ClusterState::Find(MemberId id) const {
  const auto found = members_.find(id);
  return found == members_.end() ? nullptr : &found->second;
}

uint64_t ClusterState::TermAfter(uint64_t term) const {
  return (((term >> kTermDrawBits) + 1) << kTermDrawBits) | term_draw_;
}

bool ClusterState::Live(WorkerId id) const {
  const Member* member = FindWorker(id);
  return member != nullptr && !member->lost;
}

size_t ClusterState::LiveWorkers() const {
  return static_cast<size_t>(std::count_if(members_.begin(), members_.end(), [](const auto& entry) {
    return entry.second.is_worker() && !entry.second.lost;
  }));
}

DurableState ClusterState::Durable() const {
  DurableState state{term_, epoch_, next_id_, model_, std::nullopt, {}};
  if (active_ != nullptr) state.active = *active_;
  for (const auto& entry : members_) {
    const bool placed =
        active_ != nullptr && active_->FindWorker(entry.second.worker_id()) != nullptr;
    if (!entry.second.lost || (placed && !entry.second.dead)) {
      state.members.push_back(entry.second.record);
    }
  }
  return state;
}

}  // namespace octet
