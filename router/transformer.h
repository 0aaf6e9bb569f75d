// The forward pass of a batch: embedding, layers, final norm, head.
#ifndef OCTET_ROUTER_TRANSFORMER_H_
#define OCTET_ROUTER_TRANSFORMER_H_

#include <cstddef>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "core/batch.h"
#include "core/clock.h"
#include "core/model_config.h"
#include "core/wire_format.h"
#include "kernels/exec_context.h"
#include "model/model_package.h"
#include "router/attention.h"
#include "router/forward_pass.h"
#include "router/gate_statistics.h"
#include "router/kv_cache.h"
#include "router/moe_layer.h"
#include "router/step_buffers.h"
#include "transport/token_dispatcher.h"

namespace octet {

// What the bits of a model's logits depend on.
struct TransformerModel {
  ModelConfig config;
  std::vector<WireFormat> wire_formats;  // [layer]
  ExpertNumerics numerics = ExpertNumerics::kExact;
  RouterWeights weights;
};

// Configuration, wire formats and mapped weights of a package.
TransformerModel MakeTransformerModel(const ModelPackage& package, RouterWeights weights);

// Sizes of the buffers.
struct TransformerLimits {
  size_t rows_max = 512;
  size_t sequences_max = 64;
  size_t logit_rows_max = 64;  // of one call of Logits
};

// The forward pass on the host.
class Transformer final : public ForwardPass {
 public:
  // `cache`, `dispatcher`, what ctx points at and `statistics` (told what the gates choose; may be
  // null) outlive the transformer.
  Transformer(TransformerModel model, const TransformerLimits& limits, KvCache* cache,
              TokenDispatcher* dispatcher, const ExecContext& ctx,
              GateStatistics* statistics = nullptr);

  absl::Status Forward(const Batch& batch, size_t micro_batches, MonotonicTime give_up) override;
  absl::StatusOr<ConstTensorF32> Logits(const Batch& batch, size_t begin, size_t count) override;
  WorkerUse TakeWorkerUse() override { return dispatcher_->TakeUse(); }
  const ModelConfig& config() const override { return model_.config; }
  size_t logit_rows_max() const override { return limits_.logit_rows_max; }
  const ExecContext& context() const override { return ctx_; }

 private:
  // Cuts the rows into at most `count` parts; how many it made.
  size_t Split(const Batch& batch, size_t count);
  // Nothing where `handle` is null.
  absl::Status Combine(const LayerRun& run, MicroBatch* part,
                       std::unique_ptr<DispatchHandle>* handle);

  const TransformerModel model_;
  const TransformerLimits limits_;
  KvCache* const cache_;
  TokenDispatcher* const dispatcher_;
  const ExecContext ctx_;
  GateStatistics* const statistics_;
  const RopeTables rope_;
  StepBuffers buffers_;
  RowBuffer logits_;
};

}  // namespace octet

#endif  // OCTET_ROUTER_TRANSFORMER_H_
