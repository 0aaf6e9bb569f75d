// The part of VersionState that plans, prepares and activates placements.
#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "coordinator/version_state.h"
#include "core/check.h"
#include "core/rebalance_limits.h"

namespace octet {
namespace {

// Lists the workers that the replica sets name.
std::vector<PlacedWorker> NamedWorkers(const std::vector<std::vector<WorkerId>>& replicas,
                                       const std::map<WorkerId, const MemberRecord*>& records) {
  std::set<WorkerId> ids;
  for (const auto& set : replicas) ids.insert(set.begin(), set.end());
  std::vector<PlacedWorker> workers;
  for (const WorkerId id : ids) {
    const auto found = records.find(id);
    OCTET_CHECK(found != records.end()) << "worker " << id.value() << " is unknown";
    workers.push_back({id, found->second->address, found->second->speed});
  }
  return workers;
}

}  // namespace

void VersionState::RequestPlan(MonotonicTime at) {
  plan_at_ = plan_at_.has_value() ? std::min(*plan_at_, at) : at;
  plan_for_load_ = false;
}

bool VersionState::MayPlan() const {
  if (rollout_.has_value()) return false;
  if (!plan_at_.has_value() || now() < *plan_at_) return false;
  const size_t live = LiveWorkers();
  const bool all_here = settings_.expected_workers > 0 && live >= settings_.expected_workers;
  const bool all_confirmed = std::all_of(members_.begin(), members_.end(), [](const auto& entry) {
    return entry.second.lost || entry.second.confirmed || !entry.second.is_worker();
  });
  if (now() < plan_not_before_ && !(all_here && all_confirmed) &&
      !(all_confirmed && !force_epoch_)) {
    return false;
  }
  if (active_ != nullptr) return true;
  if (all_here) return true;
  const Duration wait = settings_.expected_workers > 0 ? settings_.expected_wait : settings_.settle;
  return now() >= last_join_ + wait;
}

// Empty while there is too little to judge.
std::vector<uint64_t> VersionState::WindowRows() const {
  std::vector<uint64_t> rows = load_.Rows(model_.experts, now());
  const uint64_t total = std::accumulate(rows.begin(), rows.end(), uint64_t{0});
  if (total < kRebalanceRowsMin * rows.size()) rows.clear();
  return rows;
}

void VersionState::ConsiderLoad() {
  if (settings_.extra_replicas == 0 || now() < consider_load_at_) return;
  consider_load_at_ = now() + Duration::Millis(kRebalanceMs);
  if (active_ == nullptr || rollout_.has_value() || plan_at_.has_value()) return;
  if (WindowRows().empty()) return;
  RequestPlan(now());
  plan_for_load_ = true;
}

PlannerInput VersionState::MakePlannerInput(Placement* previous) const {
  PlannerInput input;
  input.experts = model_.experts;
  input.expert_bytes = model_.expert_bytes;
  input.replication = settings_.replication;
  input.extra_replicas = settings_.extra_replicas;
  if (active_ != nullptr) *previous = *active_;
  input.load = WindowRows();
  for (const auto& entry : members_) {
    const Member& member = entry.second;
    if (!member.is_worker() || member.lost) continue;
    if (member.record.draining) continue;
    PlannerWorker worker;
    worker.id = member.worker_id();
    worker.zone = member.record.zone;
    worker.host = member.record.host;
    worker.memory_bytes = member.record.memory_bytes;
    worker.speed = member.record.speed;
    worker.held.assign(member.held.begin(), member.held.end());
    worker.accepts_new = !member.frozen;
    if (member.frozen) {
      // It failed to load something: only what it really has counts.
      for (uint32_t e = 0; e < previous->expert_replicas.size(); ++e) {
        auto& set = previous->expert_replicas[e];
        if (member.held.count(ExpertId(e)) == 0) std::erase(set, worker.id);
      }
    }
    input.workers.push_back(std::move(worker));
  }
  input.previous = active_ != nullptr ? previous : nullptr;
  return input;
}

// An expert that no worker has room for stays where it is while there are routers: on a draining
// worker, or on a lost one that may still be reachable.
void VersionState::KeepLastReplicas(PlacementPlan* plan) const {
  if (active_ == nullptr) return;
  for (const ExpertId expert : plan->unplaced) {
    if (expert.value() >= active_->expert_replicas.size()) continue;
    std::vector<WorkerId> live, gone;
    for (const WorkerId id : active_->expert_replicas[expert.value()]) {
      const Member* member = FindWorker(id);
      if (member == nullptr || member->dead) continue;
      if (Released(*member)) continue;
      (member->lost ? gone : live).push_back(id);
    }
    plan->expert_replicas[expert.value()] = live.empty() ? gone : live;
  }
}

bool VersionState::SameAsActive(const PlacementPlan& plan) const {
  return active_ != nullptr && active_->expert_replicas == plan.expert_replicas;
}

void VersionState::WarnOfShortage(const PlacementPlan& plan) {
  const auto frozen = std::count_if(members_.begin(), members_.end(), [](const auto& entry) {
    const Member& member = entry.second;
    return member.frozen && !member.lost && !member.record.draining;
  });
  if (!plan.unplaced.empty() && frozen > 0) {
    Log(LogLevel::kWarning,
        absl::StrCat("no worker takes ", plan.unplaced.size(), " of ", model_.experts, " experts (",
                     model_.expert_bytes, " bytes each): ", frozen,
                     " failed to load some and get none for ", settings_.freeze.millis(),
                     " ms, and no other has room"));
  } else if (!plan.unplaced.empty()) {
    Log(LogLevel::kWarning,
        absl::StrCat("no worker has room for ", plan.unplaced.size(), " of ", model_.experts,
                     " experts (", model_.expert_bytes, " bytes each): add a worker"));
  } else if (!plan.under_replicated.empty()) {
    Log(LogLevel::kWarning, absl::StrCat(plan.under_replicated.size(), " of ", model_.experts,
                                         " experts have fewer replicas than asked for (",
                                         settings_.replication, "): no room"));
  }
}

void VersionState::PlanIfDue() {
  if (!MayPlan()) return;
  plan_at_.reset();
  Placement previous;
  auto plan = PlanPlacement(MakePlannerInput(&previous));
  if (!plan.ok()) {
    Log(LogLevel::kWarning, absl::StrCat("no new placement: ", plan.status().message()));
    return;
  }
  if (!plan->unplaced.empty() && active_ != nullptr) KeepLastReplicas(&*plan);
  const bool same = SameAsActive(*plan);
  if (!same || !plan_for_load_) WarnOfShortage(*plan);
  // A first table with holes serves nobody, and routers may hold a better one.
  if (!plan->unplaced.empty() && active_ == nullptr) return;
  if (same && !force_epoch_) {
    // A worker that the plan might have named has been waiting for the table in force.
    for (const auto& entry : watches_) {
      if (entry.second.activated < active_->epoch) {
        SendTo(entry.first, PlacementPhase::kActivate, active_);
      }
    }
    return;
  }
  force_epoch_ = false;
  StartRollout(*plan);
}

Epoch VersionState::NextEpoch() {
  ledger_->epoch = Epoch(ledger_->epoch.value() + 1);
  return ledger_->epoch;
}

void VersionState::StartRollout(const PlacementPlan& plan) {
  auto target = std::make_shared<Placement>();
  epoch_ = NextEpoch();
  ledger_->durable_changed = true;
  target->epoch = epoch_;
  target->compute_digest = model_.compute_digest;
  target->model_version = model_.model_version;
  target->expert_replicas = plan.expert_replicas;
  std::map<WorkerId, const MemberRecord*> records;
  for (const auto& entry : members_) {
    records[entry.second.worker_id()] = &entry.second.record;
  }
  target->workers = NamedWorkers(target->expert_replicas, records);
  rollout_ = Rollout{target, now() + settings_.prepare};
  consider_load_at_ = now() + Duration::Millis(kRebalancePauseMs);
  Log(LogLevel::kInfo,
      absl::StrCat("preparing epoch ", epoch_.value(), ": ", target->workers.size(), " workers, ",
                   plan.loads, " experts to load"));
  Announce(PlacementPhase::kPrepare, target);
}

bool VersionState::Prepared(const Member& member, const Placement& table) const {
  if (member.prepared_epoch < table.epoch) return false;
  const std::vector<ExpertId> experts = ExpertsOf(table, member.worker_id());
  return std::all_of(experts.begin(), experts.end(),
                     [&](ExpertId e) { return member.held.count(e) > 0; });
}

void VersionState::AdvanceRollout() {
  if (!rollout_) return;
  const std::shared_ptr<const Placement> target = rollout_->target;
  Member* late = nullptr;
  for (const PlacedWorker& placed : target->workers) {
    Member* member = Find(MemberId(placed.id.value()));
    // One kept as the last replica has nothing to load.
    if (member == nullptr || member->lost || member->record.draining) continue;
    if (!Prepared(*member, *target)) {
      late = member;
      break;
    }
  }
  if (late == nullptr) {
    rollout_.reset();
    Activate(target);
  } else if (now() >= rollout_->deadline) {
    Freeze(*late, absl::StrCat("not prepared within ", settings_.prepare.millis(), " ms"));
  }
}

void VersionState::AbortRollout(const std::string& why) {
  if (!rollout_) return;
  const std::shared_ptr<const Placement> target = rollout_->target;
  rollout_.reset();
  Log(LogLevel::kWarning, absl::StrCat("epoch ", target->epoch.value(), " will not come: ", why));
  Announce(PlacementPhase::kAbort, target);
  RequestPlan(now());
}

void VersionState::Freeze(Member& member, const std::string& why) {
  member.frozen = true;
  member.frozen_until = now() + settings_.freeze;
  AbortRollout(absl::StrCat("worker ", member.record.id.value(), " failed to prepare: ", why));
}

// True when the table in force gives a worker something that it says it does not have.
bool VersionState::Repairs(const Member& member) const {
  if (active_ == nullptr || rollout_ || member.frozen || member.record.draining) return false;
  if (member.active_epoch < active_->epoch) return false;
  const std::vector<ExpertId> experts = ExpertsOf(*active_, member.worker_id());
  return std::any_of(experts.begin(), experts.end(),
                     [&](ExpertId e) { return member.held.count(e) == 0; });
}

void VersionState::Shrink(const Member& member) {
  auto table = std::make_shared<Placement>(*active_);
  const WorkerId id = member.worker_id();
  bool changed = false;
  for (auto& set : table->expert_replicas) {
    const auto at = std::find(set.begin(), set.end(), id);
    if (at == set.end()) continue;
    const bool covered = std::any_of(set.begin(), set.end(),
                                     [&](WorkerId other) { return other != id && Live(other); });
    if (!covered && !member.dead && !Released(member)) continue;
    set.erase(at);
    changed = true;
  }
  if (!changed) return;
  const bool stays = !ExpertsOf(*table, id).empty();
  if (!stays) std::erase_if(table->workers, [&](const PlacedWorker& w) { return w.id == id; });
  epoch_ = NextEpoch();
  table->epoch = epoch_;
  Activate(table);
}

void VersionState::Activate(std::shared_ptr<const Placement> placement) {
  active_ = std::move(placement);
  ledger_->durable_changed = true;
  Log(LogLevel::kInfo,
      absl::StrCat("epoch ", active_->epoch.value(), " is active: ", active_->workers.size(),
                   " workers", active_->Complete() ? "" : ", some experts have no replica"));
  Announce(PlacementPhase::kActivate, active_);
}

void VersionState::Announce(PlacementPhase phase,
                            const std::shared_ptr<const Placement>& placement) {
  for (const auto& entry : watches_) {
    const Member* member = Find(entry.second.member);
    if (member == nullptr || member->lost) continue;
    const bool concerned =
        phase == PlacementPhase::kActivate || placement->FindWorker(member->worker_id()) != nullptr;
    if (concerned) SendTo(entry.first, phase, placement);
  }
}

void VersionState::SendTo(uint64_t watch, PlacementPhase phase,
                          std::shared_ptr<const Placement> placement) {
  if (phase == PlacementPhase::kActivate) watches_[watch].activated = placement->epoch;
  SendPlacementAction action{watch, ledger_->term, phase, std::move(placement), {}};
  for (const auto& entry : damaged_) action.damaged.push_back(entry.first);
  ledger_->out.push_back(std::move(action));
}

MemberState VersionState::StateOf(const Member& member) const {
  if (member.lost) return MemberState::kLost;
  if (member.record.draining) return MemberState::kDraining;
  if (!member.confirmed) return MemberState::kJoining;
  if (!member.is_worker()) return member.reported;
  const WorkerId id = member.worker_id();
  if (active_ != nullptr && active_->FindWorker(id) != nullptr) {
    const std::vector<ExpertId> experts = ExpertsOf(*active_, id);
    const bool holds = std::all_of(experts.begin(), experts.end(),
                                   [&](ExpertId e) { return member.held.count(e) > 0; });
    return holds ? member.reported : MemberState::kLoading;
  }
  if (rollout_ && rollout_->target->FindWorker(id) != nullptr) return MemberState::kLoading;
  // Nothing is left for it to hold: it stands by.
  if (active_ != nullptr && !plan_at_ && !rollout_) return member.reported;
  return MemberState::kJoining;
}

VersionSnapshot VersionState::Snapshot(MonotonicTime at) const {
  VersionSnapshot snapshot;
  snapshot.model = model_;
  snapshot.active = active_;
  std::set<WorkerId> serving;
  bool routed = false;
  for (const auto& entry : members_) {
    const Member& member = entry.second;
    MemberSnapshot shown{
        member.record, model_.compute_digest, StateOf(member), {}, member.active_epoch, Duration{}};
    if (active_ != nullptr && member.is_worker()) {
      shown.experts = ExpertsOf(*active_, member.worker_id());
    }
    if (!member.lost) shown.lease_left = std::max(Duration{}, member.lease_until - at);
    if (shown.state == MemberState::kReady) {
      if (member.is_worker()) serving.insert(member.worker_id());
      routed = routed || !member.is_worker();
    } else if (shown.state == MemberState::kDraining && member.is_worker()) {
      serving.insert(member.worker_id());
    }
    snapshot.members.push_back(std::move(shown));
  }
  const auto served = [&](const std::vector<WorkerId>& set) {
    return std::any_of(set.begin(), set.end(), [&](WorkerId id) { return serving.count(id) > 0; });
  };
  snapshot.ready =
      routed && active_ != nullptr &&
      std::all_of(active_->expert_replicas.begin(), active_->expert_replicas.end(), served);
  if (rollout_) {
    std::vector<uint64_t> waiting;
    for (const PlacedWorker& placed : rollout_->target->workers) {
      const Member* member = FindWorker(placed.id);
      if (member != nullptr && !Prepared(*member, *rollout_->target)) {
        waiting.push_back(placed.id.value());
      }
    }
    snapshot.rollout = absl::StrCat("preparing epoch ", rollout_->target->epoch.value(),
                                    ": waiting for workers ", absl::StrJoin(waiting, ", "));
  }
  return snapshot;
}

}  // namespace octet
