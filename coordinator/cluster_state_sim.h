// Members of a simulated cluster around a ClusterState, for its tests: workers that prepare when
// told, a store that remembers, and checks of what must hold after every step.
#ifndef OCTET_COORDINATOR_CLUSTER_STATE_SIM_H_
#define OCTET_COORDINATOR_CLUSTER_STATE_SIM_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "coordinator/cluster_state.h"

namespace octet {

struct SimMember {
  MemberRecord record;
  ModelSummary model;
  MemberId id;  // 0: not registered
  uint64_t term = 0;
  uint64_t watch = 0;  // 0: none
  bool up = true;      // beats and answers
  bool prepares = true;
  uint64_t seen_term = 0;
  Epoch seen_epoch;
  Epoch prepared, active;
  std::set<ExpertId> held;
  std::vector<uint64_t> expert_rows;
  MemberState state = MemberState::kReady;
  std::string prepare_error;
  Epoch prepare_error_epoch;
  std::shared_ptr<const Placement> table;    // in force
  std::shared_ptr<const Placement> pending;  // to prepare
};

class ClusterSim {
 public:
  explicit ClusterSim(const ClusterSettings& settings, uint32_t experts = 8) : settings_(settings) {
    model_ = ModelSummary{std::string(64, 'a'), "v1", "m", experts, 2, 100};
    Restart(/*keep_store=*/true);
  }

  // A new coordinator process; the members notice with their next beat.
  void Restart(bool keep_store) {
    if (!keep_store) store_.reset();
    state_ = std::make_unique<ClusterState>(settings_, store_, fresh_term_++, now_);
    for (auto& entry : members_) entry.second.watch = 0;
    announced_.clear();
    last_active_.clear();
    if (store_.has_value()) {
      for (const DurableVersion& version : store_->versions) {
        if (version.active.has_value()) {
          last_active_[version.model.compute_digest] =
              std::make_shared<const Placement>(*version.active);
        }
      }
    }
    Do(TickEvent{});
  }

  SimMember& Add(MemberRole role = MemberRole::kWorker, uint64_t memory_bytes = 0) {
    const uint64_t key = next_key_++;
    SimMember& member = members_[key];
    member.model = model_;
    member.record.role = role;
    member.record.address = "host:" + std::to_string(key);
    member.record.incarnation = 1000 + key;
    member.record.memory_bytes = memory_bytes;
    return member;
  }

  absl::Status Register(SimMember& member) {
    RegisterEvent event;
    event.call = ++call_;
    event.member = member.record;
    event.member.id = member.id;
    event.model = member.model;
    event.seen_term = member.seen_term;
    event.seen_epoch = member.seen_epoch;
    event.held.assign(member.held.begin(), member.held.end());
    last_register_ = absl::UnknownError("no reply");
    Do(event);
    if (!last_register_.ok()) return last_register_.status();
    member.id = last_register_->id;
    member.term = last_register_->term;
    member.seen_term = std::max(member.seen_term, member.term);
    member.watch = ++call_;
    Do(WatchOpenedEvent{member.watch, member.id, member.term});
    return absl::OkStatus();
  }

  void Beat(SimMember& member) {
    if (member.id.value() == 0 || member.watch == 0) {
      (void)Register(member);
      return;
    }
    HeartbeatEvent event;
    event.call = ++call_;
    event.id = member.id;
    event.term = member.term;
    event.incarnation = member.record.incarnation;
    event.state = member.state;
    event.prepared_epoch = member.prepared;
    event.active_epoch = member.active;
    event.held.assign(member.held.begin(), member.held.end());
    event.expert_rows = member.expert_rows;
    event.prepare_error = member.prepare_error;
    event.prepare_error_epoch = member.prepare_error_epoch;
    reported_[member.id] = event;
    Do(event);
    if (!last_known_) member.watch = 0;
  }

