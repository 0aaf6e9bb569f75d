#include "router/attention.h"

#include <initializer_list>
#include <utility>

namespace octet {

namespace {

// y = x Wᵀ for several matrices over the same x: x is quantised once for all that want the same
// groups.
void MatMulShared(const ExecContext& ctx, ConstTensorF32 x,
                  std::initializer_list<std::pair<const PackedWeights*, TensorF32>> products) {
  Arena::Scope scope(*ctx.arena);
  QuantizedRows quantised;
  for (const auto& [weights, y] : products) {
    if (!weights->format.is_integer()) {
      MatMulFloat(ctx, *weights, x, y);
      continue;
    }
    if (quantised.group != ActivationGroup(weights->format, x.cols)) {
      quantised = AllocQuantizedRows(ctx, weights->format, x.rows, x.cols);
      QuantizeRows(ctx, x, quantised);
    }
    MatMulInt(ctx, *weights, quantised, y);
  }
}

}  // namespace

RopeTables::RopeTables(const ModelConfig& config, size_t positions)
    : cos(positions * config.head_dim / 2), sin(positions * config.head_dim / 2) {
  FillRopeTable(config.rope_theta, config.head_dim, positions, cos.data(), sin.data());
}

void AttentionBlock(const ExecContext& ctx, const ModelConfig& config,
                    const RouterLayerWeights& weights, const KvLayer& cache, const RopeTables& rope,
                    absl::Span<const uint32_t> positions, StepBuffers* buffers) {
  const size_t rows = positions.size();
  const TensorF32 x = buffers->x.rows(rows);
  const TensorF32 normed = buffers->normed.rows(rows);
  const TensorF32 q = buffers->q.rows(rows);
  const TensorF32 k = buffers->k.rows(rows);
  const TensorF32 v = buffers->v.rows(rows);
  const TensorF32 attended = buffers->attended.rows(rows);
  const TensorF32 projected = buffers->projected.rows(rows);

  RmsNorm(ctx, x, weights.attention_norm, config.rms_eps, normed);
  MatMulShared(ctx, normed, {{&weights.q, q}, {&weights.k, k}, {&weights.v, v}});
  ApplyRope(ctx, rope.cos.data(), rope.sin.data(), config.head_dim, positions, q);
  ApplyRope(ctx, rope.cos.data(), rope.sin.data(), config.head_dim, positions, k);
  AppendKv(ctx, cache, buffers->sequences, k, v);
  PagedAttention(ctx, cache, buffers->sequences, config.heads, config.sliding_window, q, attended);
  MatMul(ctx, weights.o, attended, projected);
  AddRows(ctx, projected, x);
}

}  // namespace octet
