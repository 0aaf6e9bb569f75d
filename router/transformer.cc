#include "router/transformer.h"

#include <algorithm>
#include <utility>

#include "core/check.h"
#include "core/status_macros.h"

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
      expert_weights(rows_max * config.top_k),
      top_k(config.top_k) {
  for (const WireFormat& format : wire_formats) {
    if (!format.is_integer()) continue;
    wire_row_bytes = std::max(wire_row_bytes, format.padded_hidden());
    wire_row_scales = std::max(wire_row_scales, format.groups());
  }
  wire_q = AlignedBuffer<int8_t>(rows_max * wire_row_bytes);
  wire_scales = AlignedBuffer<float>(rows_max * wire_row_scales);
  for (MicroBatch& part : parts) {
    part.replies.reserve(rows_max * top_k);
    part.sequences.reserve(sequences_max);
  }
}

MicroBatch* StepBuffers::Slice(const Batch& batch, uint32_t index, size_t begin, size_t end) {
  OCTET_CHECK(index < kMicroBatchesMax && begin < end && end <= batch.rows());
  MicroBatch* const part = &parts[index];
  const size_t rows = end - begin;
  part->index = index;
  part->rows = rows;
  part->positions = absl::MakeConstSpan(batch.positions).subspan(begin, rows);
  part->x = x.slice(begin, rows);
  part->normed = normed.slice(begin, rows);
  part->q = q.slice(begin, rows);
  part->k = k.slice(begin, rows);
  part->v = v.slice(begin, rows);
  part->attended = attended.slice(begin, rows);
  part->projected = projected.slice(begin, rows);
  part->wire_q = wire_q.data() + begin * wire_row_bytes;
  part->wire_scales = wire_scales.data() + begin * wire_row_scales;
  part->experts = experts.data() + begin * top_k;
  part->expert_weights = expert_weights.data() + begin * top_k;
  part->sequences.clear();
  for (const BatchSequence& s : batch.sequences) {
    const size_t from = std::max(s.row_begin, begin);
    const size_t to = std::min(s.row_begin + s.rows, end);
    if (from >= to) continue;
    const auto skipped = static_cast<uint32_t>(from - s.row_begin);
    part->sequences.push_back({from - begin, to - from, s.position_begin + skipped,
                               absl::MakeConstSpan(s.blocks, s.block_count)});
  }
  return part;
}

TransformerModel MakeTransformerModel(const ModelPackage& package, RouterWeights weights) {
  TransformerModel model;
  model.config = package.config();
  for (uint32_t layer = 0; layer < model.config.layers; ++layer) {
    model.wire_formats.push_back(package.wire_format(LayerId(layer)));
  }
  model.numerics = package.numerics();
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

size_t Transformer::Split(const Batch& batch, size_t count) {
  const size_t rows = batch.rows();
  count = std::min({count, rows, kMicroBatchesMax});
  for (size_t i = 0; i < count; ++i) {
    buffers_.Slice(batch, static_cast<uint32_t>(i), rows * i / count, rows * (i + 1) / count);
  }
  return count;
}

absl::Status Transformer::Forward(const Batch& batch, size_t micro_batches, MonotonicTime give_up) {
  const size_t rows = batch.rows();
  OCTET_CHECK(rows > 0 && rows <= limits_.rows_max);
  const size_t parts = Split(batch, micro_batches);
  EmbedRows(ctx_, model_.weights.embedding, batch.tokens, buffers_.x.rows(rows));
  // Of each part, from its dispatch to its combine in the layer after. Declared last: what is still
  // in flight on an early return is cancelled before anything it uses changes.
  std::unique_ptr<DispatchHandle> handles[kMicroBatchesMax];
  LayerRun run{batch.step, LayerId(0), batch.prefill, give_up, statistics_};
  for (uint32_t i = 0; i < model_.config.layers; ++i) {
    const RouterLayerWeights& weights = model_.weights.layers[i];
    for (size_t p = 0; p < parts; ++p) {
      MicroBatch* const part = &buffers_.parts[p];
      OCTET_RETURN_IF_ERROR(Combine(run, part, &handles[p]));
      run.layer = LayerId(i);
      AttentionBlock(ctx_, model_.config, weights, cache_->layer(LayerId(i)), rope_, *part);
      handles[p] = MoeDispatch(ctx_, model_.config, weights, model_.wire_formats[i], dispatcher_,
                               run, *part);
    }
  }
  for (size_t p = 0; p < parts; ++p) {
    OCTET_RETURN_IF_ERROR(Combine(run, &buffers_.parts[p], &handles[p]));
  }
  return absl::OkStatus();
}

absl::Status Transformer::Combine(const LayerRun& run, MicroBatch* part,
                                  std::unique_ptr<DispatchHandle>* handle) {
  if (*handle == nullptr) return absl::OkStatus();
  OCTET_RETURN_IF_ERROR(MoeCombine(ctx_, model_.config, dispatcher_, run, **handle, part));
  handle->reset();
  return absl::OkStatus();
}

absl::StatusOr<ConstTensorF32> Transformer::Logits(const Batch& batch, size_t begin, size_t count) {
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
  return ConstTensorF32(logits);
}

}  // namespace octet
