// What the coordinator's state machine is told and what it wants done. No I/O.
#ifndef OCTET_COORDINATOR_CLUSTER_EVENTS_H_
#define OCTET_COORDINATOR_CLUSTER_EVENTS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/cluster_types.h"
#include "core/log.h"
#include "core/placement.h"

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
  MemberState state = MemberState::kLoading;  // loading, ready, draining or damaged
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
  std::vector<MemberId> damaged;  // workers that found their weights damaged of late
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

}  // namespace octet

#endif  // OCTET_COORDINATOR_CLUSTER_EVENTS_H_
