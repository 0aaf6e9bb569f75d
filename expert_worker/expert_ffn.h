// The computation of an expert on mapped weights, for the worker and for a router that has its
// experts in its own process.
#ifndef OCTET_EXPERT_WORKER_EXPERT_FFN_H_
#define OCTET_EXPERT_WORKER_EXPERT_FFN_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "expert_worker/expert_store.h"
#include "kernels/kernels.h"
#include "transport/expert_fn.h"

namespace octet {

// out[i] = expert(input row rows[i]) in `layer`; scratch memory comes from ctx.arena and is given
// back. `input` is in the layer's wire format.
absl::Status RunExpert(const ExecContext& ctx, const MappedExpert& expert, LayerId layer,
                       const ExpertInput& input, absl::Span<const uint32_t> rows, TensorF32 out);

// An execution context with a pool and an arena of its own. Belongs to one thread at a time.
class ExpertExecutor {
 public:
  ExpertExecutor(int threads, CpuLevel level, std::vector<int> cores = {}, bool spin = true);
  // Over a pool that it shares with the other kernels of the thread that calls them.
  ExpertExecutor(std::shared_ptr<ThreadPool> pool, CpuLevel level);
  const ExecContext& context() const { return context_; }

 private:
  std::shared_ptr<ThreadPool> pool_;
  Arena arena_;
  ExecContext context_;
};

// Looks the expert up in `store` and runs it; the store and the executor are kept alive.
ExpertFn StoreExpertFn(std::shared_ptr<const ExpertStore> store,
                       std::shared_ptr<ExpertExecutor> executor);

}  // namespace octet

#endif  // OCTET_EXPERT_WORKER_EXPERT_FFN_H_
