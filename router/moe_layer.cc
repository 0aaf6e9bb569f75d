#include "router/moe_layer.h"

#include <algorithm>
#include <memory>

#include "core/status_macros.h"

namespace octet {

namespace {

// The rows as experts get them.
WireRows EncodeRows(const ExecContext& ctx, const WireFormat& format, ConstTensorF32 x,
                    StepBuffers* buffers) {
  WireRows wire;
  wire.format = format;
  wire.rows = x.rows;
  if (!format.is_integer()) {
    wire.f32 = x;
    return wire;
  }
  wire.q.rows = x.rows;
  wire.q.padded_k = format.padded_hidden();
  wire.q.group = format.activation_group;
  wire.q.q = buffers->wire_q.data();
  wire.q.scales = buffers->wire_scales.data();
  QuantizeRows(ctx, x, wire.q);
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
                  const RouterLayerWeights& weights, const LayerRun& run, ConstTensorF32 x,
                  TopK choice) {
  const Arena::Scope scope(*ctx.arena);
  choice.probabilities = ctx.arena->Alloc<float>(x.rows * config.experts);
  Gate(ctx, config, weights, x, choice);
  run.statistics->Add(run.layer, run.positions, choice);
}

}  // namespace

absl::Status MoeBlock(const ExecContext& ctx, const ModelConfig& config,
                      const RouterLayerWeights& weights, const WireFormat& wire,
                      TokenDispatcher* dispatcher, const LayerRun& run, size_t rows,
                      StepBuffers* buffers) {
  const TensorF32 x = buffers->x.rows(rows);
  const TensorF32 normed = buffers->normed.rows(rows);
  const TopK choice{rows, config.top_k, buffers->experts.data(), buffers->expert_weights.data()};

  RmsNorm(ctx, x, weights.ffn_norm, config.rms_eps, normed);
  if (run.statistics == nullptr) {
    Gate(ctx, config, weights, normed, choice);
  } else {
    GateAndCount(ctx, config, weights, run, normed, choice);
  }
  const WireRows wire_rows = EncodeRows(ctx, wire, normed, buffers);
  const std::unique_ptr<DispatchHandle> handle =
      dispatcher->Dispatch(run.step, /*micro_batch=*/0, run.layer, run.prefill, wire_rows, choice);
  OCTET_RETURN_IF_ERROR(dispatcher->Combine(*handle, run.give_up, &buffers->replies));
  CombineExperts(ctx, x, choice.k, choice.weights, buffers->replies.data(), x);
  return absl::OkStatus();
}

}  // namespace octet
