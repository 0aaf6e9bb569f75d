// Whole steps of an 8x7B model at int4 in groups of 128, router and experts on one device, through
// the step that serves (router/cuda_step.h): tokens to the device, embedding, 32 layers, head,
// logits to the host, the greatest one fed back. Weights and cache are random.
#include <chrono>
#include <cstring>
#include <memory>

#include "bench/cuda/bench.h"
#include "bench/cuda/layer.h"
#include "kernels/kernels.h"
#include "router/cuda_step.h"

namespace octet::cuda {
namespace {

using test::Api;
using test::DeviceArray;
using test::Ok;

constexpr uint32_t kLayers = 32, kHeads = 32, kKvHeads = 8, kHeadDim = 128, kVocab = 32000;
constexpr uint32_t kPositions = 4096, kBlocks = 2048;

struct Layer {
  Layer(const LayerShape& s, const WeightFormat& f, uint32_t seed)
      : q(f, kHeads * kHeadDim, s.hidden, seed),
        k(f, kKvHeads * kHeadDim, s.hidden, seed + 1),
        v(f, kKvHeads * kHeadDim, s.hidden, seed + 2),
        o(f, s.hidden, kHeads * kHeadDim, seed + 3),
        experts(s, f) {}
  RandomDeviceMatrix q, k, v, o;
  IntLayer experts;
};

class RandomModel {
 public:
  RandomModel()
      : format_(*WeightFormatFromName("int4g128")),
        embedding_(format_, kVocab, shape_.hidden, 1),
        head_(*WeightFormatFromName("int8g128"), kVocab, shape_.hidden, 2),
        norm_(std::vector<float>(shape_.hidden, 1.0f)) {
    MakeGate();
    std::vector<float> cosines(kPositions * kHeadDim / 2), sines(cosines.size());
    FillRopeTable(1e6, kHeadDim, kPositions, cosines.data(), sines.data());
    cos_ = DeviceArray<float>(cosines);
    sin_ = DeviceArray<float>(sines);
    for (uint32_t i = 0; i < kLayers; ++i) {
      layers_.push_back(std::make_unique<Layer>(shape_, format_, 100 + i));
    }
    const size_t layer_bytes = KvBlockLayerBytes(DType::kF16, kKvHeads, kHeadDim);
    cache_ = DeviceArray<uint8_t>(kBlocks * kLayers * layer_bytes);
    Ok(Api().fill(nullptr, cache_.data(), 0x2e, cache_.size()));  // halves of about 0.1
    Ok(Api().synchronize(nullptr));
    Describe();
    CudaStepLimits limits;
    limits.rows_max = 2048;
    limits.sequences_max = 64;
    limits.blocks_max = kBlocks;
    limits.logit_rows_max = 64;
    auto made = CudaStep::Create(
        Api(), &model_, {cache_.data(), kLayers * layer_bytes, DType::kF16, kKvHeads, kHeadDim},
        layer_bytes, limits);
    OCTET_CHECK(made.ok()) << made.status().ToString();
    step = *std::move(made);
  }

  size_t weight_bytes(uint32_t active_experts) const {
    size_t sum = head_.bytes();
    for (const auto& l : layers_) {
      sum += l->q.bytes() + l->k.bytes() + l->v.bytes() + l->o.bytes() +
             l->experts.bytes() * active_experts / shape_.experts;
    }
    return sum;
  }

  std::unique_ptr<CudaStep> step;

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

  void Describe() {
    ModelConfig& c = model_.config;
    c.layers = kLayers;
    c.hidden = shape_.hidden;
    c.intermediate = shape_.middle;
    c.heads = kHeads;
    c.kv_heads = kKvHeads;
    c.head_dim = kHeadDim;
    c.vocab = kVocab;
    c.context = kPositions;
    c.experts = shape_.experts;
    c.top_k = shape_.top_k;
    c.gate = GateKind::kLinear;
    model_.embedding = embedding_.matrix;
    model_.head = head_.matrix;
    model_.final_norm = norm_.data();
    model_.rope_cos = cos_.data();
    model_.rope_sin = sin_.data();
    for (const auto& l : layers_) {
      CudaLayerWeights w;
      w.attention_norm = w.ffn_norm = norm_.data();
      w.q = l->q.matrix;
      w.k = l->k.matrix;
      w.v = l->v.matrix;
      w.o = l->o.matrix;
      w.gate[0] = gate_->matrix;
      w.wire_padded = shape_.hidden;
      w.wire_group = 128;
      w.experts = l->experts.table();
      w.expert = l->experts.shape_of();
      model_.layers.push_back(w);
    }
  }

