// Attention: levels, threads, chunking, batching and placement of blocks never change a bit, and
// the result is softmax(q K / sqrt d) V.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/limits.h"
#include "kernels/kernels.h"
#include "kernels/test_util.h"

namespace octet {
namespace {

using test::AvailableLevels;
using test::FirstDifference;
using test::Normal;
using test::TestContext;

struct Shape {
  size_t heads;
  size_t kv_heads;
  size_t head_dim;
  uint32_t window;
  DType dtype;
};

// A cache whose every byte is NaN until it is written, with blocks handed out in a mixed order.
class Cache {
 public:
  Cache(const Shape& s, size_t positions, uint32_t seed)
      : stride_(KvBlockLayerBytes(s.dtype, s.kv_heads, s.head_dim) + 128),
        memory_(stride_ * ((positions + 63) / 64 + 3)) {
    std::fill(memory_.data(), memory_.data() + memory_.size(), 0xff);
    layer = {memory_.data(), stride_, s.dtype, s.kv_heads, s.head_dim};
    for (uint32_t b = 0; b < (positions + 63) / 64; ++b) blocks.push_back(BlockId(b));
    std::mt19937 rng(seed);
    std::shuffle(blocks.begin(), blocks.end(), rng);
  }
  KvLayer layer;
  std::vector<BlockId> blocks;

