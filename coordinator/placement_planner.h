// Decides which worker holds which expert, as one pure function.
//
// The base plan is a chain over an order of the workers that alternates failure domains (zone,
// then host): expert i on positions i, i+1, ... (mod N). From there, in this order of importance:
//  1. memory budgets are kept;
//  2. every expert has a first replica before any has a second, a second before any has a third;
//     whatever the budgets allow is placed (augmenting paths, not greed, decide);
//  3. replicas are in different zones and hosts, while that puts no worker past twice its share;
//  4. workers hold numbers of experts in proportion to their speed, to within one;
//  5. what the previous placement gave, and what workers hold in memory, stays where it is.
// Extra replicas take slots that nothing of 1 and 2 needs, for the experts with the most load per
// replica. One that `previous` gave moves only for an expert with kRebalanceGain times as much
// (core/rebalance_limits.h), so that noise moves nothing.
#ifndef OCTET_COORDINATOR_PLACEMENT_PLANNER_H_
#define OCTET_COORDINATOR_PLACEMENT_PLANNER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/ids.h"
#include "core/placement.h"
#include "core/worker_speed.h"

namespace octet {

struct PlannerWorker {
  WorkerId id;
  std::string zone;            // empty: all such workers share one unnamed zone
  std::string host;            // empty: a host of its own
  uint64_t memory_bytes = 0;   // budget for experts; 0: no bound
  std::vector<ExpertId> held;  // in memory now, cheap to keep
  // False: the worker keeps what `previous` or `held` gives it, but takes nothing new.
  bool accepts_new = true;
  // Against the others; 1 to kWorkerSpeedMax. Its fair share is in proportion to it.
  uint32_t speed = kWorkerSpeedEqual;
};

struct PlannerInput {
  std::vector<PlannerWorker> workers;  // live, in any order
  uint32_t experts = 0;
  uint64_t expert_bytes = 0;
  uint32_t replication = 1;     // replicas wanted of each expert; fewer where workers lack
  uint32_t extra_replicas = 0;  // further ones, for the hottest experts
  std::vector<uint64_t> load;   // rows of late, by expert; empty: unknown
  const Placement* previous = nullptr;
};

struct PlacementPlan {
  std::vector<std::vector<WorkerId>> expert_replicas;  // [expert], preferred first
  std::vector<ExpertId> unplaced;                      // no replica: the budgets do not allow it
  // Fewer replicas than min(replication, workers).
  std::vector<ExpertId> under_replicated;
  uint32_t loads = 0;  // (worker, expert) pairs that are neither in `previous` nor held
};

// Deterministic in its input, whatever the order of `workers`. INVALID_ARGUMENT for 0 or more than
// kExpertsMax experts, replication 0, a repeated id, `load` of a wrong length, a speed of 0 or
// above kWorkerSpeedMax, or more than kWorkersMax workers; FAILED_PRECONDITION without a worker.
absl::StatusOr<PlacementPlan> PlanPlacement(const PlannerInput& input);

// Indices into `workers` in an order in which neighbours are in different zones, then hosts, as far
// as possible. `workers` must be sorted by id for a deterministic result.
std::vector<uint32_t> AlternateDomains(const std::vector<PlannerWorker>& workers);

}  // namespace octet

#endif  // OCTET_COORDINATOR_PLACEMENT_PLANNER_H_
