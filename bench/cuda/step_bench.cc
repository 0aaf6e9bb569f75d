// A whole step of an 8x7B model at int4 in groups of 128, experts and router on one device, as one
// graph: embedding, 32 layers, head, the greatest logit fed back as the next token. Weights and
// cache are random; the arithmetic is the serving one. Also the first step over a long prompt.
#include <chrono>
#include <cstring>
#include <memory>

#include "bench/cuda/bench.h"
#include "bench/cuda/layer.h"
#include "kernels/kernels.h"

namespace octet::cuda {
namespace {

using test::Api;
using test::DeviceArray;
using test::Ok;

constexpr uint32_t kLayers = 32, kHeads = 32, kKvHeads = 8, kHeadDim = 128, kVocab = 32000;
constexpr uint32_t kPositions = 4096;

struct Layer {
  explicit Layer(const LayerShape& s, const WeightFormat& f, uint32_t seed)
      : q(f, kHeads * kHeadDim, s.hidden, seed),
        k(f, kKvHeads * kHeadDim, s.hidden, seed + 1),
        v(f, kKvHeads * kHeadDim, s.hidden, seed + 2),
        o(f, s.hidden, kHeads * kHeadDim, seed + 3),
        experts(s, f) {}
  RandomDeviceMatrix q, k, v, o;
  IntLayer experts;
};

// Everything a step needs, for up to `rows` rows of `sequences` sequences.
class Model {
 public:
  explicit Model(uint32_t rows_max)
      : format_(*WeightFormatFromName("int4g128")),
        embedding_(format_, kVocab, shape_.hidden, 1),
        head_(*WeightFormatFromName("int8g128"), kVocab, shape_.hidden, 2),
        rows_max_(rows_max) {
    for (uint32_t i = 0; i < kLayers; ++i) {
      layers_.push_back(std::make_unique<Layer>(shape_, format_, 100 + i));
    }
    norm_ = DeviceArray<float>(std::vector<float>(shape_.hidden, 1.0f));
    MakeGate();
    std::vector<float> cosines(kPositions * kHeadDim / 2), sines(cosines.size());
    FillRopeTable(1e6, kHeadDim, kPositions, cosines.data(), sines.data());
    cos_ = DeviceArray<float>(cosines);
    sin_ = DeviceArray<float>(sines);
    Allocate();
  }

  // `context` positions are in the cache of each of `sequences`; `rows` new ones each.
  void SetSequences(uint32_t sequences, uint32_t rows, uint32_t context, uint32_t positions_max) {
    sequences_ = sequences;
    rows_ = sequences * rows;
    positions_max_ = positions_max;
    const uint32_t blocks = (positions_max + 63) / 64;
    std::vector<uint32_t> table(sequences * blocks), row_sequence(rows_);
    for (uint32_t i = 0; i < table.size(); ++i) table[i] = i;
    host_sequences_.resize(sequences);
    for (uint32_t s = 0; s < sequences; ++s) {
      host_sequences_[s] = {s * rows, rows, context, s * blocks};
      for (uint32_t r = 0; r < rows; ++r) row_sequence[s * rows + r] = s;
    }
    block_table_ = DeviceArray<uint32_t>(table);
    row_sequence_ = DeviceArray<uint32_t>(row_sequence);
    sequences_device_ = DeviceArray<Sequence>(host_sequences_);
    const size_t stride = kLayers * KvBlockLayerBytes(DType::kF16, kKvHeads, kHeadDim);
    if (cache_.size() < table.size() * stride) {
      cache_ = {};
      cache_ = DeviceArray<uint8_t>(table.size() * stride);
      Ok(Api().fill(nullptr, cache_.data(), 0x2e, cache_.size()));  // halves of about 0.1
    }
    std::vector<int32_t> ids(rows_);
    for (uint32_t i = 0; i < rows_; ++i) ids[i] = static_cast<int32_t>(i * 7919 % kVocab);
    ids_ = DeviceArray<int32_t>(ids);
    attention_scratch_ = DeviceArray<uint8_t>(
        Api().attention_scratch_bytes(rows_, kHeads, kHeadDim, positions_max) + 1);
  }

  // Moves every sequence on by one position; enqueued.
  void Advance(Stream stream) {
    for (Sequence& s : host_sequences_) ++s.position_begin;
    Ok(Api().copy(stream, sequences_device_.data(), host_sequences_.data(),
                  host_sequences_.size() * sizeof(Sequence)));
  }

  void Enqueue(Stream s) {
    const CudaApi& api = Api();
    Ok(api.embed_rows(s, embedding_.matrix, ids_.data(), rows_, x_.data()));
    for (uint32_t i = 0; i < kLayers; ++i) {
      Attention(s, i);
      Experts(s, i);
    }
    // Logits of the last row of each sequence.
    const uint32_t last = rows_ - sequences_;
    const float* rows = x_.data() + size_t{last} * shape_.hidden;
    Ok(api.rms_norm(s, rows, sequences_, shape_.hidden, norm_.data(), 1e-5f, normed_.data()));
    Quantise(s, normed_.data(), shape_.hidden, sequences_);
    Product(s, head_.matrix, sequences_, logits_.data(), kVocab);
    Ok(api.scan_logits(s, logits_.data(), sequences_, kVocab, ids_.data(), finite_.data()));
  }

