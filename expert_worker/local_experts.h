// All experts of a model in this process, behind the same links and placement as remote ones.
#ifndef OCTET_EXPERT_WORKER_LOCAL_EXPERTS_H_
#define OCTET_EXPERT_WORKER_LOCAL_EXPERTS_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "core/placement.h"
#include "expert_worker/worker_model.h"
#include "kernels/exec_context.h"
#include "transport/token_dispatcher.h"

namespace octet {

struct LocalExpertsOptions {
  int threads = 1;
  // In place of `threads`: the pool of the router in this process. Two pools would spin against
  // each other, as attention and experts take turns.
  std::shared_ptr<ThreadPool> pool;
  CpuLevel cpu_level = CpuLevel::kScalar;
  // Workers to pretend: expert e is on workers e, e + 1, .. e + replication - 1 (mod workers).
  // Changes no bit of a result.
  uint32_t workers = 1;
  uint32_t replication = 1;
};

struct LocalExperts {
  LinkFactory links;  // LocalLinks that share one executor: for one dispatcher
  std::shared_ptr<const Placement> placement;  // epoch 1
};

// Maps and verifies every expert. Blocks.
absl::StatusOr<LocalExperts> MakeLocalExperts(WorkerModel model,
                                              const LocalExpertsOptions& options);

}  // namespace octet

#endif  // OCTET_EXPERT_WORKER_LOCAL_EXPERTS_H_
