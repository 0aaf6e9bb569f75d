// Attention on the device gives the bits of the host's for every shape, however rows are batched,
// cut and spread, whatever lies in memory that no row may see.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "core/limits.h"
#include "kernels/cuda/test_util.h"
#include "kernels/kernels.h"
#include "kernels/test_util.h"

namespace octet::cuda {
namespace {

using ::octet::test::FirstDifference;
using ::octet::test::Normal;
using ::octet::test::TestContext;
using test::Api;
using test::DeviceArray;
using test::Ok;

constexpr size_t kBlock = kKvBlockPositions;

struct Shape {
  size_t heads;
  size_t kv_heads;
  size_t head_dim;
  uint32_t window;
  DType dtype;
  size_t q_cols() const { return heads * head_dim; }
  size_t k_cols() const { return kv_heads * head_dim; }
};

std::ostream& operator<<(std::ostream& out, const Shape& s) {
  return out << s.heads << "/" << s.kv_heads << " dim " << s.head_dim << " window " << s.window
             << (s.dtype == DType::kF16 ? " f16" : " f32");
}

// Rows of a sequence that has `context` positions already.
struct Work {
  size_t context;
  size_t rows;
};

// Rows of one value each, mixed with others: scores that overflow, that all but vanish beside
// others, that are subnormal, infinite, NaN. Few rows are huge, so that not all results are NaN.
std::vector<float> Extreme(size_t rows, size_t cols, uint32_t seed) {
  const float values[] = {0.0f, -0.0f, 1e-40f, -1e-20f, 1.0f, -3.0f, 9.0f, -40.0f, 1e19f, -1e25f};
  std::mt19937 rng(seed);
  std::vector<float> x = Normal(rows * cols, seed);
  for (size_t r = 0; r < rows; ++r) {
    const float value = values[rng() % (r % 8 == 7 && r > 64 ? 10 : 8)];
    for (size_t i = 0; i < cols; i += 1 + rng() % 3) x[r * cols + i] = value;
  }
  return x;
}

// The same cache on the host and on the device: every byte is NaN until it is written, blocks are
// handed out in a mixed order, a sequence after the other.
class Caches {
 public:
  Caches(const Shape& s, const std::vector<Work>& work)
      : stride_(KvBlockLayerBytes(s.dtype, s.kv_heads, s.head_dim) + 128) {
    uint32_t count = 0;
    for (const Work& w : work) {
      block_begin.push_back(count);
      count += static_cast<uint32_t>((w.context + w.rows + kBlock - 1) / kBlock);
    }
    for (uint32_t b = 0; b < count; ++b) blocks.push_back(BlockId(b + 1));
    std::shuffle(blocks.begin(), blocks.end(), std::mt19937(count));
    const size_t bytes = stride_ * (count + 2);
    memory_ = std::make_unique<::octet::test::AlignedBytes>(bytes);
    std::memset(memory_->data(), 0xff, bytes);
    device_memory_ = DeviceArray<uint8_t>(bytes);
    host = {memory_->data(), stride_, s.dtype, s.kv_heads, s.head_dim};
    device = {device_memory_.data(), stride_, s.dtype, static_cast<uint32_t>(s.kv_heads),
              static_cast<uint32_t>(s.head_dim)};
    std::vector<uint32_t> ids;
    for (const BlockId b : blocks) ids.push_back(b.value());
    device_blocks = DeviceArray<uint32_t>(ids);
  }
  bool SameBytes() const {
    return std::memcmp(device_memory_.Get().data(), memory_->data(), memory_->size()) == 0;
  }

  std::vector<uint32_t> block_begin;  // of each sequence
  std::vector<BlockId> blocks;
  KvLayer host;
  Cache device;
  DeviceArray<uint32_t> device_blocks;

