// Row operations, gates, heads and float products, as nodes of a graph: how a decode step runs
// them.
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/cuda/bench.h"
#include "kernels/kernels.h"
#include "kernels/test_util.h"

namespace octet::cuda {
namespace {

using test::Api;
using test::DeviceArray;
using test::DeviceMatrix;
using test::Ok;

constexpr size_t kCols = 4096;
constexpr int kNodes = 20;

// Microseconds of one `run`, of a graph of kNodes of them after one another.
double MicrosecondsInGraph(const std::function<void(Stream)>& run) {
  const CudaApi& api = Api();
  Stream stream;
  Graph graph;
  Ok(api.create_stream(&stream));
  run(stream);  // loads the kernel, which a capture need not allow
  Ok(api.synchronize(stream));
  Ok(api.begin_capture(stream));
  for (int i = 0; i < kNodes; ++i) run(stream);
  Ok(api.end_capture(stream, &graph));
  const double ms = MedianMs([&](int) { Ok(api.launch_graph(nullptr, graph)); }, 5, 5);
  api.destroy_graph(graph);
  api.destroy_stream(stream);
  return ms * 1e3 / kNodes;
}

struct Figures {
  double copy_bandwidth;

  void Add(const std::string& name, double bytes, const std::function<void(Stream)>& run) const {
    const double us = MicrosecondsInGraph(run);
    Report(name, us, "us", bytes / (us * 1e-6) / copy_bandwidth);
  }
};

DeviceArray<float> Floats(size_t n) {
  std::mt19937 rng(1);
  std::normal_distribution<float> normal;
  std::vector<float> x(n);
  for (float& v : x) v = normal(rng);
  return DeviceArray<float>(x);
}

DeviceArray<uint32_t> Choices(size_t rows, size_t k, size_t experts) {
  std::vector<uint32_t> chosen;
  for (size_t r = 0; r < rows; ++r) {
    for (size_t s = 0; s < k; ++s) chosen.push_back((r * 3 + s) % experts);
  }
  return DeviceArray<uint32_t>(chosen);
}

void BenchRows(const Figures& figures, size_t rows) {
  const CudaApi& api = Api();
  const std::string at = absl::StrCat(" rows=", rows);
  const DeviceArray<float> x = Floats(rows * kCols), y = Floats(rows * kCols),
                           weight = Floats(kCols), replies = Floats(2 * rows * kCols),
                           weights = Floats(2 * rows);
  const double row_bytes = 4.0 * rows * kCols;
  figures.Add("rms_norm" + at, 2 * row_bytes, [&](Stream s) {
    Ok(api.rms_norm(s, x.data(), rows, kCols, weight.data(), 1e-5f, y.data()));
  });
  figures.Add("add_rows" + at, 3 * row_bytes,
              [&](Stream s) { Ok(api.add_rows(s, x.data(), rows * kCols, y.data())); });
  std::vector<Sequence> sequences;
  std::vector<uint32_t> row_sequence, slots;
  for (uint32_t r = 0; r < rows; ++r) {
    sequences.push_back({r, 1, r, 0});
    row_sequence.push_back(r);
    slots.push_back(2 * r + 1);
    slots.push_back(2 * r);
  }
  const DeviceArray<Sequence> device_sequences(sequences);
  const DeviceArray<uint32_t> device_row_sequence(row_sequence), device_slots(slots);
  const DeviceArray<float> table = Floats(rows * 64);
  Rows batch;
  batch.rows = static_cast<uint32_t>(rows);
  batch.sequences = device_sequences.data();
  batch.row_sequence = device_row_sequence.data();
  batch.sequence_count = batch.rows;
  figures.Add("apply_rope heads=32" + at, 2 * row_bytes, [&](Stream s) {
    Ok(api.apply_rope(s, table.data(), table.data(), 128, batch, kCols / 128, y.data()));
  });
  figures.Add("combine k=2" + at, 4 * row_bytes, [&](Stream s) {
    Ok(api.combine(s, x.data(), rows, kCols, 2, weights.data(), device_slots.data(), replies.data(),
                   y.data()));
  });
  for (const size_t group : {size_t{128}, kCols}) {
    const DeviceArray<int8_t> q(rows * kCols);
    const DeviceArray<float> scales(rows * kCols / group);
    figures.Add(absl::StrCat("quantize_rows group=", group, at), 1.25 * row_bytes, [&](Stream s) {
      Ok(api.quantize_rows(s, x.data(), rows, kCols, kCols, kCols, group, q.data(), scales.data()));
    });
  }
}

void BenchGate(const Figures& figures, size_t rows) {
  const CudaApi& api = Api();
  const std::string at = absl::StrCat(" rows=", rows);
  const size_t experts = 8, k = 2;
  const DeviceArray<float> q = Floats(rows * experts), key = Floats(rows * experts),
                           v = Floats(rows * experts), weights(rows * k);
  const DeviceArray<uint32_t> chosen(rows * k);
  const double bytes = 4.0 * rows * (experts + 2 * k);
  figures.Add("choose_linear 2 of 8" + at, bytes, [&](Stream s) {
    Ok(api.choose_linear(s, q.data(), rows, experts, k, chosen.data(), weights.data()));
  });
  figures.Add("choose_attention 2 of 8" + at, bytes, [&](Stream s) {
    Ok(api.choose_attention(s, q.data(), key.data(), v.data(), rows, experts, k, chosen.data(),
                            weights.data()));
  });
  const DeviceArray<uint32_t> choices = Choices(rows, k, experts), offsets(experts + 1),
                              sorted(rows * k), slots(rows * k);
  figures.Add("plan_rows 2 of 8" + at, 12.0 * rows * k, [&](Stream s) {
    Ok(api.plan_rows(s, choices.data(), rows, k, experts, offsets.data(), sorted.data(),
                     slots.data()));
  });
}

// Several of the above in one launch, which may begin before the one ahead of it has ended or not.
void BenchFusedRows(const Figures& figures, size_t rows, bool early) {
  const CudaApi& api = Api();
  const std::string at = absl::StrCat(early ? " early" : "", " rows=", rows);
  const double row_bytes = 4.0 * rows * kCols;
  const DeviceArray<float> x = Floats(rows * kCols), delta = Floats(rows * kCols),
                           weight = Floats(kCols), replies = Floats(2 * rows * kCols),
                           weights = Floats(2 * rows), out(rows * kCols), normed(rows * kCols),
                           scales(rows * kCols / 128);
  const DeviceArray<int8_t> q(rows * kCols);
  std::vector<uint32_t> places;
  for (uint32_t i = 0; i < 2 * rows; ++i) places.push_back(i ^ 1);
  const DeviceArray<uint32_t> slots(places);
  NormQuantize norm;
  norm.rows = rows;
  norm.cols = kCols;
  norm.x = x.data();
  norm.x_out = out.data();
  norm.norm_weight = weight.data();
  norm.eps = 1e-5f;
  norm.normed = normed.data();
  norm.q = q.data();
  norm.padded_k = kCols;
  norm.scales = scales.data();
  norm.early = early;
  for (const size_t group : {size_t{128}, kCols}) {
    norm.group = group;
    norm.k = 0;
    norm.delta = delta.data();
    figures.Add(absl::StrCat("norm_quantize add group=", group, at), 4.25 * row_bytes,
                [&](Stream s) { Ok(api.norm_quantize(s, norm)); });
    norm.delta = nullptr;
    norm.k = 2;
    norm.weights = weights.data();
    norm.slots = slots.data();
    norm.replies = replies.data();
    figures.Add(absl::StrCat("norm_quantize combine k=2 group=", group, at), 5.25 * row_bytes,
                [&](Stream s) { Ok(api.norm_quantize(s, norm)); });
  }
}

void BenchFusedRope(const Figures& figures, size_t rows, bool early) {
  const uint32_t kv_heads = 8, head_dim = 128;
  const size_t block_bytes = KvBlockLayerBytes(DType::kF16, kv_heads, head_dim);
  const size_t k_cols = kv_heads * head_dim;
  std::vector<Sequence> sequences;
  std::vector<uint32_t> row_sequence, block_ids;
  for (uint32_t r = 0; r < rows; ++r) {
    sequences.push_back({r, 1, r % 64, r});
    row_sequence.push_back(r);
    block_ids.push_back(r);
  }
  const DeviceArray<Sequence> device_sequences(sequences);
  const DeviceArray<uint32_t> device_row_sequence(row_sequence), blocks(block_ids);
  const DeviceArray<float> table = Floats(64 * head_dim / 2), q = Floats(rows * kCols),
                           k = Floats(rows * k_cols), v = Floats(rows * k_cols);
  const DeviceArray<uint8_t> cache(rows * block_bytes);
  RopeAppend call;
  call.cos_table = call.sin_table = table.data();
  call.rows.rows = call.rows.sequence_count = static_cast<uint32_t>(rows);
  call.rows.sequences = device_sequences.data();
  call.rows.row_sequence = device_row_sequence.data();
  call.rows.blocks = blocks.data();
  call.rows.positions_max = 64;
  call.heads = kCols / head_dim;
  call.q = q.data();
  call.cache = {cache.data(), block_bytes, DType::kF16, kv_heads, head_dim};
  call.k = k.data();
  call.v = v.data();
  call.early = early;
  figures.Add(absl::StrCat("rope_append 32/8 heads", early ? " early" : "", " rows=", rows),
              8.0 * rows * kCols + 12.0 * rows * k_cols,
              [&](Stream s) { Ok(Api().rope_append(s, call)); });
}

void BenchFusedGate(const Figures& figures, size_t rows, bool early) {
  const std::string at = absl::StrCat(early ? " early" : "", " rows=", rows);
  const size_t experts = 8, top_k = 2;
  const DeviceArray<float> q = Floats(rows * experts), k = Floats(rows * experts),
                           v = Floats(rows * experts), weights(rows * top_k);
  const DeviceArray<uint32_t> chosen(rows * top_k), offsets(experts + 1), sorted(rows * top_k),
      slots(rows * top_k);
  ChoosePlan plan;
  plan.rows = rows;
  plan.experts = experts;
  plan.top_k = top_k;
  plan.q = q.data();
  plan.k = k.data();
  plan.v = v.data();
  plan.chosen = chosen.data();
  plan.weights = weights.data();
  plan.offsets = offsets.data();
  plan.sorted_rows = sorted.data();
  plan.slots = slots.data();
  plan.early = early;
  const double bytes = 4.0 * rows * (experts + 4 * top_k);
  figures.Add(absl::StrCat("choose_plan attention 2 of 8", at), bytes,
              [&](Stream s) { Ok(Api().choose_plan(s, plan)); });
  plan.logits = q.data();
  figures.Add(absl::StrCat("choose_plan linear 2 of 8", at), bytes,
              [&](Stream s) { Ok(Api().choose_plan(s, plan)); });
  const WeightFormat f = *WeightFormatFromName("f32");
  octet::test::AlignedBytes packed(PackedBytes(f, experts, kCols));
  const DeviceMatrix w({f, experts, kCols, packed.data(), octet::Device{}});
  const DeviceArray<float> x = Floats(rows * kCols), y(rows * experts);
  const GateProduct gate{w.matrix, x.data(), rows, kCols, y.data(), experts, early};
  figures.Add(absl::StrCat("matmul_gate f32 8x", kCols, at), 4.0 * kCols * (rows + experts),
              [&](Stream s) { Ok(Api().matmul_gate(s, gate)); });
}

void BenchLogits(const Figures& figures, size_t rows) {
  const size_t vocab = 32000;
  const DeviceArray<float> logits = Floats(rows * vocab);
  const DeviceArray<int32_t> best(rows);
  const DeviceArray<uint8_t> finite(rows);
  figures.Add(absl::StrCat("scan_logits vocab=", vocab, " rows=", rows), 4.0 * rows * vocab,
              [&](Stream s) {
                Ok(Api().scan_logits(s, logits.data(), rows, vocab, best.data(), finite.data()));
              });
}

// Weights of zero: the time does not depend on them.
void BenchProduct(const Figures& figures, const char* format, size_t n, size_t k,
                  const std::vector<size_t>& row_counts) {
  const WeightFormat f = *WeightFormatFromName(format);
  octet::test::AlignedBytes packed(PackedBytes(f, n, k));
  const DeviceMatrix w({f, n, k, packed.data(), octet::Device{}});
  for (const size_t rows : row_counts) {
    const DeviceArray<float> x = Floats(rows * k), y(rows * n);
    const double bytes = static_cast<double>(PackedBytes(f, n, k)) + 4.0 * rows * (n + k);
    figures.Add(
        absl::StrCat("matmul_float ", format, " ", n, "x", k, " rows=", rows), bytes,
        [&](Stream s) { Ok(Api().matmul_float(s, w.matrix, x.data(), rows, k, y.data(), n)); });
  }
}

}  // namespace

void BenchRowKernels(double copy_bandwidth) {
  const Figures figures{copy_bandwidth};
  for (const size_t rows : {1u, 64u}) {
    BenchRows(figures, rows);
    BenchGate(figures, rows);
    BenchLogits(figures, rows);
    for (const bool early : {false, true}) {
      BenchFusedRows(figures, rows, early);
      BenchFusedRope(figures, rows, early);
      BenchFusedGate(figures, rows, early);
    }
  }
  BenchGate(figures, 2048);
  BenchProduct(figures, "f32", 8, kCols, {1, 64, 2048});
  BenchProduct(figures, "f16", 8, kCols, {1, 64});
  BenchProduct(figures, "f16", 32000, kCols, {1, 8, 16, 64});
  BenchProduct(figures, "f16", kCols, kCols, {1, 64, 2048});
  BenchProduct(figures, "bf16", kCols, kCols, {1, 64});
}

}  // namespace octet::cuda