 private:
  size_t stride_;
  test::AlignedBytes memory_;
};

// The whole sequence in chunks of the given length, each appended and then attended.
std::vector<float> RunAttention(const ExecContext& ctx, const Shape& s, size_t chunk,
                                const std::vector<float>& q, const std::vector<float>& k,
                                const std::vector<float>& v, uint32_t seed) {
  const size_t q_cols = s.heads * s.head_dim, k_cols = s.kv_heads * s.head_dim;
  const size_t positions = q.size() / q_cols;
  Cache cache(s, positions, seed);
  std::vector<float> out(q.size());
  for (size_t begin = 0; begin < positions; begin += chunk) {
    const size_t rows = std::min(chunk, positions - begin);
    const std::vector<SequenceRows> sequences = {
        {0, rows, static_cast<uint32_t>(begin), cache.blocks}};
    AppendKv(ctx, cache.layer, sequences, {&k[begin * k_cols], rows, k_cols},
             {&v[begin * k_cols], rows, k_cols});
    PagedAttention(ctx, cache.layer, sequences, s.heads, s.window,
                   {&q[begin * q_cols], rows, q_cols}, {&out[begin * q_cols], rows, q_cols});
  }
  return out;
}

const std::vector<Shape> kShapes = {
    {4, 4, 64, 0, DType::kF32},  {9, 3, 64, 0, DType::kF16},  {8, 2, 16, 70, DType::kF32},
    {4, 1, 128, 0, DType::kF16}, {3, 3, 24, 1, DType::kF32},  {2, 1, 40, 100, DType::kF16},
    {56, 1, 8, 0, DType::kF32},  {7, 1, 96, 64, DType::kF16}, {6, 2, 64, 0, DType::kI8},
    {5, 1, 40, 90, DType::kI8},  {16, 2, 128, 0, DType::kI8}};

TEST(AttentionTest, LevelsThreadsAndChunksGiveTheBitsOfTheReference) {
  const size_t positions = 200;
  for (const Shape& s : kShapes) {
    SCOPED_TRACE(::testing::Message() << s.heads << "/" << s.kv_heads << " dim " << s.head_dim
                                      << " window " << s.window);
    const std::vector<float> q = Normal(positions * s.heads * s.head_dim, 1),
                             k = Normal(positions * s.kv_heads * s.head_dim, 2),
                             v = Normal(positions * s.kv_heads * s.head_dim, 3);
    TestContext scalar(CpuLevel::kScalar, 1);
    const std::vector<float> expected = RunAttention(scalar.ctx, s, positions, q, k, v, 1);
    for (const CpuLevel level : AvailableLevels()) {
      for (const int threads : {1, 2}) {
        TestContext context(level, threads);
        for (const size_t chunk : {1u, 16u, 37u, 64u, 200u}) {
          if (level == CpuLevel::kScalar && (threads == 1 || chunk < 37)) continue;
          const std::vector<float> got = RunAttention(context.ctx, s, chunk, q, k, v, 5);
          ASSERT_EQ(FirstDifference(got, expected), got.size())
              << CpuLevelName(level) << " threads " << threads << " chunk " << chunk;
        }
      }
    }
  }
}

// Scores that overflow, that all but vanish beside others, that are subnormal, infinite, NaN.
TEST(AttentionTest, ExtremeScoresGiveTheBitsOfTheReference) {
  const size_t positions = 150;
  const float values[] = {0.0f, -0.0f, 1e-40f, -1e-20f, 1.0f, -3.0f, 9.0f, -40.0f, 1e19f, -1e25f};
  for (const Shape& s : kShapes) {
    SCOPED_TRACE(::testing::Message() << s.heads << "/" << s.kv_heads << " dim " << s.head_dim);
    // One kind a row: few rows are huge, so that not every result ends in NaN.
    const auto rows = [&](size_t cols, uint32_t seed) {
      std::mt19937 rng(seed);
      std::vector<float> x = Normal(positions * cols, seed);
      for (size_t r = 0; r < positions; ++r) {
        const float value = values[rng() % (r % 8 == 7 && r > 64 ? 10 : 8)];
        for (size_t i = 0; i < cols; i += 1 + rng() % 3) x[r * cols + i] = value;
      }
      return x;
    };
    const std::vector<float> q = rows(s.heads * s.head_dim, 1),
                             k = rows(s.kv_heads * s.head_dim, 2),
                             v = rows(s.kv_heads * s.head_dim, 3);
    TestContext scalar(CpuLevel::kScalar, 1);
    const std::vector<float> expected = RunAttention(scalar.ctx, s, positions, q, k, v, 1);
    for (const CpuLevel level : AvailableLevels()) {
      TestContext context(level, 1);
      const std::vector<float> got = RunAttention(context.ctx, s, 64, q, k, v, 5);
      EXPECT_EQ(FirstDifference(got, expected), got.size()) << CpuLevelName(level);
    }
  }
}

// Of a result against one without rounding of keys and values, all of the order of 1.
double Tolerance(DType dtype) {
  return dtype == DType::kI8 ? 0.08 : dtype == DType::kF16 ? 4e-3 : 2e-5;
}

TEST(AttentionTest, MatchesSoftmaxInDoublePrecision) {
  const size_t positions = 150;
  for (const Shape& s : kShapes) {
    const std::vector<float> q = Normal(positions * s.heads * s.head_dim, 1),
                             k = Normal(positions * s.kv_heads * s.head_dim, 2),
                             v = Normal(positions * s.kv_heads * s.head_dim, 3);
    TestContext scalar(CpuLevel::kScalar, 1);
    const std::vector<float> got = RunAttention(scalar.ctx, s, positions, q, k, v, 1);
    for (size_t p = 0; p < positions; p += 7) {
      for (size_t h = 0; h < s.heads; ++h) {
        const size_t kv = h / (s.heads / s.kv_heads);
        const size_t begin = s.window != 0 && p + 1 > s.window ? p + 1 - s.window : 0;
        std::vector<double> weights;
        double total = 0;
        for (size_t j = begin; j <= p; ++j) {
          double dot = 0;
          for (size_t d = 0; d < s.head_dim; ++d) {
            dot += static_cast<double>(q[(p * s.heads + h) * s.head_dim + d]) *
                   k[(j * s.kv_heads + kv) * s.head_dim + d];
          }
          weights.push_back(std::exp(dot / std::sqrt(static_cast<double>(s.head_dim))));
          total += weights.back();
        }
        for (size_t d = 0; d < s.head_dim; ++d) {
          double want = 0;
          for (size_t j = begin; j <= p; ++j) {
            want += weights[j - begin] / total * v[(j * s.kv_heads + kv) * s.head_dim + d];
          }
          ASSERT_NEAR(got[(p * s.heads + h) * s.head_dim + d], want, Tolerance(s.dtype));
        }
      }
    }
  }
}

TEST(AttentionTest, SequencesInOneBatchDoNotTouchEachOther) {
  const Shape s{6, 2, 32, 0, DType::kF16};
  const size_t q_cols = s.heads * s.head_dim, k_cols = s.kv_heads * s.head_dim;
  const std::vector<size_t> lengths = {70, 1, 130};
  for (const CpuLevel level : AvailableLevels()) {
    TestContext context(level, 2);
    std::vector<float> q, k, v, alone;
    for (size_t i = 0; i < lengths.size(); ++i) {
      const auto add = [&](std::vector<float>& to, size_t cols, uint32_t seed) {
        const std::vector<float> rows = Normal(lengths[i] * cols, seed);
        to.insert(to.end(), rows.begin(), rows.end());
        return rows;
      };
      const uint32_t seed = static_cast<uint32_t>(10 * i);
      const auto qi = add(q, q_cols, seed), ki = add(k, k_cols, seed + 1),
                 vi = add(v, k_cols, seed + 2);
      const auto out = RunAttention(context.ctx, s, 1000, qi, ki, vi, 1);
      alone.insert(alone.end(), out.begin(), out.end());
    }
    if (level >= CpuLevel::kAvx512) {
      // A row that is not finite spoils only its own sequence, checked below by its neighbours.
      k[0] = NAN;
    }
    Cache cache(s, 64 * 6, 9);
    std::vector<SequenceRows> sequences;
    size_t row = 0, block = 0;
    for (const size_t length : lengths) {
      const size_t count = (length + 63) / 64;
      sequences.push_back({row, length, 0, absl::MakeConstSpan(&cache.blocks[block], count)});
      row += length;
      block += count;
    }
    std::vector<float> out(q.size());
    AppendKv(context.ctx, cache.layer, sequences, {k.data(), row, k_cols}, {v.data(), row, k_cols});
    PagedAttention(context.ctx, cache.layer, sequences, s.heads, 0, {q.data(), row, q_cols},
                   {out.data(), row, q_cols});
    const size_t skip = level >= CpuLevel::kAvx512 ? lengths[0] * q_cols : 0;
    EXPECT_TRUE(std::equal(out.begin() + skip, out.end(), alone.begin() + skip));
    if (skip != 0) {
      EXPECT_TRUE(std::isnan(out[0]));
    }
  }
}

}  // namespace
}  // namespace octet
