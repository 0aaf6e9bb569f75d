// Attention over a cache of halves in the shape of Mixtral: 32 heads of 128 dimensions on 8 kv
// heads. Decode is measured against copy bandwidth, prefill against the FMA units.
#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

#include "bench/cuda/bench.h"
#include "kernels/packed_weights.h"

namespace octet::cuda {
namespace {

using test::Api;
using test::DeviceArray;
using test::Ok;

constexpr uint32_t kHeads = 32;
constexpr uint32_t kKvHeads = 8;
constexpr uint32_t kHeadDim = 128;
constexpr uint32_t kBlockPositions = 64;
constexpr size_t kBlockBytes = size_t{2} * kBlockPositions * kKvHeads * kHeadDim * 2;
constexpr uint32_t kPoolBlocks = 4096;  // 1 GiB: far more than the L2 holds
constexpr double kFmaPeak = 67e12;      // of an H200's data sheet, multiply and add counted apart

// A cache full of random halves, whose blocks are handed out in a mixed order.
struct Pool {
  Pool() : memory(kPoolBlocks * kBlockBytes) {
    std::mt19937 rng(1);
    std::normal_distribution<float> normal;
    std::vector<uint16_t> some(16 * kBlockBytes / 2);
    for (uint16_t& h : some) h = F32ToF16(normal(rng));
    const size_t bytes = some.size() * 2;
    Ok(Api().copy(nullptr, memory.data(), some.data(), bytes));
    Ok(Api().synchronize(nullptr));
    for (size_t at = bytes; at < memory.size(); at += bytes) {
      Ok(Api().copy(nullptr, memory.data() + at, memory.data(), bytes));
    }
    std::vector<uint32_t> order(kPoolBlocks);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), rng);
    blocks = DeviceArray<uint32_t>(order);
    cache = {memory.data(), kBlockBytes, DType::kF16, kKvHeads, kHeadDim};
  }
  DeviceArray<uint8_t> memory;
  DeviceArray<uint32_t> blocks;
  Cache cache;
};

std::vector<float> Queries(size_t rows) {
  std::mt19937 rng(2);
  std::normal_distribution<float> normal;
  std::vector<float> q(rows * kHeads * kHeadDim);
  for (float& x : q) x = normal(rng);
  return q;
}

// `sequences` sequences of `positions` each, one row a sequence. Calls walk through the pool.
void BenchDecode(const Pool& pool, uint32_t sequences, uint32_t positions, double copy_bandwidth) {
  const uint32_t each = positions / kBlockPositions;
  const uint32_t sets = kPoolBlocks / (each * sequences);
  std::vector<Sequence> all;
  std::vector<uint32_t> row_sequence(sequences);
  std::iota(row_sequence.begin(), row_sequence.end(), 0);
  for (uint32_t i = 0; i < sets * sequences; ++i) {
    all.push_back({i % sequences, 1, positions - 1, i * each});
  }
  const DeviceArray<Sequence> device_sequences(all);
  const DeviceArray<uint32_t> device_rows(row_sequence);
  const DeviceArray<float> q(Queries(sequences)), out(q.size());
  const DeviceArray<uint8_t> scratch(
      Api().attention_scratch_bytes(sequences, kHeads, kHeadDim, positions));
  const double ms = MedianMs([&](int i) {
    const Rows rows{sequences,          device_sequences.data() + i % sets * sequences,
                    device_rows.data(), pool.blocks.data(),
                    sequences,          positions};
    Ok(Api().paged_attention(nullptr, pool.cache, rows, kHeads, 0, q.data(), scratch.data(),
                             out.data()));
  });
  const double bytes = static_cast<double>(sequences) * each * kBlockBytes;
  Report("attention_decode_" + std::to_string(sequences) + "x" + std::to_string(positions), ms,
         "ms", bytes / (ms * 1e-3) / copy_bandwidth);
}

void BenchPrefill(const Pool& pool, uint32_t positions) {
  const DeviceArray<Sequence> sequence(std::vector<Sequence>{{0, positions, 0, 0}});
  const DeviceArray<uint32_t> row_sequence(std::vector<uint32_t>(positions, 0));
  const DeviceArray<float> q(Queries(positions)), out(q.size());
  const DeviceArray<uint8_t> scratch(
      Api().attention_scratch_bytes(positions, kHeads, kHeadDim, positions));
  const Rows rows{positions, sequence.data(), row_sequence.data(), pool.blocks.data(),
                  1,         positions};
  const double ms = MedianMs(
      [&](int) {
        Ok(Api().paged_attention(nullptr, pool.cache, rows, kHeads, 0, q.data(), scratch.data(),
                                 out.data()));
      },
      5);
  const double pairs = 0.5 * positions * (positions + 1.0);
  Report("attention_prefill_" + std::to_string(positions), ms, "ms",
         pairs * kHeads * kHeadDim * 4 / (ms * 1e-3) / kFmaPeak);
}

void BenchAppend(const Pool& pool, uint32_t rows_count, double copy_bandwidth) {
  const DeviceArray<Sequence> sequence(std::vector<Sequence>{{0, rows_count, 0, 0}});
  const DeviceArray<uint32_t> row_sequence(std::vector<uint32_t>(rows_count, 0));
  const std::vector<float> values = Queries(rows_count);  // more than enough
  const DeviceArray<float> k(values), v(values);
  const Rows rows{rows_count, sequence.data(), row_sequence.data(), pool.blocks.data(),
                  1,          rows_count};
  const double ms =
      MedianMs([&](int) { Ok(Api().append_kv(nullptr, pool.cache, rows, k.data(), v.data())); });
  const double bytes = 2.0 * rows_count * kKvHeads * kHeadDim * (4 + 2);
  Report("append_kv_" + std::to_string(rows_count), ms, "ms", bytes / (ms * 1e-3) / copy_bandwidth);
}

}  // namespace

void BenchAttention(double copy_bandwidth) {
  const Pool pool;
  BenchDecode(pool, 32, 8192, copy_bandwidth);
  BenchDecode(pool, 64, 2048, copy_bandwidth);
  BenchDecode(pool, 8, 8192, copy_bandwidth);
  BenchDecode(pool, 1, 8192, copy_bandwidth);
  BenchPrefill(pool, 2048);
  BenchAppend(pool, 2048, copy_bandwidth);
}

}  // namespace octet::cuda
