// Values shared by the coordinator's state machine, store and service. No protobuf, no gRPC.
#ifndef OCTET_COORDINATOR_CLUSTER_TYPES_H_
#define OCTET_COORDINATOR_CLUSTER_TYPES_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/clock.h"
#include "core/ids.h"
#include "core/limits.h"
#include "core/placement.h"
#include "core/version_limits.h"
#include "core/worker_speed.h"

namespace octet {

// Routers and workers are numbered together; a worker's WorkerId has the same value.
using MemberId = Id<struct MemberTag, uint64_t>;

enum class MemberRole { kRouter = 1, kWorker = 2 };
const char* MemberRoleName(MemberRole role);

// kDamaged: a worker that found its weights damaged, and is about to end.
enum class MemberState { kJoining, kLoading, kReady, kDraining, kLost, kDamaged };
const char* MemberStateName(MemberState state);

enum class PlacementPhase { kPrepare = 1, kActivate = 2, kAbort = 3 };

// What the coordinator knows of a model.
struct ModelSummary {
  std::string compute_digest;  // 64 hexadecimal characters
  std::string model_version;
  std::string name;
  uint32_t experts = 0;
  uint32_t layers = 0;
  uint64_t expert_bytes = 0;  // the largest expert, all layers
  friend bool operator==(const ModelSummary&, const ModelSummary&) = default;
};

struct MemberRecord {
  MemberId id;
  MemberRole role = MemberRole::kWorker;
  std::string address;       // host:port
  uint64_t incarnation = 0;  // of the process; another one means it was restarted
  std::string zone;
  std::string host;
  uint32_t pid = 0;
  uint64_t memory_bytes = 0;  // for experts; 0: no bound
  uint32_t speed = kWorkerSpeedEqual;
  bool draining = false;
  friend bool operator==(const MemberRecord&, const MemberRecord&) = default;
};

// The low bits of a term are drawn at random by each coordinator process, so that no two ever speak
// in the same term, whatever their disks and clocks have forgotten; the bits above grow.
inline constexpr int kTermDrawBits = 20;

// One model version of those that a cluster serves side by side.
struct DurableVersion {
  ModelSummary model;
  std::optional<Placement> active;
  std::vector<MemberRecord> members;  // that are not lost
};

// What outlives a coordinator process.
struct DurableState {
  uint64_t term = 0;  // grows with every start
  Epoch epoch;        // highest ever given out
  uint64_t next_id = 1;
  std::vector<DurableVersion> versions;  // by compute digest
};

struct ClusterSettings {
  uint32_t versions_max = kVersionsDefault;  // served side by side
  uint32_t replication = 1;
  uint32_t extra_replicas = 0;    // for the hottest experts
  uint32_t expected_workers = 0;  // the first placement waits for so many; 0: for `settle`
  // Joins so close together give one placement.
  Duration settle = Duration::Millis(300);
  // The first placement waits at most so long, after the last join, for `expected_workers`.
  Duration expected_wait = Duration::Millis(10'000);
  Duration lease = Duration::Millis(kLeaseMs);
  Duration heartbeat = Duration::Millis(kHeartbeatMs);
  // A worker slower than this to prepare gets nothing new for `freeze`.
  Duration prepare = Duration::Millis(kPrepareMs);
  Duration freeze = Duration::Millis(kPrepareFreezeMs);
};

}  // namespace octet

#endif  // OCTET_COORDINATOR_CLUSTER_TYPES_H_
