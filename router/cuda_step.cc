#include "router/cuda_step.h"

#include <algorithm>
#include <cstring>

#include "core/check.h"
#include "core/limits.h"
#include "core/log.h"
#include "core/status_macros.h"
#include "kernels/cuda_library.h"
#include "kernels/cuda_upload.h"
#include "kernels/packed_weights.h"

namespace octet {
namespace {

// Positions are rounded up to this for a graph, which then serves as many steps.
constexpr uint32_t kGraphPositions = 512;
constexpr size_t kGraphsMax = 64;

size_t AlignUp(size_t bytes) { return (bytes + 255) / 256 * 256; }

size_t Codes(const cuda::Matrix& w) { return w.format.is_integer() ? PaddedK(w.format, w.k) : 0; }
size_t Scales(const cuda::Matrix& w) {
  return w.format.is_integer() ? Codes(w) / ActivationGroup(w.format, w.k) : 0;
}

// Activations that share a scale; 0 for float kinds.
size_t Group(const WeightFormat& format, size_t k) {
  return format.is_integer() ? ActivationGroup(format, k) : 0;
}

// Runs `call` unless something went wrong before.
template <typename Call>
void Then(int* error, Call&& call) {
  if (*error == 0) *error = call();
}

}  // namespace

CudaStep::CudaStep(const cuda::CudaApi& api, const CudaModel* model, const cuda::Cache& cache,
                   size_t layer_bytes, const CudaStepLimits& limits)
    : api_(api), model_(*model), cache_(cache), layer_bytes_(layer_bytes), limits_(limits) {}

absl::StatusOr<std::unique_ptr<CudaStep>> CudaStep::Create(const cuda::CudaApi& api,
                                                           const CudaModel* model,
                                                           const cuda::Cache& cache,
                                                           size_t layer_bytes,
                                                           const CudaStepLimits& limits) {
  std::unique_ptr<CudaStep> step(new CudaStep(api, model, cache, layer_bytes, limits));
  OCTET_RETURN_IF_ERROR(step->Status(api.create_stream(&step->stream_), "making a stream"));
  OCTET_RETURN_IF_ERROR(step->Allocate());
  return step;
}

CudaStep::~CudaStep() {
  if (stream_ != nullptr) (void)api_.synchronize(stream_);
  for (const auto& entry : graphs_) api_.destroy_graph(entry.second);
  if (host_input_ != nullptr) api_.release_host(host_input_);
  if (host_logits_ != nullptr) api_.release_host(host_logits_);
  if (stream_ != nullptr) api_.destroy_stream(stream_);
}

absl::Status CudaStep::Status(int error, absl::string_view what) const {
  return CudaStatus(api_, error, what);
}

template <typename T>
absl::Status CudaStep::Take(size_t count, T** out) {
  OCTET_ASSIGN_OR_RETURN(const auto memory,
                         AllocateCuda(api_, count * sizeof(T), "buffers of a step"));
  *out = reinterpret_cast<T*>(memory.get());
  memory_.push_back(memory);
  return absl::OkStatus();
}

size_t CudaStep::MoeScratchBytes(const CudaLayerWeights& layer, size_t entries) const {
  const cuda::ExpertMatrices& e = layer.expert;
  const uint32_t experts = model_.config.experts;
  if (e.gate.format.is_integer()) return api_.moe_scratch_bytes(e, experts, entries);
  return api_.moe_scratch_bytes_bf16(model_.config.hidden, e.gate.n, experts, entries);
}

absl::Status CudaStep::Allocate() {
  const ModelConfig& c = model_.config;
  const size_t rows = limits_.rows_max, entries = rows * c.top_k;
  size_t codes = 0, scales = 0, scratch = 0, moe = 0;
  const auto need = [&](const cuda::Matrix& w, size_t count) {
    codes = std::max(codes, count * Codes(w));
    scales = std::max(scales, count * Scales(w));
    if (w.format.is_integer()) {
      scratch = std::max(scratch, api_.matmul_scratch_bytes(w.format, w.k, count));
    }
  };
  need(model_.head, limits_.logit_rows_max);
  for (const CudaLayerWeights& l : model_.layers) {
    for (const cuda::Matrix* w : {&l.q, &l.k, &l.v, &l.o, &l.gate[0], &l.gate[1], &l.gate[2]}) {
      need(*w, rows);
    }
    if (l.wire_group != 0) {
      codes = std::max(codes, rows * l.wire_padded);
      scales = std::max(scales, rows * (l.wire_padded / l.wire_group));
    }
    if (l.experts != nullptr) {
      moe = std::max(moe, MoeScratchBytes(l, entries));
    }
  }
  const size_t q_width = size_t{c.heads} * c.head_dim, k_width = size_t{c.kv_heads} * c.head_dim;
  OCTET_RETURN_IF_ERROR(Take(rows * c.hidden, &x_));
  OCTET_RETURN_IF_ERROR(Take(rows * c.hidden, &normed_));
  OCTET_RETURN_IF_ERROR(Take(rows * q_width, &query_));
  OCTET_RETURN_IF_ERROR(Take(rows * k_width, &key_));
  OCTET_RETURN_IF_ERROR(Take(rows * k_width, &value_));
  OCTET_RETURN_IF_ERROR(Take(rows * q_width, &attended_));
  OCTET_RETURN_IF_ERROR(Take(rows * c.hidden, &projected_));
  OCTET_RETURN_IF_ERROR(Take(codes, &q_));
  OCTET_RETURN_IF_ERROR(Take(scales, &scales_));
  for (float*& gate : gate_) OCTET_RETURN_IF_ERROR(Take(rows * c.experts, &gate));
  OCTET_RETURN_IF_ERROR(Take(entries, &chosen_));
  OCTET_RETURN_IF_ERROR(Take(entries, &weights_));
  OCTET_RETURN_IF_ERROR(Take(c.experts + 1, &offsets_));
  OCTET_RETURN_IF_ERROR(Take(entries, &sorted_));
  OCTET_RETURN_IF_ERROR(Take(entries, &slots_));
  OCTET_RETURN_IF_ERROR(Take(moe > 0 ? entries * c.hidden : 0, &replies_));
  OCTET_RETURN_IF_ERROR(Take(scratch, &scratch_));
  OCTET_RETURN_IF_ERROR(Take(moe, &moe_scratch_));
  OCTET_RETURN_IF_ERROR(Take(limits_.logit_rows_max * c.hidden, &picked_));
  OCTET_RETURN_IF_ERROR(Take(limits_.logit_rows_max * size_t{c.vocab}, &logits_));

  row_sequence_at_ = AlignUp(rows * sizeof(int32_t));
  sequences_at_ = row_sequence_at_ + AlignUp(rows * sizeof(uint32_t));
  blocks_at_ = sequences_at_ + AlignUp(limits_.sequences_max * sizeof(cuda::Sequence));
  input_bytes_ = blocks_at_ + AlignUp(limits_.blocks_max * sizeof(uint32_t));
  OCTET_RETURN_IF_ERROR(Take(input_bytes_, &input_));
  void* memory = nullptr;
  OCTET_RETURN_IF_ERROR(
      Status(api_.allocate_host(input_bytes_, &memory), "page-locked memory for a step"));
  host_input_ = static_cast<uint8_t*>(memory);
  const size_t logits = limits_.logit_rows_max * size_t{c.vocab} * sizeof(float);
  OCTET_RETURN_IF_ERROR(Status(api_.allocate_host(logits, &memory), "page-locked memory"));
  host_logits_ = static_cast<float*>(memory);
  return absl::OkStatus();
}

absl::Status CudaStep::Begin(const Batch& batch) {
  OCTET_CHECK(batch.rows() > 0 && batch.rows() <= limits_.rows_max);
  OCTET_CHECK_LE(batch.sequences.size(), limits_.sequences_max);
  OCTET_RETURN_IF_ERROR(UseDevice());
  OCTET_RETURN_IF_ERROR(Wait());
  rows_ = batch.rows();
  sequences_ = batch.sequences.size();
  positions_max_ = 0;
  added_ = true;
  std::memcpy(host_input_, batch.tokens.data(), rows_ * sizeof(int32_t));
  auto* row_sequence = reinterpret_cast<uint32_t*>(host_input_ + row_sequence_at_);
  auto* sequences = reinterpret_cast<cuda::Sequence*>(host_input_ + sequences_at_);
  auto* blocks = reinterpret_cast<uint32_t*>(host_input_ + blocks_at_);
  uint32_t block = 0;
  for (size_t i = 0; i < sequences_; ++i) {
    const BatchSequence& s = batch.sequences[i];
    sequences[i] = {static_cast<uint32_t>(s.row_begin), static_cast<uint32_t>(s.rows),
                    s.position_begin, block};
    for (size_t r = 0; r < s.rows; ++r) row_sequence[s.row_begin + r] = static_cast<uint32_t>(i);
    const auto end = static_cast<uint32_t>(s.position_begin + s.rows);
    positions_max_ = std::max(positions_max_, end);
    const uint32_t count = (end + kKvBlockPositions - 1) / kKvBlockPositions;
    OCTET_CHECK(count <= s.block_count && block + count <= limits_.blocks_max);
    for (uint32_t b = 0; b < count; ++b) blocks[block++] = s.blocks[b].value();
  }
  return Status(api_.copy(stream_, input_, host_input_, blocks_at_ + block * sizeof(uint32_t)),
                "sending a step to the device");
}

cuda::Rows CudaStep::StepRows() const {
  cuda::Rows rows;
  rows.rows = static_cast<uint32_t>(rows_);
  rows.sequences = reinterpret_cast<const cuda::Sequence*>(input_ + sequences_at_);
  rows.row_sequence = reinterpret_cast<const uint32_t*>(input_ + row_sequence_at_);
  rows.blocks = reinterpret_cast<const uint32_t*>(input_ + blocks_at_);
  rows.sequence_count = static_cast<uint32_t>(sequences_);
  rows.positions_max = positions_max_;
  return rows;
}

absl::Status CudaStep::ReserveAttention() {
  const ModelConfig& c = model_.config;
  const size_t bytes = api_.attention_scratch_bytes(rows_, c.heads, c.head_dim, positions_max_);
  if (bytes <= attention_scratch_bytes_) return absl::OkStatus();
  // Graphs hold the address.
  OCTET_RETURN_IF_ERROR(Wait());
  for (const auto& entry : graphs_) api_.destroy_graph(entry.second);
  graphs_.clear();
  attention_scratch_.reset();
  attention_scratch_bytes_ = 0;
  OCTET_ASSIGN_OR_RETURN(attention_scratch_, AllocateCuda(api_, bytes, "scratch of attention"));
  attention_scratch_bytes_ = bytes;
  return absl::OkStatus();
}

absl::Status CudaStep::Layers() {
  const bool single = rows_ == sequences_;
  if (single) {
    positions_max_ = (positions_max_ + kGraphPositions - 1) / kGraphPositions * kGraphPositions;
  }
  OCTET_RETURN_IF_ERROR(ReserveAttention());
  if (!single) return Status(EnqueueLayers(), "computing a step");
  const auto key = std::make_pair(rows_, positions_max_);
  const auto known = graphs_.find(key);
  if (known != graphs_.end()) {
    added_ = true;
    return Status(api_.launch_graph(stream_, known->second), "computing a step");
  }
  // The first of its kind runs as it is enqueued, which also loads its kernels; then it is
  // recorded.
  OCTET_RETURN_IF_ERROR(Status(EnqueueLayers(), "computing a step"));
  OCTET_RETURN_IF_ERROR(Wait());
  if (graphs_.size() >= kGraphsMax) {
    for (const auto& entry : graphs_) api_.destroy_graph(entry.second);
    graphs_.clear();
  }
  Record(key);
  return absl::OkStatus();
}

void CudaStep::Record(std::pair<size_t, uint32_t> key) {
  if (!records_) return;
  cuda::Graph graph = nullptr;
  int error = api_.begin_capture(stream_);
  if (error == 0) {
    const int enqueued = EnqueueLayers();
    error = api_.end_capture(stream_, &graph);
    if (error == 0) error = enqueued;
  }
  if (error == 0) {
    graphs_[key] = graph;
    return;
  }
  // The step itself was computed: later ones are enqueued kernel by kernel.
  LogWarning("steps are not recorded as graphs: ", api_.error_text(error));
  if (graph != nullptr) api_.destroy_graph(graph);
  records_ = false;
}

int CudaStep::EnqueueEmbed() {
  return api_.embed_rows(stream_, model_.embedding, reinterpret_cast<const int32_t*>(input_), rows_,
                         x_);
}

int CudaStep::EnqueueLayers() {
  int error = EnqueueEmbed();
  added_ = true;
  for (size_t i = 0; i < model_.layers.size(); ++i) {
    Then(&error, [&] { return EnqueueAttention(i); });
    Then(&error, [&] { return EnqueueGate(i); });
    Then(&error, [&] { return EnqueueExperts(i); });
  }
  // The last layer's experts join x here; those of the others in the norm that follows them.
  if (error == 0 && !added_) {
    error = api_.combine(stream_, x_, rows_, model_.config.hidden, model_.config.top_k, weights_,
                         slots_, replies_, x_);
    added_ = true;
  }
  return error;
}

cuda::NormQuantize CudaStep::Norm(const float* weight, size_t padded_k, size_t group) const {
  cuda::NormQuantize n;
  n.rows = rows_;
  n.cols = model_.config.hidden;
  n.x = x_;
  n.norm_weight = weight;
  n.eps = model_.config.rms_eps;
  n.normed = normed_;
  n.early = true;
  if (group != 0) {
    n.q = q_;
    n.scales = scales_;
    n.padded_k = padded_k;
    n.group = group;
  }
  return n;
}

int CudaStep::Quantize(const float* x, size_t k, size_t rows, size_t padded_k, size_t group) {
  if (group == 0) return 0;
  return api_.quantize_rows(stream_, x, rows, k, k, padded_k, group, q_, scales_);
}

int CudaStep::Quantize(const WeightFormat& format, const float* x, size_t k, size_t rows) {
  return Quantize(x, k, rows, PaddedK(format, k), Group(format, k));
}

int CudaStep::Product(const cuda::Matrix& w, const float* x, size_t rows, float* y) {
  if (w.format.is_integer()) {
    return api_.matmul_int(stream_, w, q_, scales_, rows, scratch_, y, w.n);
  }
  return api_.matmul_float(stream_, w, x, rows, w.k, y, w.n);
}

int CudaStep::EnqueueAttention(size_t layer) {
  const ModelConfig& c = model_.config;
  const CudaLayerWeights& l = model_.layers[layer];
  cuda::NormQuantize norm =
      Norm(l.attention_norm, PaddedK(l.q.format, c.hidden), Group(l.q.format, c.hidden));
  if (!added_) {
    norm.k = c.top_k;
    norm.weights = weights_;
    norm.slots = slots_;
    norm.replies = replies_;
    norm.x_out = x_;
    added_ = true;
  }
  int error = api_.norm_quantize(stream_, norm);
  if (l.q.format == l.k.format && l.q.format == l.v.format && l.q.format.is_integer()) {
    const cuda::MatMulTarget targets[] = {
        {l.q, query_, l.q.n}, {l.k, key_, l.k.n}, {l.v, value_, l.v.n}};
    Then(&error,
         [&] { return api_.matmul_int_many(stream_, targets, 3, q_, scales_, rows_, scratch_); });
  } else {
    const cuda::MatMulTarget products[] = {
        {l.q, query_, l.q.n}, {l.k, key_, l.k.n}, {l.v, value_, l.v.n}};
    for (const cuda::MatMulTarget& p : products) {
      Then(&error, [&] { return Quantize(p.w.format, normed_, c.hidden, rows_); });
      Then(&error, [&] { return Product(p.w, normed_, rows_, p.y); });
    }
  }
  cuda::Cache cache = cache_;
  cache.data += layer * layer_bytes_;
  cuda::RopeAppend rope;
  rope.cos_table = model_.rope_cos;
  rope.sin_table = model_.rope_sin;
  rope.rows = StepRows();
  rope.heads = c.heads;
  rope.q = query_;
  rope.cache = cache;
  rope.k = key_;
  rope.v = value_;
  rope.early = true;
  Then(&error, [&] { return api_.rope_append(stream_, rope); });
  Then(&error, [&] {
    return api_.paged_attention(stream_, cache, StepRows(), c.heads, c.sliding_window, query_,
                                attention_scratch_.get(), attended_);
  });
  Then(&error, [&] { return Quantize(l.o.format, attended_, l.o.k, rows_); });
  Then(&error, [&] { return Product(l.o, attended_, rows_, projected_); });
  return error;
}

int CudaStep::EnqueueGate(size_t layer) {
  const ModelConfig& c = model_.config;
  const CudaLayerWeights& l = model_.layers[layer];
  cuda::NormQuantize norm = Norm(l.ffn_norm, l.wire_padded, l.wire_group);
  norm.delta = projected_;
  norm.x_out = x_;
  const size_t gates = c.gate == GateKind::kNone ? 0 : c.gate == GateKind::kLinear ? 1 : 3;
  const bool integer_gate = gates > 0 && l.gate[0].format.is_integer();
  // An integer gate needs codes of its own: then the experts' are made after it.
  if (integer_gate) norm.q = nullptr;
  int error = api_.norm_quantize(stream_, norm);
  for (size_t i = 0; i < gates; ++i) {
    const cuda::Matrix& w = l.gate[i];
    if (integer_gate) {
      Then(&error, [&] { return Quantize(w.format, normed_, c.hidden, rows_); });
      Then(&error, [&] { return Product(w, normed_, rows_, gate_[i]); });
    } else {
      const cuda::GateProduct product{w, normed_, rows_, c.hidden, gate_[i], w.n, true};
      Then(&error, [&] { return api_.matmul_gate(stream_, product); });
    }
  }
  if (integer_gate) {
    Then(&error, [&] { return Quantize(normed_, c.hidden, rows_, l.wire_padded, l.wire_group); });
  }
  cuda::ChoosePlan choose;
  choose.rows = rows_;
  choose.experts = c.experts;
  choose.top_k = c.top_k;
  choose.logits = gates == 3 ? nullptr : gate_[0];
  choose.q = gate_[0];
  choose.k = gate_[1];
  choose.v = gate_[2];
  choose.chosen = chosen_;
  choose.weights = weights_;
  choose.offsets = offsets_;
  choose.sorted_rows = sorted_;
  choose.slots = slots_;
  choose.early = true;
  if (gates == 0) {
    // A dense model: one expert; its logit, whatever it is, gives weight 1 exactly.
    Then(&error, [&] { return api_.fill(stream_, gate_[0], 0, rows_ * sizeof(float)); });
  }
  Then(&error, [&] { return api_.choose_plan(stream_, choose); });
  return error;
}

int CudaStep::EnqueueExperts(size_t layer) {
  const ModelConfig& c = model_.config;
  const CudaLayerWeights& l = model_.layers[layer];
  const auto rows = static_cast<uint32_t>(rows_);
  const cuda::RowGroups groups{c.experts, offsets_, sorted_, rows, rows * c.top_k};
  added_ = false;
  if (!l.expert.gate.format.is_integer()) {
    return api_.moe_ffn_bf16(stream_, c.hidden, l.expert.gate.n, l.experts, groups, normed_,
                             moe_scratch_, replies_);
  }
  return api_.moe_ffn(stream_, l.expert, l.experts, groups, q_, scales_, moe_scratch_, replies_);
}

absl::Status CudaStep::Embed() {
  OCTET_RETURN_IF_ERROR(ReserveAttention());
  return Status(EnqueueEmbed(), "computing a step");
}

absl::Status CudaStep::AttentionAndGate(size_t layer) {
  int error = EnqueueAttention(layer);
  Then(&error, [&] { return EnqueueGate(layer); });
  return Status(error, "computing a layer");
}

absl::Status CudaStep::Combine(const uint32_t* slots, const float* replies) {
  return Status(api_.combine(stream_, x_, rows_, model_.config.hidden, model_.config.top_k,
                             weights_, slots, replies, x_),
                "combining experts");
}

absl::StatusOr<ConstTensorF32> CudaStep::Logits(absl::Span<const uint32_t> rows) {
  const ModelConfig& c = model_.config;
  OCTET_CHECK(!rows.empty() && rows.size() <= limits_.logit_rows_max);
  OCTET_RETURN_IF_ERROR(UseDevice());
  const size_t row_bytes = c.hidden * sizeof(float);
  int error = 0;
  // Runs of neighbours go together: a decode step is one run.
  for (size_t i = 0; i < rows.size();) {
    size_t count = 1;
    while (i + count < rows.size() && rows[i + count] == rows[i] + count) ++count;
    Then(&error, [&] {
      return api_.copy(stream_, picked_ + i * c.hidden, x_ + size_t{rows[i]} * c.hidden,
                       count * row_bytes);
    });
    i += count;
  }
  cuda::NormQuantize norm = Norm(model_.final_norm, PaddedK(model_.head.format, c.hidden),
                                 Group(model_.head.format, c.hidden));
  norm.rows = rows.size();
  norm.x = picked_;
  norm.normed = picked_;
  Then(&error, [&] { return api_.norm_quantize(stream_, norm); });
  Then(&error, [&] { return Product(model_.head, picked_, rows.size(), logits_); });
  Then(&error, [&] {
    return api_.copy(stream_, host_logits_, logits_, rows.size() * size_t{c.vocab} * sizeof(float));
  });
  OCTET_RETURN_IF_ERROR(Status(error, "computing logits"));
  OCTET_RETURN_IF_ERROR(Wait());
  return ConstTensorF32(host_logits_, rows.size(), c.vocab);
}

absl::Status CudaStep::UseDevice() {
  return Status(api_.set_device(model_.device), "choosing the device");
}

absl::Status CudaStep::Wait() { return Status(api_.synchronize(stream_), "computing a step"); }

}  // namespace octet