  // Finishes what a worker was told to prepare.
  void Prepare(SimMember& member) {
    if (member.pending == nullptr || !member.prepares) return;
    for (const ExpertId e : ExpertsOf(*member.pending, WorkerId(member.id.value()))) {
      member.held.insert(e);
    }
    member.prepared = std::max(member.prepared, member.pending->epoch);
    member.pending = nullptr;
  }

  void Advance(Duration d) {
    now_ = now_ + d;
    Do(TickEvent{});
  }

  // Everyone up beats and prepares for so long.
  void Run(Duration d) {
    for (const MonotonicTime end = now_ + d; now_ < end;) {
      for (auto& entry : members_) {
        if (!entry.second.up) continue;
        Prepare(entry.second);
        Beat(entry.second);
      }
      Advance(Duration::Millis(50));
    }
  }

  void Do(const ClusterEvent& event) {
    bool persisted = false, announced = false;
    for (const ClusterAction& action : state_->Step(event, now_)) {
      if (const auto* persist = std::get_if<PersistAction>(&action)) {
        EXPECT_FALSE(announced) << "announced before it was saved";
        EXPECT_FALSE(persisted) << "saved twice in one step";
        persisted = true;
        if (store_.has_value()) {
          EXPECT_GE(persist->state.epoch, store_->epoch);
          EXPECT_GE(persist->state.term, store_->term);
        }
        store_ = persist->state;
      } else if (const auto* send = std::get_if<SendPlacementAction>(&action)) {
        announced = true;
        Receive(*send);
      } else if (const auto* reply = std::get_if<RegisterReplyAction>(&action)) {
        last_register_ = reply->result;
      } else if (const auto* beat = std::get_if<HeartbeatReplyAction>(&action)) {
        last_known_ = beat->known;
      } else if (const auto* drain = std::get_if<DrainUpdateAction>(&action)) {
        drains_.push_back(*drain);
      } else if (const auto* closed = std::get_if<CloseWatchAction>(&action)) {
        for (auto& entry : members_) {
          if (entry.second.watch == closed->watch) entry.second.watch = 0;
        }
      }
    }
  }

  const Placement* active() const { return snapshot().active.get(); }
  // Of the version that members have unless they are given another one.
  VersionSnapshot snapshot() const { return snapshot(model_.compute_digest); }
  // Empty if there is no such version.
  VersionSnapshot snapshot(const std::string& digest) const {
    last_snapshot_ = {};
    for (VersionSnapshot& version : state_->Snapshot(now_).versions) {
      if (version.model.compute_digest == digest) last_snapshot_ = std::move(version);
    }
    return last_snapshot_;
  }
  MemberState StateOf(const SimMember& member) const {
    for (const auto& shown : snapshot(member.model.compute_digest).members) {
      if (shown.record.id == member.id) return shown.state;
    }
    return MemberState::kLost;
  }

