// The expert half of a layer: gate, dispatch, combine.
#ifndef OCTET_ROUTER_MOE_LAYER_H_
#define OCTET_ROUTER_MOE_LAYER_H_

#include <memory>

#include "absl/status/status.h"
#include "core/clock.h"
#include "core/ids.h"
#include "core/model_config.h"
#include "core/wire_format.h"
#include "kernels/kernels.h"
#include "model/model_package.h"
#include "router/gate_statistics.h"
#include "router/step_buffers.h"
#include "transport/token_dispatcher.h"

namespace octet {

// Which experts compute each row, and with which weight. A dense model has one expert with weight
// exactly 1, so that it takes the same path and gives the same bits as without a gate.
void Gate(const ExecContext& ctx, const ModelConfig& config, const RouterLayerWeights& weights,
          ConstTensorF32 x, const TopK& out);

// Where in which step a layer runs.
struct LayerRun {
  StepId step;
  LayerId layer;
  bool prefill = false;
  MonotonicTime give_up = kNever;
  GateStatistics* statistics = nullptr;  // told what the gate chose, where there is one
};

// Sends n = rms_norm(x) of the part's rows to the experts that the gate chooses for them, in
// `wire`, on every transport the same. Returns without waiting for the experts. The part stays as
// it is until the matching MoeCombine.
std::unique_ptr<DispatchHandle> MoeDispatch(const ExecContext& ctx, const ModelConfig& config,
                                            const RouterLayerWeights& weights,
                                            const WireFormat& wire, TokenDispatcher* dispatcher,
                                            const LayerRun& run, const MicroBatch& part);

// x += sum over the chosen experts of weight * expert(n). Blocks until the experts have answered.
// UNAVAILABLE (no replica until run.give_up) and CANCELLED as TokenDispatcher::Combine; x is then
// unchanged.
absl::Status MoeCombine(const ExecContext& ctx, const ModelConfig& config,
                        TokenDispatcher* dispatcher, const LayerRun& run, DispatchHandle& handle,
                        MicroBatch* part);

}  // namespace octet

#endif  // OCTET_ROUTER_MOE_LAYER_H_
