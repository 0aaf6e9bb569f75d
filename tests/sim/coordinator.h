// A coordinator process of the simulation: the real ClusterState behind calls, watch streams and a
// disk that are simulated. It carries actions out in order, and may die between any two of them.
#ifndef OCTET_TESTS_SIM_COORDINATOR_H_
#define OCTET_TESTS_SIM_COORDINATOR_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>

#include "coordinator/cluster_state.h"
#include "coordinator/store/state_store.h"
#include "tests/sim/world.h"

namespace octet::sim {

// What outlives a coordinator process. Refuses what an SQLite store refuses.
class Disk final : public StateStore {
 public:
  absl::StatusOr<std::optional<DurableState>> Load() override { return state_; }
  absl::Status Save(const DurableState& state) override;

  void SetFull(bool full) { full_ = full; }
  const std::optional<DurableState>& state() const { return state_; }

 private:
  std::optional<DurableState> state_;
  bool full_ = false;
};

// Hears of all that any coordinator tells anyone, before it is told.
class AnnouncementChecker {
 public:
  virtual ~AnnouncementChecker() = default;
  virtual void OnSend(const SendPlacementAction& send, MemberId member, const Disk& disk) = 0;
  virtual void OnGrant(const RegisterGrant& grant, const Disk& disk) = 0;
};

// Deliberate faults of the logic, to prove that the checks see them.
struct CoordinatorBug {
  bool announce_before_persist = false;
  bool activate_unprepared = false;  // reports every worker as prepared
  bool forget_seen = false;          // ignores what members have seen
};

class Coordinator {
 public:
  using RegisterDone = std::function<void(absl::StatusOr<RegisterGrant>)>;
  using HeartbeatDone = std::function<void(bool known)>;
  using PlacementFn = std::function<void(const SendPlacementAction&)>;

  // Starts the process at `node`, which must be down.
  Coordinator(World* world, uint32_t node, const ClusterSettings& settings, Disk* disk,
              uint64_t fresh_term, AnnouncementChecker* checker, const CoordinatorBug& bug);
  // The process is gone after it.
  ~Coordinator();

  // Calls of members, in this process. `done` runs here as well; not at all if it dies before.
  void Register(RegisterEvent event, RegisterDone done);
  void Heartbeat(HeartbeatEvent event, HeartbeatDone done);
  // `on_placement` runs at the other side of `stream`.
  void Watch(MemberId id, uint64_t term, std::shared_ptr<Connection> stream,
             PlacementFn on_placement);

  // Dies after so many more actions.
  void DieAfter(uint64_t actions) { actions_left_ = actions; }
  bool dead() const { return dead_; }
  const ClusterState& state() const { return *state_; }
  ClusterSnapshot Snapshot() const { return state_->Snapshot(world_->Now()); }
  Process process() const { return process_; }
  const ClusterSettings& settings() const { return settings_; }

 private:
  struct WatchStream {
    std::shared_ptr<Connection> stream;
    PlacementFn on_placement;
    MemberId member;
    std::deque<SendPlacementAction> queue;  // unsent
    bool writing = false;
  };
  void Tick();
  void Step(const ClusterEvent& event);
  void Work();
  bool Perform(const ClusterAction& action);  // false: the disk does not take it yet
  void Send(const SendPlacementAction& send);
  void Advance(uint64_t watch);
  void NoteEpochs(const Actions& actions);

  World* const world_;
  const uint32_t node_;
  const ClusterSettings settings_;
  Disk* const disk_;
  AnnouncementChecker* const checker_;
  const CoordinatorBug bug_;
  Process process_;
  std::unique_ptr<ClusterState> state_;
  uint64_t next_number_ = 1;
  std::map<uint64_t, RegisterDone> registers_;
  std::map<uint64_t, HeartbeatDone> heartbeats_;
  std::map<uint64_t, WatchStream> watches_;
  std::deque<ClusterEvent> events_;
  std::deque<ClusterAction> actions_;  // of the event that is being handled
  bool waiting_for_disk_ = false;
  std::optional<uint64_t> actions_left_;
  bool dead_ = false;
};

}  // namespace octet::sim

#endif  // OCTET_TESTS_SIM_COORDINATOR_H_
