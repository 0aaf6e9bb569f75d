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
                    const MicroBatch& part) {
  RmsNorm(ctx, part.x, weights.attention_norm, config.rms_eps, part.normed);
  MatMulShared(ctx, part.normed,
               {{&weights.q, part.q}, {&weights.k, part.k}, {&weights.v, part.v}});
  ApplyRope(ctx, rope.cos.data(), rope.sin.data(), config.head_dim, part.positions, part.q);
  ApplyRope(ctx, rope.cos.data(), rope.sin.data(), config.head_dim, part.positions, part.k);
  AppendKv(ctx, cache, part.sequences, part.k, part.v);
  PagedAttention(ctx, cache, part.sequences, config.heads, config.sliding_window, part.q,
                 part.attended);
  MatMul(ctx, weights.o, part.attended, part.projected);
  AddRows(ctx, part.projected, part.x);
}

}  // namespace octet
