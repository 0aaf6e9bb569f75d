#include "expert_worker/local_experts.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/limits.h"
#include "core/status_macros.h"
#include "expert_worker/expert_ffn.h"
#include "expert_worker/expert_store.h"
#include "transport/local/local_link.h"

namespace octet {

absl::StatusOr<LocalExperts> MakeLocalExperts(WorkerModel model,
                                              const LocalExpertsOptions& options) {
  if (options.workers < 1 || options.workers > kWorkersMax || options.replication < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("workers: ", options.workers, ", allowed are 1 to ", kWorkersMax,
                     "; replication: ", options.replication, ", must be at least 1"));
  }
  auto store = std::make_shared<ExpertStore>(std::move(model));
  std::vector<ExpertId> all;
  for (uint32_t e = 0; e < store->model().experts; ++e) all.emplace_back(e);
  OCTET_RETURN_IF_ERROR(store->Prepare(Epoch(1), all));
  OCTET_RETURN_IF_ERROR(store->Activate(Epoch(1)));

  auto placement = std::make_shared<Placement>();
  placement->epoch = Epoch(1);
  placement->compute_digest = store->model().compute_digest;
  placement->model_version = store->model().model_version;
  for (uint64_t w = 1; w <= options.workers; ++w) placement->workers.push_back({WorkerId(w), ""});
  for (uint32_t e = 0; e < store->model().experts; ++e) {
    std::vector<WorkerId> replicas;
    for (uint32_t r = 0; r < std::min(options.replication, options.workers); ++r) {
      replicas.emplace_back((e + r) % options.workers + 1);
    }
    placement->expert_replicas.push_back(std::move(replicas));
  }
  auto executor = options.pool != nullptr
                      ? std::make_shared<ExpertExecutor>(options.pool, options.cpu_level)
                      : std::make_shared<ExpertExecutor>(options.threads, options.cpu_level);
  const ExpertFn fn = StoreExpertFn(std::move(store), std::move(executor));
  LocalExperts local;
  local.links = [fn](const PlacedWorker&) { return std::make_shared<LocalLink>(fn); };
  local.placement = std::move(placement);
  return local;
}

}  // namespace octet
