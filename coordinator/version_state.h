// One model version of the cluster: its members, leases, placements and rollouts, as a pure state
// machine that ClusterState steps. No I/O, no clock, no lock; one owner thread.
//
// A placement change is a rollout: PREPARE goes to the workers that the new table names, each loads
// and reports (heartbeat: prepared epoch and held experts), and when all have, ACTIVATE goes to
// everyone. One rollout at a time; what changes meanwhile leads to another. A worker lost during a
// rollout aborts it. A lost worker is taken out of the table in force at once, without preparing
// anything (a "shrink" epoch), save where it is the last replica: a lost lease is no proof of
// death, so it stays there until another worker is ready. The same holds for a draining worker,
// unless no router is left to ask it.
//
// With extra replicas, the load of the experts over the last seconds is looked at every
// kRebalanceMs; where it calls for other extra replicas, a rollout brings them. Nothing else moves
// because of load.
#ifndef OCTET_COORDINATOR_VERSION_STATE_H_
#define OCTET_COORDINATOR_VERSION_STATE_H_

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "coordinator/cluster_events.h"
#include "coordinator/cluster_types.h"
#include "coordinator/expert_load.h"
#include "coordinator/placement_planner.h"
#include "core/clock.h"
#include "core/log.h"

namespace octet {

// ---- What `octet status` shows.

struct MemberSnapshot {
  MemberRecord record;
  std::string compute_digest;  // of the version it serves
  MemberState state = MemberState::kJoining;
  std::vector<ExpertId> experts;  // given to it by the table in force
  Epoch active_epoch;             // as reported
  Duration lease_left;
};

struct VersionSnapshot {
  ModelSummary model;
  // Every expert has a live, ready replica and a router serves.
  bool ready = false;
  std::shared_ptr<const Placement> active;  // null before the first
  std::string rollout;                      // "" or "preparing epoch 7: waiting for worker 3"
  std::vector<MemberSnapshot> members;      // by id
};

// What the versions of one cluster share. Every epoch given out is new: greater than any in the
// store and any that a member has seen.
struct ClusterLedger {
  MonotonicTime now;
  uint64_t term = 0;
  Epoch epoch;  // highest ever given out
  uint64_t next_id = 1;
  bool durable_changed = true;
  Actions out;
};

// Answers for members that no version has, or only lost ones.
CloseWatchAction UnknownMember(const WatchOpenedEvent& event, uint64_t term);
DrainUpdateAction NoLiveWorker(const DrainRequestedEvent& event);

class VersionState {
 public:
  // `settings` and `ledger` outlive this. Empty.
  VersionState(const ClusterSettings* settings, ClusterLedger* ledger, const ModelSummary& model);
  // As the store has it. Its members have not registered with this process yet.
  VersionState(const ClusterSettings* settings, ClusterLedger* ledger,
               const DurableVersion& restored);

  // ---- Events. Each but the first is for the version that has the member, watch or drain.

  // `event` has been checked. FAILED_PRECONDITION where the model differs in what a digest does not
  // cover.
  absl::StatusOr<RegisterGrant> Admit(const RegisterEvent& event);
  void Beat(const HeartbeatEvent& event);
  void OpenWatch(const WatchOpenedEvent& event);
  bool CloseWatch(uint64_t watch);
  void StartDrain(const DrainRequestedEvent& event);
  bool CloseDrain(uint64_t drain) { return drains_.erase(drain) > 0; }
  void Tick();

  // A process of that role at that address, other than `incarnation`, is no more.
  void Replaced(MemberRole role, const std::string& address, uint64_t incarnation);
  void ExtendLeases(Duration by);
  // What time and the last event call for; once after every event.
  void Advance();

  // ---- Queries.

  const ModelSummary& model() const { return model_; }
  bool Has(MemberId id) const { return members_.count(id) > 0; }
  size_t watches() const { return watches_.size(); }
  size_t drains() const { return drains_.size(); }
  // Members of a role that are not lost, but for those at `address`.
  size_t Others(MemberRole role, const std::string& address) const;
  // Some member is not lost.
  bool Alive() const;
  // All members have been lost for so long that a status shows them no more.
  bool Deserted() const;
  DurableVersion Durable() const;
  VersionSnapshot Snapshot(MonotonicTime at) const;

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
  struct Damaged {
    uint64_t incarnation = 0;
    MonotonicTime at;
  };
  struct Drain {
    MemberId worker;
    std::string last_message;
  };

  // Membership (version_state.cc).
  absl::Status CheckModel(const RegisterEvent& event);
  void LearnSeen(const RegisterEvent& event);
  Member& FindOrAdd(const MemberRecord& record, bool* fresh);
  void ExpireLeases();
  void LoseMember(Member& member, bool dead);
  void SetDraining(Member& member);
  // A worker found its weights damaged: it is out at once, and its routers are told.
  void Condemn(Member& member);
  absl::Status CheckNotDamaged(const RegisterEvent& event) const;
  void ForgetLost();
  bool LongLost(const Member& member) const;
  // Some router of this version lives.
  bool Routed() const;
  // It drains, and nobody is left to ask it: not even the last replica has to stay.
  bool Released(const Member& member) const { return member.record.draining && !Routed(); }
  void ReleaseDraining();
  void UpdateDrains();
  void Log(LogLevel level, std::string text);

  // Placement (version_rollout.cc).
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
  Epoch NextEpoch();
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
  MonotonicTime now() const { return ledger_->now; }
  Member* Find(MemberId id);
  const Member* Find(MemberId id) const;
  const Member* FindWorker(WorkerId id) const { return Find(MemberId(id.value())); }
  bool Live(WorkerId id) const;
  bool Placed(const Member& member) const;
  size_t LiveWorkers() const;
  MemberState StateOf(const Member& member) const;

  const ClusterSettings& settings_;
  ClusterLedger* const ledger_;
  ModelSummary model_;
  // Highest given out or seen by a member of this version.
  Epoch epoch_;
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
  std::map<MemberId, Damaged> damaged_;  // for kLostShownMs
  std::map<uint64_t, Watch> watches_;
  std::map<uint64_t, Drain> drains_;
};

}  // namespace octet

#endif  // OCTET_COORDINATOR_VERSION_STATE_H_