  std::map<uint64_t, SimMember> members_;
  std::vector<DrainUpdateAction> drains_;
  std::vector<SendPlacementAction> sent_;
  std::optional<DurableState> store_;
  std::unique_ptr<ClusterState> state_;
  ModelSummary model_;
  MonotonicTime now_{1'000'000'000};
  bool last_known_ = false;

 private:
  void Receive(const SendPlacementAction& send) {
    sent_.push_back(send);
    const Placement& table = *send.placement;
    ASSERT_TRUE(store_.has_value());
    ASSERT_LE(table.epoch, store_->epoch) << "announced an epoch that is not saved";
    // One epoch, one table.
    const auto known =
        tables_.emplace(std::make_pair(send.term, table.epoch.value()), table.expert_replicas);
    ASSERT_EQ(known.first->second, table.expert_replicas);
    if (send.phase == PlacementPhase::kActivate) CheckActivate(send);
    for (auto& entry : members_) {
      SimMember& member = entry.second;
      if (member.watch != send.watch) continue;
      ASSERT_EQ(member.model.compute_digest, table.compute_digest) << "a table of another version";
      if (member.up) {
        Take(member, send);
      } else {
        // A stream loses nothing without breaking.
        member.watch = 0;
      }
    }
  }

  // What comes into force is, expert by expert, either there already or prepared and reported.
  void CheckActivate(const SendPlacementAction& send) {
    const Placement& table = *send.placement;
    std::set<Epoch>& announced = announced_[table.compute_digest];
    const auto is_new = announced.insert(table.epoch).second;
    if (!is_new) return;
    ASSERT_EQ(*announced.rbegin(), table.epoch) << "the epoch went back";
    std::shared_ptr<const Placement>& last_active = last_active_[table.compute_digest];
    for (uint32_t e = 0; e < table.expert_replicas.size(); ++e) {
      for (const WorkerId w : table.expert_replicas[e]) {
        if (last_active != nullptr) {
          const auto& before = last_active->expert_replicas[e];
          if (std::find(before.begin(), before.end(), w) != before.end()) continue;
        }
        const auto report = reported_.find(MemberId(w.value()));
        ASSERT_TRUE(report != reported_.end());
        ASSERT_GE(report->second.prepared_epoch, table.epoch);
        const auto& held = report->second.held;
        ASSERT_NE(std::find(held.begin(), held.end(), ExpertId(e)), held.end());
      }
    }
    last_active = send.placement;
  }

  // As CoordinatorClient and a worker do.
  void Take(SimMember& member, const SendPlacementAction& send) {
    const Epoch epoch = send.placement->epoch;
    if (epoch <= member.active) return;
    member.seen_term = std::max(member.seen_term, send.term);
    member.seen_epoch = std::max(member.seen_epoch, epoch);
    if (send.phase == PlacementPhase::kPrepare) {
      member.pending = send.placement;
    } else if (send.phase == PlacementPhase::kAbort) {
      member.pending = nullptr;
    } else {
      member.table = send.placement;
      member.active = epoch;
      if (member.record.role != MemberRole::kWorker) return;
      const auto mine = ExpertsOf(*send.placement, WorkerId(member.id.value()));
      std::set<ExpertId> kept;
      for (const ExpertId e : mine) {
        if (member.held.count(e) > 0) kept.insert(e);
      }
      member.held = kept;
    }
  }

  const ClusterSettings settings_;
  uint64_t next_key_ = 1, call_ = 0, fresh_term_ = 100;
  absl::StatusOr<RegisterGrant> last_register_ = absl::UnknownError("none");
  std::map<MemberId, HeartbeatEvent> reported_;
  std::map<std::pair<uint64_t, uint64_t>, std::vector<std::vector<WorkerId>>> tables_;
  // By compute digest: epochs announced by the coordinator process that runs, and the last of them.
  std::map<std::string, std::set<Epoch>> announced_;
  std::map<std::string, std::shared_ptr<const Placement>> last_active_;
  mutable VersionSnapshot last_snapshot_;
};

inline ClusterSettings Settings(uint32_t replication, uint32_t expected = 0) {
  ClusterSettings settings;
  settings.replication = replication;
  settings.expected_workers = expected;
  return settings;
}

// `workers` workers and one router, all serving.
inline ClusterSim Serving(uint32_t workers, uint32_t replication, uint64_t memory_bytes = 0) {
  ClusterSim sim(Settings(replication));
  for (uint32_t w = 0; w < workers; ++w) sim.Add(MemberRole::kWorker, memory_bytes);
  sim.Add(MemberRole::kRouter);
  sim.Run(Duration::Millis(1500));
  EXPECT_NE(sim.active(), nullptr);
  EXPECT_TRUE(sim.snapshot().ready);
  return sim;
}

inline bool Names(const Placement& table, const SimMember& member) {
  return table.FindWorker(WorkerId(member.id.value())) != nullptr;
}

}  // namespace octet

#endif  // OCTET_COORDINATOR_CLUSTER_STATE_SIM_H_
