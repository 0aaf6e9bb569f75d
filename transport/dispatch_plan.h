// Which rows go to which worker for which expert: a pure function of the gate's choice and the
// placement.
#ifndef OCTET_TRANSPORT_DISPATCH_PLAN_H_
#define OCTET_TRANSPORT_DISPATCH_PLAN_H_

#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"
#include "core/ids.h"
#include "core/placement.h"
#include "kernels/kernels.h"
#include "transport/replica_choice.h"

namespace octet {

// Rows of one expert, or some of them, as indices into the step's rows, ascending, not empty.
// slot_index[i] = row * k + slot says where reply row i belongs.
struct ExpertGroup {
  ExpertId expert;
  std::vector<uint32_t> rows;
  std::vector<uint32_t> slot_index;

  // Orders the parts of a step: each slot is in one of them.
  friend bool operator<(const ExpertGroup& a, const ExpertGroup& b) {
    return a.expert != b.expert ? a.expert < b.expert : a.slot_index.front() < b.slot_index.front();
  }
};

// What one worker gets in one dispatch: each row once, however many of its experts need it.
struct WorkerShare {
  WorkerId worker;
  std::vector<uint32_t> rows;       // indices into the step's rows, ascending, unique
  std::vector<ExpertGroup> groups;  // ascending by expert, unique
  // groups[g].rows mapped to indices into `rows`.
  std::vector<std::vector<uint32_t>> local_rows;
};

struct DispatchPlan {
  Epoch epoch;
  std::vector<WorkerShare> shares;       // ascending by worker; of one worker several only where
                                         // it got parts of an expert that were apart before
  std::vector<ExpertGroup> unplaceable;  // experts without a usable replica
};

// Groups the step's (row, slot) pairs by expert. Ascending by expert; experts without rows are left
// out.
std::vector<ExpertGroup> GroupByExpert(const TopK& choice);

// What ChooseReplicas has to know of placement.workers. Their hosts are numbered in their order:
// what stands before the port of the address; a worker without an address is alone on its own.
std::vector<ReplicaWorker> ReplicaWorkersOf(const Placement& placement);

struct ReplicaPolicy {
  ReplicaCosts costs;
  // ReplicaWorkersOf the placement.
  absl::Span<const ReplicaWorker> workers;
  // The rows of a group may be divided.
  bool may_split = false;
};

// Chooses replicas by ChooseReplicas and builds the shares. `groups` are sorted. `usable(worker)`
// is the router's own view of health. Deterministic. Results never depend on the choice (experts
// are pure), only time does.
DispatchPlan BuildDispatchPlan(std::vector<ExpertGroup> groups, const Placement& placement,
                               LayerId layer, const ReplicaPolicy& policy,
                               absl::FunctionRef<bool(WorkerId)> usable);

}  // namespace octet

#endif  // OCTET_TRANSPORT_DISPATCH_PLAN_H_
