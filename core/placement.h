// Which workers hold which expert. Immutable once built, numbered by an epoch, shared by pointer
// between the control plane (which makes it) and the data plane (which plans with it).
#ifndef OCTET_CORE_PLACEMENT_H_
#define OCTET_CORE_PLACEMENT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "core/ids.h"
#include "core/worker_speed.h"

namespace octet {

struct PlacedWorker {
  WorkerId id;
  std::string address;  // host:port of its expert service; empty for the in-process worker
  uint32_t speed = kWorkerSpeedEqual;  // 1 to kWorkerSpeedMax
};

// An expert is placed as a whole, with the weights of all its layers. The lookup still takes the
// layer, so that a per-layer table can come without a change to the callers.
struct Placement {
  Epoch epoch;
  // Weights + formats + numerics version + device profile; 64 hexadecimal characters.
  std::string compute_digest;
  std::string model_version;
  std::vector<PlacedWorker> workers;                   // sorted by id
  std::vector<std::vector<WorkerId>> expert_replicas;  // [expert], preferred replica first

  const std::vector<WorkerId>& Replicas(LayerId /*layer*/, ExpertId expert) const {
    return expert_replicas[expert.value()];
  }
  const PlacedWorker* FindWorker(WorkerId id) const;
  // True when every expert has at least one replica.
  bool Complete() const;
};

// The experts that `worker` is a replica of, ascending.
std::vector<ExpertId> ExpertsOf(const Placement& placement, WorkerId worker);

}  // namespace octet

#endif  // OCTET_CORE_PLACEMENT_H_
