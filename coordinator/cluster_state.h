// The coordinator's brain: membership, leases, epochs and rollouts as a pure state machine,
// Step(event, now) -> actions. No I/O, no clock, no lock; one owner thread.
//
// A placement change is a rollout: PREPARE goes to the workers that the new table names, each loads
// and reports (heartbeat: prepared epoch and held experts), and when all have, ACTIVATE goes to
// everyone. One rollout at a time; what changes meanwhile leads to another. A worker lost during a
// rollout aborts it. A lost worker is taken out of the table in force at once, without preparing
// anything (a "shrink" epoch), save where it is the last replica: a lost lease is no proof of
// death, so it stays there until another worker is ready. The same holds for a draining worker.
//
// With extra replicas, the load of the experts over the last seconds is looked at every
// kRebalanceMs; where it calls for other extra replicas, a rollout brings them. Nothing else moves
// because of load.
//
// Every epoch given out is new: greater than any in the store and any that a member has seen.
#ifndef OCTET_COORDINATOR_CLUSTER_STATE_H_
#define OCTET_COORDINATOR_CLUSTER_STATE_H_

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/cluster_types.h"
#include "coordinator/expert_load.h"
#include "coordinator/placement_planner.h"
#include "core/clock.h"
#include "core/log.h"

namespace octet {

// ---- Events. `call`, `watch` and `drain` are the service's own numbers, echoed by the actions.

struct RegisterEvent {
  uint64_t call = 0;
  MemberRecord member;  // id: the previous one, 0 if none
  ModelSummary model;
  uint64_t seen_term = 0;
  Epoch seen_epoch;
  std::vector<ExpertId> held;
};

struct HeartbeatEvent {
  uint64_t call = 0;
  MemberId id;
  uint64_t term = 0;
  uint64_t incarnation = 0;
  MemberState state = MemberState::kLoading;  // loading, ready or draining
  Epoch prepared_epoch;
  Epoch active_epoch;
  std::vector<ExpertId> held;
  std::string prepare_error;
  Epoch prepare_error_epoch;
  std::vector<uint64_t> expert_rows;  // computed so far, by expert; may be empty
};

struct WatchOpenedEvent {
  uint64_t watch = 0;
  MemberId id;
  uint64_t term = 0;
};
struct WatchClosedEvent {
  uint64_t watch = 0;
};
struct DrainRequestedEvent {
  uint64_t drain = 0;
  MemberId worker;
};
struct DrainClosedEvent {
  uint64_t drain = 0;
};
struct TickEvent {};

using ClusterEvent = std::variant<RegisterEvent, HeartbeatEvent, WatchOpenedEvent, WatchClosedEvent,
                                  DrainRequestedEvent, DrainClosedEvent, TickEvent>;

// ---- Actions, to be carried out in order; those after a Persist only once it is on disk.

struct PersistAction {
  DurableState state;
};
struct RegisterGrant {
  MemberId id;
  uint64_t term = 0;
};
struct RegisterReplyAction {
  uint64_t call = 0;
  absl::StatusOr<RegisterGrant> result;
};
struct HeartbeatReplyAction {
  uint64_t call = 0;
  bool known = false;
  uint64_t term = 0;
};
struct SendPlacementAction {
  uint64_t watch = 0;
  uint64_t term = 0;
  PlacementPhase phase = PlacementPhase::kActivate;
  std::shared_ptr<const Placement> placement;
};
struct CloseWatchAction {
  uint64_t watch = 0;
  absl::Status status;
};
struct DrainUpdateAction {
  uint64_t drain = 0;
  absl::Status status;  // not OK: the drain was refused
  uint32_t experts_left = 0;
  bool done = false;
  std::string message;
};
struct LogAction {
  LogLevel level = LogLevel::kInfo;
  std::string text;
};

using ClusterAction =
    std::variant<PersistAction, RegisterReplyAction, HeartbeatReplyAction, SendPlacementAction,
                 CloseWatchAction, DrainUpdateAction, LogAction>;
using Actions = std::vector<ClusterAction>;

// ---- What `octet status` shows.

struct MemberSnapshot {
  MemberRecord record;
  MemberState state = MemberState::kJoining;
  std::vector<ExpertId> experts;  // given to it by the table in force
  Epoch active_epoch;             // as reported
  Duration lease_left;
};

struct ClusterSnapshot {
  uint64_t term = 0;
  // Every expert has a live, ready replica and a router serves.
  bool ready = false;
  std::optional<ModelSummary> model;
  std::vector<MemberSnapshot> members;      // by id
  std::shared_ptr<const Placement> active;  // null before the first
  std::string rollout;                      // "" or "preparing epoch 7: waiting for worker 3"
  uint32_t replication = 0;
};

class ClusterState {
 public:
  // `restored` is what the store held, if anything. `fresh_term` starts the terms of an empty
  // store: something that grows (seconds since 1970) above kTermDrawBits of this process's own,
  // which all its terms get. The new term is persisted by the first Step.
  ClusterState(const ClusterSettings& settings, const std::optional<DurableState>& restored,
               uint64_t fresh_term, MonotonicTime now);