 private:
  size_t stride_;
  std::unique_ptr<::octet::test::AlignedBytes> memory_;
  DeviceArray<uint8_t> device_memory_;
};

// A batch with its arrays on both sides. Takes `rows` rows of each sequence from `begin` on.
class Batch {
 public:
  Batch(const Caches& caches, const std::vector<Work>& parts, size_t positions_max) {
    std::vector<Sequence> sequences;
    std::vector<uint32_t> row_sequence;
    for (size_t i = 0; i < parts.size(); ++i) {
      const auto begin = static_cast<uint32_t>(parts[i].context);
      const auto rows = static_cast<uint32_t>(parts[i].rows);
      const auto row = static_cast<uint32_t>(row_sequence.size());
      const size_t blocks = (parts[i].context + parts[i].rows + kBlock - 1) / kBlock;
      sequences.push_back({row, rows, begin, caches.block_begin[i]});
      host.push_back(
          {row, rows, begin, absl::MakeConstSpan(&caches.blocks[caches.block_begin[i]], blocks)});
      row_sequence.insert(row_sequence.end(), rows, static_cast<uint32_t>(i));
      positions_max = std::max(positions_max, parts[i].context + parts[i].rows);
    }
    sequences_ = DeviceArray<Sequence>(sequences);
    row_sequence_ = DeviceArray<uint32_t>(row_sequence);
    rows.rows = static_cast<uint32_t>(row_sequence.size());
    rows.sequences = sequences_.data();
    rows.row_sequence = row_sequence_.data();
    rows.blocks = caches.device_blocks.data();
    rows.sequence_count = static_cast<uint32_t>(parts.size());
    rows.positions_max = static_cast<uint32_t>(positions_max);
  }
  std::vector<SequenceRows> host;
  Rows rows;