  size_t weight_bytes(uint32_t active_experts) const {
    size_t sum = head_.bytes();
    for (const auto& l : layers_) {
      sum += l->q.bytes() + l->k.bytes() + l->v.bytes() + l->o.bytes() +
             l->experts.bytes() * active_experts / shape_.experts;
    }
    return sum;
  }

 private:
  void MakeGate() {
    std::vector<float> gate(shape_.experts * shape_.hidden);
    std::mt19937 rng(11);
    std::normal_distribution<float> normal(0.0f, 0.02f);
    for (float& g : gate) g = normal(rng);
    const WeightFormat f32 = *WeightFormatFromName("f32");
    std::vector<uint8_t> packed(PackedBytes(f32, shape_.experts, shape_.hidden) + 64);
    uint8_t* aligned = packed.data() + (64 - reinterpret_cast<uintptr_t>(packed.data()) % 64) % 64;
    OCTET_CHECK(PackFloatWeights(f32, {gate.data(), shape_.experts, shape_.hidden}, aligned).ok());
    gate_ = std::make_unique<test::DeviceMatrix>(
        PackedWeights{f32, shape_.experts, shape_.hidden, aligned, Device{}});
  }

  void Allocate() {
    const size_t r = rows_max_, h = shape_.hidden, entries = r * shape_.top_k;
    x_ = DeviceArray<float>(r * h);
    normed_ = DeviceArray<float>(r * h);
    query_ = DeviceArray<float>(r * kHeads * kHeadDim);
    key_ = DeviceArray<float>(r * kKvHeads * kHeadDim);
    value_ = DeviceArray<float>(r * kKvHeads * kHeadDim);
    attended_ = DeviceArray<float>(r * kHeads * kHeadDim);
    q_ = DeviceArray<int8_t>(r * h);
    scales_ = DeviceArray<float>(r * h / 128);
    gate_logits_ = DeviceArray<float>(r * shape_.experts);
    chosen_ = DeviceArray<uint32_t>(entries);
    weights_ = DeviceArray<float>(entries);
    offsets_ = DeviceArray<uint32_t>(shape_.experts + 1);
    sorted_ = DeviceArray<uint32_t>(entries);
    slots_ = DeviceArray<uint32_t>(entries);
    replies_ = DeviceArray<float>(entries * h);
    logits_ = DeviceArray<float>(size_t{64} * kVocab);
    finite_ = DeviceArray<uint8_t>(r);
    moe_scratch_ = DeviceArray<uint8_t>(
        Api().moe_scratch_bytes(layers_[0]->experts.shape_of(), shape_.experts, entries));
    scratch_ = DeviceArray<uint8_t>(Api().matmul_scratch_bytes(format_, h, r) + 1);
  }

  void Quantise(Stream s, const float* x, size_t k, size_t rows) {
    Ok(Api().quantize_rows(s, x, rows, k, k, k, 128, q_.data(), scales_.data()));
  }
  void Product(Stream s, const Matrix& w, size_t rows, float* y, size_t stride) {
    Ok(Api().matmul_int(s, w, q_.data(), scales_.data(), rows, scratch_.data(), y, stride));
  }
  Rows StepRows() const {
    return {rows_,
            sequences_device_.data(),
            row_sequence_.data(),
            block_table_.data(),
            sequences_,
            positions_max_};
  }

  void Attention(Stream s, uint32_t i) {
    const CudaApi& api = Api();
    const Layer& l = *layers_[i];
    const size_t layer_bytes = KvBlockLayerBytes(DType::kF16, kKvHeads, kHeadDim);
    const Cache cache{cache_.data() + i * layer_bytes, kLayers * layer_bytes, DType::kF16, kKvHeads,
                      kHeadDim};
    Ok(api.rms_norm(s, x_.data(), rows_, shape_.hidden, norm_.data(), 1e-5f, normed_.data()));
    Quantise(s, normed_.data(), shape_.hidden, rows_);
    Product(s, l.q.matrix, rows_, query_.data(), kHeads * kHeadDim);
    Product(s, l.k.matrix, rows_, key_.data(), kKvHeads * kHeadDim);
    Product(s, l.v.matrix, rows_, value_.data(), kKvHeads * kHeadDim);
    Ok(api.apply_rope(s, cos_.data(), sin_.data(), kHeadDim, StepRows(), kHeads, query_.data()));
    Ok(api.apply_rope(s, cos_.data(), sin_.data(), kHeadDim, StepRows(), kKvHeads, key_.data()));
    Ok(api.append_kv(s, cache, StepRows(), key_.data(), value_.data()));
    Ok(api.paged_attention(s, cache, StepRows(), kHeads, 0, query_.data(),
                           attention_scratch_.data(), attended_.data()));
    Quantise(s, attended_.data(), kHeads * kHeadDim, rows_);
    Product(s, l.o.matrix, rows_, query_.data(), shape_.hidden);
    Ok(api.add_rows(s, query_.data(), size_t{rows_} * shape_.hidden, x_.data()));
  }

