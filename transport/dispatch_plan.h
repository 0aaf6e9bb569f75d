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

namespace octet {

// Rows of one expert, as indices into the step's rows, ascending. slot_index[i] = row * k + slot
// says where reply row i belongs.
struct ExpertGroup {
  ExpertId expert;
  std::vector<uint32_t> rows;
  std::vector<uint32_t> slot_index;
};

// What one worker gets in one dispatch: each row once, however many of its experts need it.
struct WorkerShare {
  WorkerId worker;
  std::vector<uint32_t> rows;       // indices into the step's rows, ascending, unique
  std::vector<ExpertGroup> groups;  // ascending by expert
  // groups[g].rows mapped to indices into `rows`.
  std::vector<std::vector<uint32_t>> local_rows;
};

struct DispatchPlan {
  Epoch epoch;
  std::vector<WorkerShare> shares;       // ascending by worker
  std::vector<ExpertGroup> unplaceable;  // experts without a usable replica
};

// Groups the step's (row, slot) pairs by expert. Ascending by expert; experts without rows are left
// out.
std::vector<ExpertGroup> GroupByExpert(const TopK& choice);

// Chooses one replica per expert and builds the shares. `usable(worker)` is the router's own view
// of health. Among usable replicas the one with the fewest rows planned so far wins, ties to the
// earlier replica in the placement: deterministic. Results never depend on the choice (experts are
// pure), only time does.
DispatchPlan BuildDispatchPlan(std::vector<ExpertGroup> groups, const Placement& placement,
                               LayerId layer, absl::FunctionRef<bool(WorkerId)> usable);

}  // namespace octet

#endif  // OCTET_TRANSPORT_DISPATCH_PLAN_H_