 private:
  DeviceArray<Sequence> sequences_;
  DeviceArray<uint32_t> row_sequence_;
};

// Appends all positions of every sequence, then computes its last `rows` rows, on both sides.
void ExpectSameBatch(const Shape& s, const std::vector<Work>& work, size_t positions_max = 0) {
  SCOPED_TRACE(::testing::Message() << s);
  TestContext context(DetectCpuLevel(), 4);
  const Caches caches(s, work);
  std::vector<Work> all;
  for (const Work& w : work) all.push_back({0, w.context + w.rows});
  const Batch filling(caches, all, 0), batch(caches, work, positions_max);
  const size_t filled = filling.rows.rows, rows = batch.rows.rows;
  const auto k = Normal(filled * s.k_cols(), 2), v = Normal(filled * s.k_cols(), 3),
             q = Normal(rows * s.q_cols(), 1);
  std::vector<float> expected(q.size());
  AppendKv(context.ctx, caches.host, filling.host, {k.data(), filled, s.k_cols()},
           {v.data(), filled, s.k_cols()});
  PagedAttention(context.ctx, caches.host, batch.host, s.heads, s.window,
                 {q.data(), rows, s.q_cols()}, {expected.data(), rows, s.q_cols()});

  const DeviceArray<float> dk(k), dv(v), dq(q), out(q.size());
  Ok(Api().append_kv(nullptr, caches.device, filling.rows, dk.data(), dv.data()));
  const DeviceArray<uint8_t> scratch(
      Api().attention_scratch_bytes(rows, s.heads, s.head_dim, batch.rows.positions_max));
  Ok(Api().paged_attention(nullptr, caches.device, batch.rows, s.heads, s.window, dq.data(),
                           scratch.data(), out.data()));
  EXPECT_TRUE(caches.SameBytes());
  const size_t at = FirstDifference(out.Get(), expected);
  EXPECT_EQ(at, q.size()) << "row " << at / s.q_cols() << " head " << at % s.q_cols() / s.head_dim
                          << " dimension " << at % s.head_dim;
}

// One sequence in chunks of a length, each appended and then attended, against all of it at once.
void ExpectSameChunks(const Shape& s, size_t chunk, const std::vector<float>& q,
                      const std::vector<float>& k, const std::vector<float>& v,
                      const std::vector<float>& expected) {
  SCOPED_TRACE(::testing::Message() << s << " chunk " << chunk);
  const size_t positions = q.size() / s.q_cols();
  const Caches caches(s, {{0, positions}});
  const DeviceArray<float> dk(k), dv(v), dq(q), out(q.size());
  const DeviceArray<uint8_t> scratch(
      Api().attention_scratch_bytes(chunk, s.heads, s.head_dim, static_cast<uint32_t>(positions)));
  for (size_t begin = 0; begin < positions; begin += chunk) {
    const Batch batch(caches, {{begin, std::min(chunk, positions - begin)}}, 0);
    Ok(Api().append_kv(nullptr, caches.device, batch.rows, dk.data() + begin * s.k_cols(),
                       dv.data() + begin * s.k_cols()));
    Ok(Api().paged_attention(nullptr, caches.device, batch.rows, s.heads, s.window,
                             dq.data() + begin * s.q_cols(), scratch.data(),
                             out.data() + begin * s.q_cols()));
    Ok(Api().synchronize(nullptr));
  }
  const size_t at = FirstDifference(out.Get(), expected);
  EXPECT_EQ(at, q.size()) << "row " << at / s.q_cols() << " head " << at % s.q_cols() / s.head_dim
                          << " dimension " << at % s.head_dim;
}

std::vector<float> OnHost(const Shape& s, const std::vector<float>& q, const std::vector<float>& k,
                          const std::vector<float>& v) {
  TestContext context(DetectCpuLevel(), 4);
  const size_t positions = q.size() / s.q_cols();
  const Caches caches(s, {{0, positions}});
  const Batch batch(caches, {{0, positions}}, 0);
  std::vector<float> out(q.size());
  AppendKv(context.ctx, caches.host, batch.host, {k.data(), positions, s.k_cols()},
           {v.data(), positions, s.k_cols()});
  PagedAttention(context.ctx, caches.host, batch.host, s.heads, s.window,
                 {q.data(), positions, s.q_cols()}, {out.data(), positions, s.q_cols()});
  return out;
}

const std::vector<Shape> kShapes = {
    // As on the host.
    {4, 4, 64, 0, DType::kF32},
    {9, 3, 64, 0, DType::kF16},
    {8, 2, 16, 70, DType::kF32},
    {4, 1, 128, 0, DType::kF16},
    {3, 3, 24, 1, DType::kF32},
    {2, 1, 40, 100, DType::kF16},
    {56, 1, 8, 0, DType::kF32},
    {7, 1, 96, 64, DType::kF16},
    // Every group, both sizes of heads, both types; more heads than a kernel takes at once.
    {1, 1, 128, 64, DType::kF16},
    {4, 2, 128, 0, DType::kF32},
    {4, 2, 64, 1, DType::kF16},
    {8, 2, 128, 70, DType::kF32},
    {8, 1, 64, 0, DType::kF32},
    {16, 2, 128, 0, DType::kF16},
    {7, 1, 64, 63, DType::kF16},
    {11, 1, 128, 100, DType::kF32},
    {70, 1, 64, 0, DType::kF16},
    {2, 1, 33, 0, DType::kF16},
    {2, 2, 512, 30, DType::kF32},
};

TEST(CudaAttentionTest, ChunksGiveTheBitsOfTheHost) {
  OCTET_NEEDS_CUDA();
  const size_t positions = 200;
  for (const Shape& s : kShapes) {
    const auto q = Normal(positions * s.q_cols(), 1), k = Normal(positions * s.k_cols(), 2),
               v = Normal(positions * s.k_cols(), 3);
    const auto expected = OnHost(s, q, k, v);
    for (const size_t chunk : {1u, 5u, 16u, 37u, 64u, 200u}) {
      ExpectSameChunks(s, chunk, q, k, v, expected);
    }
  }
}

TEST(CudaAttentionTest, ExtremeScoresGiveTheBitsOfTheHost) {
  OCTET_NEEDS_CUDA();
  const size_t positions = 150;
  for (const Shape& s : kShapes) {
    const auto q = Extreme(positions, s.q_cols(), 1), k = Extreme(positions, s.k_cols(), 2),
               v = Extreme(positions, s.k_cols(), 3);
    const auto expected = OnHost(s, q, k, v);
    for (const size_t chunk : {1u, 64u, 150u}) ExpectSameChunks(s, chunk, q, k, v, expected);
  }
}

TEST(CudaAttentionTest, DecodesSequencesOfAnyLength) {
  OCTET_NEEDS_CUDA();
  const std::vector<size_t> lengths = {1, 63, 64, 65, 200, 1000};
  for (const Shape& s : {Shape{8, 2, 128, 0, DType::kF16}, Shape{8, 2, 128, 0, DType::kF32},
                         Shape{8, 1, 64, 0, DType::kF16}, Shape{2, 2, 64, 130, DType::kF32},
                         Shape{6, 2, 128, 64, DType::kF16}, Shape{3, 1, 80, 0, DType::kF16}}) {
    // Few, whose blocks are spread, and so many that they are not.
    for (const size_t times : {1, 24}) {
      std::vector<Work> work;
      for (size_t i = 0; i < times; ++i) {
        for (const size_t length : lengths) work.push_back({length - 1, 1});
      }
      ExpectSameBatch(s, work);
      ExpectSameBatch(s, work, 3000);
    }
  }
}

TEST(CudaAttentionTest, SpreadsALongSequence) {
  OCTET_NEEDS_CUDA();
  ExpectSameBatch({4, 1, 128, 0, DType::kF16}, {{9000, 1}});
  ExpectSameBatch({4, 1, 64, 0, DType::kF32}, {{9000, 1}, {4223, 1}});
  ExpectSameBatch({2, 1, 128, 5000, DType::kF16}, {{8191, 1}, {8192, 1}});
}

TEST(CudaAttentionTest, ServesPrefillAndDecodeInOneBatch) {
  OCTET_NEEDS_CUDA();
  const std::vector<Work> work = {{199, 1}, {0, 100},  {64, 3},  {0, 9}, {1000, 1},
                                  {30, 40}, {300, 70}, {500, 8}, {63, 1}};
  for (const uint32_t window : {0u, 1u, 64u, 100u}) {
    for (const DType dtype : {DType::kF16, DType::kF32}) {
      ExpectSameBatch({8, 2, 128, window, dtype}, work);
      ExpectSameBatch({3, 3, 64, window, dtype}, work, 2000);
      ExpectSameBatch({6, 2, 48, window, dtype}, work);
      // So many that no row is spread.
      std::vector<Work> twice = work;
      twice.insert(twice.end(), work.begin(), work.end());
      ExpectSameBatch({5, 1, 128, window, dtype}, twice);
    }
  }
}

// A row whose keys and values overflow spoils none before it, in the same block or tile.
TEST(CudaAttentionTest, LaterRowsNeverTouchEarlierOnes) {
  OCTET_NEEDS_CUDA();
  for (const size_t head_dim : {64, 128, 72}) {
    const Shape s{4, 1, head_dim, 0, DType::kF16};
    const size_t positions = 100, bad = 37;
    const auto q = Normal(positions * s.q_cols(), 1);
    auto k = Normal(positions * s.k_cols(), 2), v = Normal(positions * s.k_cols(), 3);
    for (size_t i = bad * s.k_cols(); i < (bad + 1) * s.k_cols(); ++i) k[i] = v[i] = 1e6f;
    const auto expected = OnHost(s, q, k, v);
    ASSERT_TRUE(std::all_of(expected.begin(), expected.begin() + bad * s.q_cols(),
                            [](float x) { return x == x; }));
    for (const size_t chunk : {1u, 100u}) ExpectSameChunks(s, chunk, q, k, v, expected);
  }
}

// Products that vanish leave zeros whose sign hangs on the last of them.
TEST(CudaAttentionTest, KeepsTheSignsOfZeros) {
  OCTET_NEEDS_CUDA();
  const float values[] = {0.0f, -0.0f, 1e-45f, -1e-45f};
  for (const Shape& s : {Shape{4, 1, 128, 0, DType::kF32}, Shape{4, 2, 64, 70, DType::kF32},
                         Shape{2, 1, 32, 0, DType::kF32}}) {
    const size_t positions = 150;
    const auto q = Normal(positions * s.q_cols(), 1), k = Normal(positions * s.k_cols(), 2);
    std::vector<float> v(positions * s.k_cols());
    std::mt19937 rng(3);
    for (float& x : v) x = values[rng() % 4];
    const auto expected = OnHost(s, q, k, v);
    for (const size_t chunk : {1u, 150u}) ExpectSameChunks(s, chunk, q, k, v, expected);
  }
}

// A graph captured for long sequences serves short ones, and positions that move on.
TEST(CudaAttentionTest, RunsFromAGraph) {
  OCTET_NEEDS_CUDA();
  const Shape s{8, 2, 128, 0, DType::kF16};
  const size_t positions = 140;
  const auto q = Normal(positions * s.q_cols(), 1), k = Normal(positions * s.k_cols(), 2),
             v = Normal(positions * s.k_cols(), 3);
  const auto expected = OnHost(s, q, k, v);
  const Caches caches(s, {{0, positions}});
  DeviceArray<Sequence> sequence(1);
  const DeviceArray<uint32_t> row_sequence(std::vector<uint32_t>{0});
  DeviceArray<float> dq(s.q_cols()), dk(s.k_cols()), dv(s.k_cols()), out(s.q_cols());
  Rows rows{1, sequence.data(), row_sequence.data(), caches.device_blocks.data(), 1, 4096};
  const DeviceArray<uint8_t> scratch(
      Api().attention_scratch_bytes(1, s.heads, s.head_dim, rows.positions_max));
  Stream stream = nullptr;
  Graph graph = nullptr;
  Ok(Api().create_stream(&stream));
  Ok(Api().begin_capture(stream));
  Ok(Api().append_kv(stream, caches.device, rows, dk.data(), dv.data()));
  Ok(Api().paged_attention(stream, caches.device, rows, s.heads, s.window, dq.data(),
                           scratch.data(), out.data()));
  Ok(Api().end_capture(stream, &graph));
  for (uint32_t p = 0; p < positions; ++p) {
    const Sequence at{0, 1, p, 0};
    sequence.Set(&at, 1);
    dq.Set(&q[p * s.q_cols()], s.q_cols());
    dk.Set(&k[p * s.k_cols()], s.k_cols());
    dv.Set(&v[p * s.k_cols()], s.k_cols());
    Ok(Api().launch_graph(stream, graph));
    Ok(Api().synchronize(stream));
    const std::vector<float> got = out.Get();
    const std::vector<float> want(&expected[p * s.q_cols()],
                                  &expected[p * s.q_cols()] + s.q_cols());
    ASSERT_EQ(FirstDifference(got, want), got.size()) << "position " << p;
  }
  Api().destroy_graph(graph);
  Api().destroy_stream(stream);
}

// Halves as the host rounds them: subnormal, infinite, at ties.
TEST(CudaAttentionTest, AppendsTheBytesOfTheHost) {
  OCTET_NEEDS_CUDA();
  const float values[] = {0.0f,     -0.0f,    65504.0f, 65519.9f, 65520.0f, -1e9f,    6.1e-5f,
                          5.97e-8f, 2.98e-8f, 2.99e-8f, 1e-40f,   1.00049f, 1.00147f, -3e-6f};
  for (const Shape& s : {Shape{3, 3, 24, 0, DType::kF16}, Shape{1, 1, 128, 0, DType::kF16},
                         Shape{1, 1, 13, 0, DType::kF32}, Shape{2, 2, 64, 0, DType::kF32}}) {
    SCOPED_TRACE(::testing::Message() << s);
    TestContext context(DetectCpuLevel(), 1);
    const std::vector<Work> work = {{3, 70}, {63, 1}, {64, 2}, {0, 1}};
    const Caches caches(s, work);
    const Batch batch(caches, work, 0);
    const size_t rows = batch.rows.rows;
    std::vector<float> k = Normal(rows * s.k_cols(), 5), v = Normal(rows * s.k_cols(), 6);
    std::mt19937 rng(7);
    for (size_t i = 0; i < k.size(); i += 1 + rng() % 3) k[i] = values[rng() % 14];
    for (size_t i = 0; i < v.size(); i += 1 + rng() % 3) v[i] = values[rng() % 14];
    AppendKv(context.ctx, caches.host, batch.host, {k.data(), rows, s.k_cols()},
             {v.data(), rows, s.k_cols()});
    const DeviceArray<float> dk(k), dv(v);
    Ok(Api().append_kv(nullptr, caches.device, batch.rows, dk.data(), dv.data()));
    EXPECT_TRUE(caches.SameBytes());
  }
}

}  // namespace
}  // namespace octet::cuda
