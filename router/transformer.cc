#include "router/transformer.h"

#include <algorithm>
#include <utility>

#include "core/check.h"
#include "core/status_macros.h"
#include "router/moe_layer.h"

namespace octet {

StepBuffers::StepBuffers(const ModelConfig& config, const std::vector<WireFormat>& wire_formats,
                         size_t rows_max, size_t sequences_max)
    : x(rows_max, config.hidden),
      normed(rows_max, config.hidden),
      q(rows_max, size_t{config.heads} * config.head_dim),
      k(rows_max, size_t{config.kv_heads} * config.head_dim),
      v(rows_max, size_t{config.kv_heads} * config.head_dim),
      attended(rows_max, size_t{config.heads} * config.head_dim),
      projected(rows_max, config.hidden),
      experts(rows_max * config.top_k),
      expert_weights(rows_max * config.top_k) {
  size_t padded = 0, groups = 0;
  for (const WireFormat& format : wire_formats) {
    if (!format.is_integer()) continue;
    padded = std::max(padded, format.padded_hidden());
    groups = std::max(groups, format.groups());
  }
  wire_q = AlignedBuffer<int8_t>(rows_max * padded);
  wire_scales = AlignedBuffer<float>(rows_max * groups);
  replies.reserve(rows_max * config.top_k);
  sequences.reserve(sequences_max);
}

TransformerModel MakeTransformerModel(const ModelPackage& package, RouterWeights weights) {
  TransformerModel model;
  model.config = package.config();
  for (uint32_t layer = 0; layer < model.config.layers; ++layer) {
    model.wire_formats.push_back(package.wire_format(LayerId(layer)));
  }
  model.weights = std::move(weights);
  return model;
}

Transformer::Transformer(TransformerModel model, const TransformerLimits& limits, KvCache* cache,
                         TokenDispatcher* dispatcher, const ExecContext& ctx,
                         GateStatistics* statistics)
    : model_(std::move(model)),
      limits_(limits),
      cache_(cache),
      dispatcher_(dispatcher),
      ctx_(ctx),
      statistics_(statistics),
      rope_(model_.config, std::min<size_t>(cache->positions(), model_.config.context)),
      buffers_(model_.config, model_.wire_formats, limits.rows_max, limits.sequences_max),
      logits_(limits.logit_rows_max, model_.config.vocab) {
  OCTET_CHECK_EQ(model_.wire_formats.size(), model_.config.layers);
  OCTET_CHECK_EQ(model_.weights.layers.size(), model_.config.layers);
}

absl::Status Transformer::Forward(const Batch& batch, MonotonicTime give_up) {
  const size_t rows = batch.rows();
  OCTET_CHECK(rows > 0 && rows <= limits_.rows_max);
  buffers_.sequences.clear();
  for (const BatchSequence& s : batch.sequences) {
    buffers_.sequences.push_back(
        {s.row_begin, s.rows, s.position_begin, absl::MakeConstSpan(s.blocks, s.block_count)});
  }
  EmbedRows(ctx_, model_.weights.embedding, batch.tokens, buffers_.x.rows(rows));
  for (uint32_t i = 0; i < model_.config.layers; ++i) {
    const RouterLayerWeights& weights = model_.weights.layers[i];
    AttentionBlock(ctx_, model_.config, weights, cache_->layer(LayerId(i)), rope_, batch.positions,
                   &buffers_);
    const LayerRun run{batch.step, LayerId(i),  batch.prefill,
                       give_up,    statistics_, batch.positions};
    OCTET_RETURN_IF_ERROR(MoeBlock(ctx_, model_.config, weights, model_.wire_formats[i],
                                   dispatcher_, run, rows, &buffers_));
  }
  return absl::OkStatus();
}

ConstTensorF32 Transformer::Logits(const Batch& batch, size_t begin, size_t count) {
  OCTET_CHECK_LE(count, limits_.logit_rows_max);
  OCTET_CHECK_LE(begin + count, batch.logit_rows.size());
  // The layers are done with this buffer, and x must stay for the next slice.
  const TensorF32 wanted = buffers_.normed.rows(count);
  const TensorF32 logits = logits_.rows(count);
  for (size_t i = 0; i < count; ++i) {
    const float* row = buffers_.x.rows(batch.rows()).row(batch.logit_rows[begin + i]);
    std::copy_n(row, model_.config.hidden, wanted.row(i));
  }
  RmsNorm(ctx_, wanted, model_.weights.final_norm, model_.config.rms_eps, wanted);
  MatMul(ctx_, model_.weights.head, wanted, logits);
  return logits;
}

}  // namespace octet