  const LayerShape shape_;
  const WeightFormat format_;
  RandomDeviceMatrix embedding_, head_;
  DeviceArray<float> norm_, cos_, sin_;
  std::unique_ptr<test::DeviceMatrix> gate_;
  std::vector<std::unique_ptr<Layer>> layers_;
  DeviceArray<uint8_t> cache_;
  CudaModel model_;
};

// `sequences` with `context` positions in the cache and `rows` new ones each.
Batch MakeBatch(uint32_t sequences, uint32_t rows, uint32_t context,
                const std::vector<BlockId>& blocks) {
  Batch batch;
  batch.prefill = rows > 1;
  const uint32_t per_sequence = kBlocks / sequences;
  for (uint32_t s = 0; s < sequences; ++s) {
    BatchSequence q;
    q.row_begin = batch.tokens.size();
    q.rows = rows;
    q.position_begin = context;
    q.blocks = blocks.data() + s * per_sequence;
    q.block_count = per_sequence;
    for (uint32_t r = 0; r < rows; ++r) {
      batch.tokens.push_back(static_cast<TokenId>((s * rows + r) * 7919 % kVocab));
      batch.positions.push_back(context + r);
    }
    batch.logit_rows.push_back(static_cast<uint32_t>(batch.tokens.size() - 1));
    batch.sequences.push_back(q);
  }
  return batch;
}

double Seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// One step, and the tokens that follow from it, which become the batch's.
void Run(CudaStep* step, Batch* batch) {
  absl::Status status = step->Begin(*batch);
  if (status.ok()) status = step->Layers();
  OCTET_CHECK(status.ok()) << status.ToString();
  const auto logits = step->Logits(batch->logit_rows);
  OCTET_CHECK(logits.ok()) << logits.status().ToString();
  for (size_t i = 0; i < batch->logit_rows.size(); ++i) {
    const LogitScan scan = ScanLogits({logits->row(i), kVocab});
    OCTET_CHECK(scan.finite);
    batch->tokens[batch->logit_rows[i]] = scan.best;
  }
}

// Experts that the last layer of the last step sent rows to.
uint32_t ActiveExperts(const CudaStep& step, uint32_t rows) {
  std::vector<uint32_t> chosen(rows * LayerShape().top_k);
  Ok(Api().copy(step.stream(), chosen.data(), step.chosen(), chosen.size() * sizeof(uint32_t)));
  Ok(Api().synchronize(step.stream()));
  std::sort(chosen.begin(), chosen.end());
  return static_cast<uint32_t>(std::unique(chosen.begin(), chosen.end()) - chosen.begin());
}

void BenchDecode(RandomModel* model, uint32_t sequences, const std::vector<BlockId>& blocks,
                 double copy_bandwidth) {
  constexpr uint32_t kContext = 512, kWarmUp = 4, kSteps = 64;
  Batch batch = MakeBatch(sequences, 1, kContext, blocks);
  std::vector<double> times;
  for (uint32_t i = 0; i < kWarmUp + kSteps; ++i) {
    const double begin = Seconds();
    Run(model->step.get(), &batch);
    if (i >= kWarmUp) times.push_back(Seconds() - begin);
    for (BatchSequence& s : batch.sequences) ++s.position_begin;
  }
  std::sort(times.begin(), times.end());
  const double step = times[times.size() / 2];
  const std::string name = "decode 8x7b int4g128, " + std::to_string(sequences) + " sequences";
  const uint32_t active = ActiveExperts(*model->step, sequences);
  Report(name, sequences / step, "tokens/s",
         static_cast<double>(model->weight_bytes(active)) / step / copy_bandwidth);
  Report(name + ", experts of the last layer with rows", active, "experts", 0);
}

void BenchPrompt(RandomModel* model, uint32_t tokens, const std::vector<BlockId>& blocks) {
  std::vector<double> times;
  for (int i = 0; i < 4; ++i) {
    Batch batch = MakeBatch(1, tokens, 0, blocks);
    const double begin = Seconds();
    Run(model->step.get(), &batch);
    times.push_back(Seconds() - begin);
  }
  std::sort(times.begin(), times.end());
  Report("first token 8x7b int4g128, prompt of " + std::to_string(tokens), times[1] * 1e3, "ms", 0);
}

}  // namespace

void BenchStep(double copy_bandwidth) {
  RandomModel model;
  std::vector<BlockId> blocks;
  for (uint32_t i = 0; i < kBlocks; ++i) blocks.emplace_back(i);
  for (const uint32_t sequences : {1u, 4u, 16u, 64u}) {
    BenchDecode(&model, sequences, blocks, copy_bandwidth);
  }
  for (const uint32_t tokens : {512u, 2048u}) BenchPrompt(&model, tokens, blocks);
}

void BenchSingleStep() {
  RandomModel model;
  std::vector<BlockId> blocks;
  for (uint32_t i = 0; i < kBlocks; ++i) blocks.emplace_back(i);
  Batch batch = MakeBatch(1, 1, 512, blocks);
  Run(model.step.get(), &batch);
}

}  // namespace octet::cuda
