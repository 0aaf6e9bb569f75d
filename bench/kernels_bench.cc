// Speed of the kernels: products, experts, attention. Gop/s counts a multiply-add as two
// operations, GB/s the packed weights (or the cache) read once a call. Weights rotate through
// enough copies that a one-row product reads memory, not cache.
#include <benchmark/benchmark.h>

#include <string>
#include <thread>
#include <vector>

#include "core/limits.h"
#include "kernels/kernels.h"
#include "kernels/test_util.h"

namespace octet {
namespace {

constexpr size_t kWorkingSetBytes = 128 << 20;

struct BenchContext : test::TestContext {
  explicit BenchContext(int threads) : test::TestContext(DetectCpuLevel(), threads) {}
};

std::vector<float> Rows(size_t count) {
  std::vector<float> x(count);
  for (size_t i = 0; i < count; ++i) x[i] = static_cast<float>((i * 7919) % 255) / 127.0f - 1.0f;
  return x;
}

// Several packed matrices of one shape, with a cheap repeated content.
class Copies {
 public:
  Copies(const std::string& name, size_t n, size_t k)
      : format_(*WeightFormatFromName(name)),
        n_(n),
        k_(k),
        bytes_(PackedBytes(format_, n, k)),
        count_(std::max<size_t>(1, kWorkingSetBytes / bytes_)),
        memory_(bytes_ * count_) {
    const test::RandomMatrix source(name, 16, k, 1);
    const size_t panel = source.packed.size();
    for (size_t i = 0; i + panel <= memory_.size(); i += panel) {
      std::memcpy(memory_.data() + i, source.w.data, panel);
    }
  }
  PackedWeights Next() {
    const PackedWeights w{format_, n_, k_, memory_.data() + bytes_ * (next_++ % count_), Device{}};
    return w;
  }
  size_t bytes() const { return bytes_; }