  void Experts(Stream s, uint32_t i) {
    const CudaApi& api = Api();
    const Layer& l = *layers_[i];
    Ok(api.rms_norm(s, x_.data(), rows_, shape_.hidden, norm_.data(), 1e-5f, normed_.data()));
    Ok(api.matmul_float(s, gate_->matrix, normed_.data(), rows_, shape_.hidden, gate_logits_.data(),
                        shape_.experts));
    Ok(api.choose_linear(s, gate_logits_.data(), rows_, shape_.experts, shape_.top_k,
                         chosen_.data(), weights_.data()));
    Ok(api.plan_rows(s, chosen_.data(), rows_, shape_.top_k, shape_.experts, offsets_.data(),
                     sorted_.data(), slots_.data()));
    Quantise(s, normed_.data(), shape_.hidden, rows_);
    const RowGroups groups{shape_.experts, offsets_.data(), sorted_.data(), rows_,
                           rows_ * shape_.top_k};
    Ok(api.moe_ffn(s, l.experts.shape_of(), l.experts.table(), groups, q_.data(), scales_.data(),
                   moe_scratch_.data(), replies_.data()));
    Ok(api.combine(s, x_.data(), rows_, shape_.hidden, shape_.top_k, weights_.data(), slots_.data(),
                   replies_.data(), x_.data()));
  }

  const LayerShape shape_;
  const WeightFormat format_;
  RandomDeviceMatrix embedding_, head_;
  std::vector<std::unique_ptr<Layer>> layers_;
  std::unique_ptr<test::DeviceMatrix> gate_;
  DeviceArray<float> norm_, cos_, sin_;
  const uint32_t rows_max_;
  uint32_t sequences_ = 0, rows_ = 0, positions_max_ = 0;
  std::vector<Sequence> host_sequences_;
  DeviceArray<Sequence> sequences_device_;
  DeviceArray<uint32_t> block_table_, row_sequence_;
  DeviceArray<uint8_t> cache_, attention_scratch_, moe_scratch_, scratch_, finite_;
  DeviceArray<int32_t> ids_;
  DeviceArray<float> x_, normed_, query_, key_, value_, attended_, scales_, gate_logits_, weights_,
      replies_, logits_;
  DeviceArray<int8_t> q_;
  DeviceArray<uint32_t> chosen_, offsets_, sorted_, slots_;
};

double Seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void BenchDecode(Model* model, uint32_t sequences, double copy_bandwidth) {
  constexpr uint32_t kContext = 512, kSteps = 64;
  model->SetSequences(sequences, 1, kContext, kContext + 256);
  Stream stream;
  Ok(Api().create_stream(&stream));
  model->Enqueue(stream);
  Ok(Api().synchronize(stream));
  Graph graph;
  Ok(Api().begin_capture(stream));
  model->Enqueue(stream);
  Ok(Api().end_capture(stream, &graph));
  std::vector<double> times;
  for (uint32_t i = 0; i < kSteps; ++i) {
    model->Advance(stream);
    Ok(Api().synchronize(stream));
    const double begin = Seconds();
    Ok(Api().launch_graph(stream, graph));
    Ok(Api().synchronize(stream));
    times.push_back(Seconds() - begin);
  }
  Api().destroy_graph(graph);
  Api().destroy_stream(stream);
  std::sort(times.begin(), times.end());
  const double step = times[kSteps / 2];
  const std::string name = "decode 8x7b int4g128, " + std::to_string(sequences) + " sequences";
  Report(name, sequences / step, "tokens/s",
         static_cast<double>(model->weight_bytes(sequences == 1 ? 2 : 8)) / step / copy_bandwidth);
}

void BenchPrompt(Model* model, uint32_t tokens) {
  model->SetSequences(1, tokens, 0, tokens);
  std::vector<double> times;
  for (int i = 0; i < 4; ++i) {
    const double begin = Seconds();
    model->Enqueue(nullptr);
    Ok(Api().synchronize(nullptr));
    times.push_back(Seconds() - begin);
  }
  std::sort(times.begin(), times.end());
  Report("first token 8x7b int4g128, prompt of " + std::to_string(tokens), times[1] * 1e3, "ms", 0);
}

}  // namespace

void BenchStep(double copy_bandwidth) {
  Model model(2048);
  BenchDecode(&model, 1, copy_bandwidth);
  BenchDecode(&model, 16, copy_bandwidth);
  BenchDecode(&model, 64, copy_bandwidth);
  BenchPrompt(&model, 512);
  BenchPrompt(&model, 2048);
}

}  // namespace octet::cuda