  // `now` must not decrease. A Tick is due at least every settle / 4.
  Actions Step(const ClusterEvent& event, MonotonicTime now);

  ClusterSnapshot Snapshot(MonotonicTime now) const;
  uint64_t term() const { return term_; }
  Epoch epoch() const { return epoch_; }

 private:
  struct Member {
    MemberRecord record;
    bool confirmed = false;  // registered with this process
    bool lost = false;
    bool dead = false;  // lost, and known to be gone: its process was replaced
    MonotonicTime lost_at;
    MonotonicTime lease_until;
    MemberState reported = MemberState::kLoading;
    Epoch prepared_epoch;
    Epoch active_epoch;
    std::set<ExpertId> held;
    MonotonicTime frozen_until;  // takes nothing new before
    bool frozen = false;
    WorkerId worker_id() const { return WorkerId(record.id.value()); }
    bool is_worker() const { return record.role == MemberRole::kWorker; }
  };
  struct Rollout {
    std::shared_ptr<const Placement> target;
    MonotonicTime deadline;
  };
  struct Watch {
    MemberId member;
    Epoch activated;  // of the last ACTIVATE sent
  };
  struct Drain {
    MemberId worker;
    std::string last_message;
  };

  // Events (cluster_state.cc).
  void Handle(const RegisterEvent& event);
  void Handle(const HeartbeatEvent& event);
  void Handle(const WatchOpenedEvent& event);
  void Handle(const WatchClosedEvent& event);
  void Handle(const DrainRequestedEvent& event);
  void Handle(const DrainClosedEvent& event);
  void Handle(const TickEvent& event);
  absl::StatusOr<RegisterGrant> Admit(const RegisterEvent& event);
  absl::Status CheckModel(const RegisterEvent& event);
  void LearnSeen(const RegisterEvent& event);
  Member& FindOrAdd(const MemberRecord& record, bool* fresh);
  void ExtendLeasesOverStall(MonotonicTime now);
  void ExpireLeases();
  void LoseMember(Member& member, bool dead);
  void SetDraining(Member& member);
  void ForgetLost();
  void UpdateDrains();
  void Log(LogLevel level, std::string text);

  // Placement (cluster_rollout.cc).
  // An earlier request stands: joins close together share one plan.
  void RequestPlan(MonotonicTime at);
  bool MayPlan() const;
  void PlanIfDue();
  // Asks for a plan every kRebalanceMs while extra replicas are wanted and there is load to judge.
  void ConsiderLoad();
  std::vector<uint64_t> WindowRows() const;
  PlannerInput MakePlannerInput(Placement* previous) const;
  void KeepLastReplicas(PlacementPlan* plan) const;
  bool SameAsActive(const PlacementPlan& plan) const;
  void WarnOfShortage(const PlacementPlan& plan);
  void StartRollout(const PlacementPlan& plan);
  void AdvanceRollout();
  void AbortRollout(const std::string& why);
  void Freeze(Member& member, const std::string& why);
  bool Prepared(const Member& member, const Placement& table) const;
  void Shrink(const Member& member);
  void Activate(std::shared_ptr<const Placement> placement);
  void Announce(PlacementPhase phase, const std::shared_ptr<const Placement>& placement);
  void SendTo(uint64_t watch, PlacementPhase phase, std::shared_ptr<const Placement> placement);
  bool Repairs(const Member& member) const;

  // Queries.
  Member* Find(MemberId id);
  const Member* Find(MemberId id) const;
  const Member* FindWorker(WorkerId id) const { return Find(MemberId(id.value())); }
  uint64_t TermAfter(uint64_t term) const;
  bool Live(WorkerId id) const;
  size_t LiveWorkers() const;
  MemberState StateOf(const Member& member) const;
  DurableState Durable() const;

  const ClusterSettings settings_;
  const uint64_t term_draw_;
  MonotonicTime now_;
  uint64_t term_ = 0;
  Epoch epoch_;
  uint64_t next_id_ = 1;
  std::optional<ModelSummary> model_;
  std::map<MemberId, Member> members_;
  std::shared_ptr<const Placement> active_;
  std::optional<Rollout> rollout_;
  // When to plan next; none if nothing changed since the last plan.
  std::optional<MonotonicTime> plan_at_;
  MonotonicTime last_join_;
  ExpertLoad load_;
  MonotonicTime consider_load_at_;
  // The plan that is due was asked for because of load alone.
  bool plan_for_load_ = false;
  // No plan before this, unless everyone expected is there: after a restart, members that live may
  // not have come back yet.
  MonotonicTime plan_not_before_;
  // The next plan gets an epoch even if it changes nothing.
  bool force_epoch_ = false;
  std::map<uint64_t, Watch> watches_;
  std::map<uint64_t, Drain> drains_;
  bool durable_changed_ = true;
  Actions out_;
};

}  // namespace octet

#endif  // OCTET_COORDINATOR_CLUSTER_STATE_H_
