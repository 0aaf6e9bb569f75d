#include "router/moe_layer.h"

#include <algorithm>
#include <memory>

#include "core/status_macros.h"

namespace octet {

namespace {

// The rows as experts get them.
WireRows EncodeRows(const ExecContext& ctx, const WireFormat& format, const MicroBatch& part) {
  WireRows wire;
  wire.format = format;
  wire.rows = part.rows;
  if (!format.is_integer()) {
    wire.f32 = part.normed;
    return wire;
  }
  wire.q.rows = part.rows;
  wire.q.padded_k = format.padded_hidden();
  wire.q.group = format.activation_group;
  wire.q.q = part.wire_q;
  wire.q.scales = part.wire_scales;
  QuantizeRows(ctx, part.normed, wire.q);
  return wire;
}

}  // namespace

void Gate(const ExecContext& ctx, const ModelConfig& config, const RouterLayerWeights& weights,
          ConstTensorF32 x, const TopK& out) {
  switch (config.gate) {
    case GateKind::kNone:
      std::fill_n(out.experts, out.rows * out.k, 0u);
      std::fill_n(out.weights, out.rows * out.k, 1.0f);
      if (out.probabilities != nullptr) std::fill_n(out.probabilities, out.rows, 1.0f);
      return;
    case GateKind::kLinear:
      GateLinear(ctx, weights.gate, x, out);
      return;
    case GateKind::kAttention:
      GateAttention(ctx, weights.gate_q, weights.gate_k, weights.gate_v, x, out);
      return;
  }
}

namespace {

void GateAndCount(const ExecContext& ctx, const ModelConfig& config,
                  const RouterLayerWeights& weights, const LayerRun& run, const MicroBatch& part,
                  TopK choice) {
  const Arena::Scope scope(*ctx.arena);
  choice.probabilities = ctx.arena->Alloc<float>(part.rows * config.experts);
  Gate(ctx, config, weights, part.normed, choice);
  run.statistics->Add(run.layer, part.positions, choice);
}

}  // namespace

std::unique_ptr<DispatchHandle> MoeDispatch(const ExecContext& ctx, const ModelConfig& config,
                                            const RouterLayerWeights& weights,
                                            const WireFormat& wire, TokenDispatcher* dispatcher,
                                            const LayerRun& run, const MicroBatch& part) {
  const TopK choice{part.rows, config.top_k, part.experts, part.expert_weights};
  RmsNorm(ctx, part.x, weights.ffn_norm, config.rms_eps, part.normed);
  if (run.statistics == nullptr) {
    Gate(ctx, config, weights, part.normed, choice);
  } else {
    GateAndCount(ctx, config, weights, run, part, choice);
  }
  return dispatcher->Dispatch(run.step, part.index, run.layer, run.prefill,
                              EncodeRows(ctx, wire, part), choice);
}

absl::Status MoeCombine(const ExecContext& ctx, const ModelConfig& config,
                        TokenDispatcher* dispatcher, const LayerRun& run, DispatchHandle& handle,
                        MicroBatch* part) {
  OCTET_RETURN_IF_ERROR(dispatcher->Combine(handle, run.give_up, &part->replies));
  CombineExperts(ctx, part->x, config.top_k, part->expert_weights, part->replies.data(), part->x);
  return absl::OkStatus();
}

}  // namespace octet
