#include "expert_worker/expert_ffn.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace octet {

absl::Status RunExpert(const ExecContext& ctx, const MappedExpert& expert, LayerId layer,
                       const ExpertInput& input, absl::Span<const uint32_t> rows, TensorF32 out) {
  if (layer.value() >= expert.layers.size()) {
    return absl::NotFoundError(absl::StrCat("layer ", layer.value(), ": the expert has ",
                                            expert.layers.size(), " layers"));
  }
  const Arena::Scope scope(*ctx.arena);
  ExpertFfn(ctx, expert.layers[layer.value()], input, rows, out);
  return absl::OkStatus();
}

ExpertExecutor::ExpertExecutor(int threads, CpuLevel level, std::vector<int> cores, bool spin)
    : ExpertExecutor(std::make_shared<ThreadPool>(threads, std::move(cores), spin), level) {}

ExpertExecutor::ExpertExecutor(std::shared_ptr<ThreadPool> pool, CpuLevel level)
    : pool_(std::move(pool)) {
  context_.level = level;
  context_.pool = pool_.get();
  context_.arena = &arena_;
}

ExpertFn StoreExpertFn(std::shared_ptr<const ExpertStore> store,
                       std::shared_ptr<ExpertExecutor> executor) {
  return [store = std::move(store), executor = std::move(executor)](
             LayerId layer, ExpertId expert, const ExpertInput& input,
             absl::Span<const uint32_t> rows, TensorF32 out) -> absl::Status {
    const std::shared_ptr<const MappedExpert> weights = store->Find(expert);
    if (weights == nullptr) {
      return absl::NotFoundError(absl::StrCat("expert ", expert.value(), " is not held here"));
    }
    return RunExpert(executor->context(), *weights, layer, input, rows, out);
  };
}

}  // namespace octet