 private:
  WeightFormat format_;
  size_t n_, k_, bytes_, count_;
  test::AlignedBytes memory_;
  size_t next_ = 0;
};

void Report(benchmark::State& state, double ops, double bytes) {
  const double calls = static_cast<double>(state.iterations());
  state.counters["Gop/s"] = benchmark::Counter(ops * calls / 1e9, benchmark::Counter::kIsRate);
  state.counters["GB/s"] = benchmark::Counter(bytes * calls / 1e9, benchmark::Counter::kIsRate);
}

void BM_MatMul(benchmark::State& state, const std::string& format, size_t rows, size_t n, size_t k,
               int threads) {
  BenchContext context(threads);
  Copies weights(format, n, k);
  const std::vector<float> x = Rows(rows * k);
  std::vector<float> y(rows * n);
  for (auto _ : state) {
    MatMul(context.ctx, weights.Next(), {x.data(), rows, k}, {y.data(), rows, n});
    benchmark::DoNotOptimize(y.data());
  }
  Report(state, 2.0 * rows * n * k, static_cast<double>(weights.bytes()));
}

std::vector<uint32_t> ColumnOf(const PackedWeights& w) {
  std::vector<uint32_t> column(PaddedK(w.format, w.k));
  MakeCheckColumn(w, column.data());
  return column;
}

// `checked`: by CheckedExpertFfn.
void BM_ExpertFfn(benchmark::State& state, const std::string& format, size_t rows, size_t hidden,
                  size_t middle, int threads, bool checked) {
  BenchContext context(threads);
  Copies gate(format, middle, hidden), up(format, middle, hidden), down(format, hidden, middle);
  const std::vector<float> x = Rows(rows * hidden);
  std::vector<float> y(rows * hidden);
  ExpertInput input;
  const WeightFormat f = *WeightFormatFromName(format);
  if (f.is_integer()) {
    input.q = AllocQuantizedRows(context.ctx, f, rows, hidden);
    QuantizeRows(context.ctx, {x.data(), rows, hidden}, input.q);
  } else {
    input.f32 = {x.data(), rows, hidden};
  }
  std::vector<uint32_t> indices;
  for (uint32_t i = 0; i < rows; ++i) indices.push_back(i);
  const std::vector<uint32_t> gate_column = ColumnOf(gate.Next()), up_column = ColumnOf(up.Next()),
                              down_column = ColumnOf(down.Next());
  const ExpertColumns columns{gate_column.data(), up_column.data(), down_column.data()};
  const TensorF32 out{y.data(), rows, hidden};
  for (auto _ : state) {
    const ExpertWeights weights{gate.Next(), up.Next(), down.Next()};
    if (checked) {
      OCTET_CHECK(CheckedExpertFfn(context.ctx, weights, columns, input, indices, out));
    } else {
      ExpertFfn(context.ctx, weights, input, indices, out);
    }
    benchmark::DoNotOptimize(y.data());
  }
  Report(state, 6.0 * rows * hidden * middle,
         static_cast<double>(gate.bytes() + up.bytes() + down.bytes()));
}

void BM_Attention(benchmark::State& state, DType dtype, size_t rows, size_t head_dim, int threads) {
  const size_t heads = 32, kv_heads = 8, context_length = 2048;
  BenchContext context(threads);
  KvLayer cache;
  cache.dtype = dtype;
  cache.kv_heads = kv_heads;
  cache.head_dim = head_dim;
  cache.block_stride_bytes = KvBlockLayerBytes(dtype, kv_heads, head_dim);
  const size_t blocks = (context_length + kKvBlockPositions - 1) / kKvBlockPositions;
  test::AlignedBytes memory(blocks * cache.block_stride_bytes);
  cache.data = memory.data();
  std::vector<BlockId> table;
  for (uint32_t b = 0; b < blocks; ++b) table.push_back(BlockId(b));
  const std::vector<float> q = Rows(rows * heads * head_dim);
  std::vector<float> out(q.size());
  const SequenceRows sequence{0, rows, static_cast<uint32_t>(context_length - rows), table};
  for (auto _ : state) {
    PagedAttention(context.ctx, cache, {&sequence, 1}, heads, 0, {q.data(), rows, heads * head_dim},
                   {out.data(), rows, heads * head_dim});
    benchmark::DoNotOptimize(out.data());
  }
  const double pairs = static_cast<double>(rows) * (context_length - rows / 2.0);
  Report(state, 4.0 * pairs * heads * head_dim, static_cast<double>(memory.size()));
}

void RegisterAll() {
  const int threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  for (const std::string format :
       {"q4_0", "w4xg32", "w4xg64", "q8_0", "q4_k", "q6_k", "int4g128", "f16", "f32"}) {
    for (const size_t rows : {1, 4, 16, 64, 512}) {
      for (const int t : {1, threads}) {
        const std::string name = "MatMul/" + format + "/rows:" + std::to_string(rows) +
                                 "/n:3584/k:1024/threads:" + std::to_string(t);
        benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& s) {
          BM_MatMul(s, format, rows, 3584, 1024, t);
        })->UseRealTime();
      }
    }
  }
  for (const std::string format : {"q4_0", "w4xg32", "q8_0"}) {
    for (const size_t rows : {1, 4, 128, 512}) {
      for (const size_t hidden : {512, 1024}) {
        for (const bool checked : {false, true}) {
          const std::string name = std::string(checked ? "Checked" : "") + "ExpertFfn/" + format +
                                   "/rows:" + std::to_string(rows) +
                                   "/hidden:" + std::to_string(hidden);
          benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& s) {
            BM_ExpertFfn(s, format, rows, hidden, hidden * 7 / 2, threads, checked);
          })->UseRealTime();
        }
      }
    }
  }
  for (const auto& [dtype, dtype_name] :
       {std::pair{DType::kF32, "f32"}, {DType::kF16, "f16"}, {DType::kI8, "int8"}}) {
    for (const size_t rows : {1, 512}) {
      for (const size_t head_dim : {64, 128}) {
        const std::string name = std::string("Attention/") + dtype_name +
                                 "/rows:" + std::to_string(rows) +
                                 "/context:2048/dim:" + std::to_string(head_dim);
        benchmark::RegisterBenchmark(name.c_str(), [=, dtype = dtype](benchmark::State& s) {
          BM_Attention(s, dtype, rows, head_dim, threads);
        })->UseRealTime();
      }
    }
  }
}

const bool registered = (RegisterAll(), true);

}  // namespace
}  // namespace octet
