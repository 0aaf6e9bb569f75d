// Products and experts: every level gives the bits of the reference, for any batch and any number
// of threads, and the reference agrees with double-precision sums.
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "core/limits.h"
#include "kernels/kernels.h"
#include "kernels/panel_layout.h"
#include "kernels/test_util.h"

namespace octet {
namespace {

using test::AvailableLevels;
using test::FirstDifference;
using test::RandomMatrix;
using test::TestContext;

constexpr size_t kRowCounts[] = {1, 2, 3, 4, 5, 7, 8, 13, 16, 33, 64};
const std::vector<std::string> kIntFormats = {
    "q8_0",    "q4_0",     "q4_1",    "q5_0",     "q5_1",   "q4_k",   "q5_k",   "q6_k",
    "int8g64", "int8g128", "int4g64", "int4g128", "w4xg32", "w4xg64", "w4xg128"};

// Rows whose groups hit every corner: all at the extremes, zeros of both signs, subnormals, huge.
std::vector<float> AdversarialRows(size_t rows, size_t k, uint32_t seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(rows * k);
  for (size_t r = 0; r < rows; ++r) {
    for (size_t begin = 0; begin < k; begin += 32) {
      // Every other row is plain, so that huge groups do not hide the bits of small ones.
      const uint32_t what = r % 2 == 0 ? 11 : rng() % 12;
      for (size_t i = begin; i < std::min(k, begin + 32); ++i) {
        float& v = x[r * k + i];
        v = normal(rng);
        if (what == 0) v = 1.0f;
        if (what == 1) v = -3.5f;
        if (what == 2) v = i % 2 == 0 ? 0.0f : -0.0f;
        if (what == 3) v = v * 1e-39f;
        if (what == 4) v = v * 1e30f;
        if (what == 5) v = i % 3 == 0 ? 127.0f : static_cast<float>(static_cast<int>(i % 9)) + 0.5f;
        if (what == 6) v = v * 0x1p-99f;
      }
    }
  }
  return x;
}

std::vector<float> RunMatMul(const ExecContext& ctx, const PackedWeights& w,
                             const std::vector<float>& x, size_t rows) {
  std::vector<float> y(rows * w.n, -1.0f);
  MatMul(ctx, w, {x.data(), rows, w.k}, {y.data(), rows, w.n});
  return y;
}

TEST(MatMulTest, LevelsBatchesAndThreadsGiveTheBitsOfTheReference) {
  std::vector<std::string> formats = kIntFormats;
  formats.insert(formats.end(), {"f32", "f16", "bf16"});
  for (const std::string& name : formats) {
    SCOPED_TRACE(name);
    const WeightFormat format = *WeightFormatFromName(name);
    const bool odd_k = !format.is_integer() || GgufRowBytes(format, 256) == 0;
    const size_t n = 21 * 16 + 5, k = odd_k ? 203 : 512;
    const RandomMatrix m(name, n, k, 11, false);
    const std::vector<float> x = AdversarialRows(64, k, 5);
    TestContext scalar(CpuLevel::kScalar, 1);
    const std::vector<float> expected = RunMatMul(scalar.ctx, m.w, x, 64);
    for (const CpuLevel level : AvailableLevels()) {
      if (level == CpuLevel::kScalar) continue;
      for (const int threads : {1, 2}) {
        TestContext context(level, threads);
        for (const size_t rows : kRowCounts) {
          const std::vector<float> y = RunMatMul(context.ctx, m.w, x, rows);
          const std::vector<float> want(expected.begin(), expected.begin() + rows * n);
          ASSERT_EQ(FirstDifference(y, want), y.size())
              << CpuLevelName(level) << " threads " << threads << " rows " << rows;
        }
      }
    }
  }
}

TEST(MatMulTest, ScalarDoesNotDependOnTheBatchEither) {
  for (const std::string name : {"q4_0", "q6_k", "w4xg64", "f32"}) {
    const RandomMatrix m(name, 35, 256, 3);
    const std::vector<float> x = AdversarialRows(9, 256, 8);
    TestContext context(CpuLevel::kScalar, 2);
    const std::vector<float> all = RunMatMul(context.ctx, m.w, x, 9);
    for (size_t r = 0; r < 9; ++r) {
      const std::vector<float> row(x.begin() + r * 256, x.begin() + (r + 1) * 256);
      const std::vector<float> want(all.begin() + r * 35, all.begin() + (r + 1) * 35);
      EXPECT_EQ(FirstDifference(RunMatMul(context.ctx, m.w, row, 1), want), 35u) << name;
    }
  }
}

// Rows of nothing but 127, of -127, of both in turn, of zeros, of subnormals, and of groups of
// each.
std::vector<float> ExtremeRows(size_t rows, size_t k) {
  std::vector<float> x(rows * k);
  for (size_t i = 0; i < x.size(); ++i) {
    const size_t row = i / k, column = i % k;
    const size_t what = row % 6 < 5 ? row % 6 : (column / 32 + row) % 5;
    const float turn = column % 2 == 0 ? 1.0f : -1.0f;
    x[i] = what == 0 ? 1.0f : what == 1 ? -1.0f : what == 2 ? turn : what == 3 ? 0.0f : 1e-40f;
  }
  return x;
}

// Largest sums: a fourth of the outputs has every code at one of its ends or near.
void PackExtremes(const WeightFormat& format, size_t n, size_t k, uint8_t* packed) {
  const size_t row_bytes = GgufRowBytes(format, k);
  if (row_bytes == 0) {
    std::vector<float> source(n * k, 1.0f);
    for (size_t i = 0; i < n * k / 2; ++i) source[i] = -1.0f;
    // A group of zeros, whose scale is 0, and one whose scale is subnormal.
    for (size_t i = 0; i < 32; ++i) source[i] = 0.0f;
    for (size_t i = k; i < k + 32; ++i) source[i] = 1e-5f;
    ASSERT_TRUE(PackFloatWeights(format, {source.data(), n, k}, packed).ok());
    return;
  }
  std::vector<uint8_t> blocks(n * row_bytes);
  for (size_t i = 0; i < blocks.size(); ++i) {
    const size_t row = i / row_bytes;
    blocks[i] = row % 4 == 0 ? 0x00 : row % 4 == 1 ? 0x80 : row % 4 == 2 ? 0x7f : 0xff;
    // Keeps f16 fields finite: no exponent of all ones.
    if (row % 4 >= 2 && format.bits != 8) blocks[i] = row % 4 == 2 ? 0x3b : 0xbb;
  }
  if (format.bits == 8) {
    const uint16_t one = 0x3c00;
    for (size_t b = 0; b < blocks.size(); b += 34) std::memcpy(&blocks[b], &one, 2);
  }
  ASSERT_TRUE(PackGgufBlocks(format, n, k, blocks.data(), packed).ok());
}

TEST(MatMulTest, ExtremeCodesTimesExtremeActivationsStayExact) {
  for (const std::string& name : kIntFormats) {
    const WeightFormat format = *WeightFormatFromName(name);
    // K that is no multiple of the group where the format allows it.
    const size_t k = GgufRowBytes(format, 256) == 0 ? 237 : 256, n = 10 * 16, rows = 33;
    test::AlignedBytes packed(PackedBytes(format, n, k));
    ASSERT_NO_FATAL_FAILURE(PackExtremes(format, n, k, packed.data()));
    const PackedWeights w{format, n, k, packed.data(), Device{}};
    const std::vector<float> x = ExtremeRows(rows, k);
    TestContext scalar(CpuLevel::kScalar, 1);
    const std::vector<float> expected = RunMatMul(scalar.ctx, w, x, rows);
    for (const CpuLevel level : AvailableLevels()) {
      TestContext context(level, 1);
      for (const size_t count : {1u, 2u, 3u, 4u, 33u}) {
        // Every row comes first once, so that one row alone sees each kind.
        for (size_t first = 0; first < 6 && first + count <= rows; ++first) {
          const auto begin = [&](const std::vector<float>& v, size_t columns) {
            return v.begin() + static_cast<ptrdiff_t>(first * columns);
          };
          const std::vector<float> some(begin(x, k), begin(x, k) + count * k);
          const std::vector<float> want(begin(expected, n), begin(expected, n) + count * n);
          EXPECT_EQ(FirstDifference(RunMatMul(context.ctx, w, some, count), want), want.size())
              << name << " " << CpuLevelName(level) << " rows " << count << " from " << first;
        }
      }
    }
  }
}

// What any product of w4x is: the integer sum of factor * (code - 8) * q, converted once.
TEST(MatMulTest, W4xSumsOfEveryInputFitTheirIntegers) {
  const WeightFormat format = *WeightFormatFromName("w4xg32");
  const size_t n = 16, k = kW4xInputsMax, rows = 6;
  test::AlignedBytes packed(PackedBytes(format, n, k));
  const PackedWeights w{format, n, k, packed.data(), Device{}};
  // Code 0 stands for -8; every lane has a factor of its own, the first two the extremes.
  const PanelLayout layout = MakePanelLayout(format, k);
  const int factors[n] = {15, -15, 1, -1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13};
  for (size_t lane = 0; lane < n; ++lane) {
    const float scale = 0.37f + static_cast<float>(lane);
    std::memcpy(packed.data() + 4 * lane, &scale, 4);
    for (size_t g = 0; g < k / 32; ++g) {
      packed.data()[layout.second + g * 16 + lane] = static_cast<uint8_t>(factors[lane]);
    }
  }
  // -128 is nothing that quantising makes, but a peer may send it.
  const int8_t values[rows] = {127, -127, -128, 1, 0, -5};
  std::vector<int8_t> q(rows * k);
  std::vector<float> scales(rows);
  for (size_t r = 0; r < rows; ++r) {
    std::fill_n(q.begin() + static_cast<ptrdiff_t>(r * k), k, values[r]);
    scales[r] = 0.013f * static_cast<float>(r + 1);
  }
  const QuantizedRows x{rows, k, k, q.data(), scales.data()};
  for (const CpuLevel level : AvailableLevels()) {
    for (const size_t count : {size_t{1}, rows}) {
      TestContext context(level, 1);
      std::vector<float> y(count * n);
      MatMulInt(context.ctx, w, {count, k, k, q.data(), scales.data()}, {y.data(), count, n});
      for (size_t r = 0; r < count; ++r) {
        for (size_t o = 0; o < n; ++o) {
          const int64_t sum = int64_t{factors[o]} * -8 * values[r] * static_cast<int64_t>(k);
          ASSERT_EQ(sum, static_cast<int32_t>(sum));
          const float scale = (0.37f + static_cast<float>(o)) * x.scales[r];
          ASSERT_EQ(y[r * n + o], static_cast<float>(static_cast<int32_t>(sum)) * scale)
              << CpuLevelName(level) << " " << r << " " << o;
        }
      }
    }
  }
}

TEST(MatMulTest, ReferenceAgreesWithDoublePrecision) {
  std::vector<std::string> formats = kIntFormats;
  formats.insert(formats.end(), {"f32", "f16", "bf16"});
  std::mt19937 rng(9);
  std::normal_distribution<float> normal;
  for (const std::string& name : formats) {
    const size_t n = 24, k = 512, rows = 3;
    const RandomMatrix m(name, n, k, 2);
    std::vector<float> x(rows * k);
    for (float& v : x) v = normal(rng);
    TestContext scalar(CpuLevel::kScalar, 1);
    const std::vector<float> y = RunMatMul(scalar.ctx, m.w, x, rows);
    std::vector<float> weights(k);
    for (size_t o = 0; o < n; ++o) {
      UnpackRow(m.w, o, weights.data());
      for (size_t r = 0; r < rows; ++r) {
        double sum = 0, magnitude = 0;
        for (size_t i = 0; i < k; ++i) {
          sum += static_cast<double>(weights[i]) * x[r * k + i];
          magnitude += std::pow(static_cast<double>(weights[i]), 2);
        }
        // Activations carry an error of up to half a step of about 3/127 each.
        const double bound =
            m.format.is_integer() ? 0.06 * std::sqrt(magnitude) : 1e-5 * std::sqrt(magnitude * k);
        ASSERT_NEAR(y[r * n + o], sum, bound) << name << " " << o;
      }
    }
  }
}

TEST(QuantizeTest, LevelsAgreeAndFollowTheFormula) {
  const size_t k = 200;
  const std::vector<float> x = AdversarialRows(40, k, 77);
  for (const char* name : {"q8_0", "int8g64", "int8g128", "w4xg32", "w4xg128"}) {
    const WeightFormat format = *WeightFormatFromName(name);
    TestContext scalar(CpuLevel::kScalar, 1);
    const QuantizedRows want = AllocQuantizedRows(scalar.ctx, format, 40, k);
    QuantizeRows(scalar.ctx, {x.data(), 40, k}, want);
    const size_t groups = want.padded_k / want.group;
    for (size_t i = 0; i < 40 * groups; ++i) {
      const size_t row = i / groups, begin = i % groups * want.group;
      float absmax = 0;
      for (size_t j = begin; j < std::min(k, begin + want.group); ++j) {
        absmax = std::max(absmax, std::fabs(x[row * k + j]));
      }
      EXPECT_EQ(want.scales[i], absmax < 0x1p-100f ? 0.0f : absmax / 127.0f);
      for (size_t j = begin; j < begin + want.group; ++j) {
        const int q = want.q[row * want.padded_k + j];
        ASSERT_LE(std::abs(q), 127);
        if (j >= k || want.scales[i] == 0) {
          ASSERT_EQ(q, 0);
        } else {
          ASSERT_NEAR(q, x[row * k + j] * 127.0 / absmax, 0.5001);
        }
      }
    }
    for (const CpuLevel level : AvailableLevels()) {
      TestContext context(level, 2);
      const QuantizedRows got = AllocQuantizedRows(context.ctx, format, 40, k);
      QuantizeRows(context.ctx, {x.data(), 40, k}, got);
      EXPECT_EQ(std::memcmp(got.q, want.q, 40 * want.padded_k), 0) << CpuLevelName(level);
      EXPECT_EQ(std::memcmp(got.scales, want.scales, 40 * groups * 4), 0) << CpuLevelName(level);
    }
  }
}

TEST(MatMulTest, RowsThatAreNotFiniteSpoilOnlyThemselves) {
  for (const std::string name : {"q4_0", "q6_k", "q4_k", "w4xg32", "f32", "f16"}) {
    const RandomMatrix m(name, 40, 256, 4);
    std::vector<float> x = AdversarialRows(7, 256, 6);
    for (const CpuLevel level : AvailableLevels()) {
      TestContext context(level, 2);
      const std::vector<float> clean = RunMatMul(context.ctx, m.w, x, 7);
      std::vector<float> bad = x;
      bad[2 * 256 + 17] = NAN;
      bad[5 * 256 + 200] = -INFINITY;
      const std::vector<float> y = RunMatMul(context.ctx, m.w, bad, 7);
      for (size_t r = 0; r < 7; ++r) {
        for (size_t o = 0; o < 40; ++o) {
          const float v = y[r * 40 + o];
          if (r == 2 || r == 5) {
            ASSERT_FALSE(std::isfinite(v)) << name;
          } else {
            ASSERT_TRUE(test::BitsEqual(v, clean[r * 40 + o])) << name;
          }
        }
      }
    }
  }
}

struct FfnCase {
  std::string gate;
  std::string down;
  size_t hidden;
  size_t middle;
};

std::vector<float> RunFfn(const ExecContext& ctx, const ExpertWeights& w,
                          const std::vector<float>& x, const std::vector<uint32_t>& rows) {
  const size_t hidden = w.gate.k, batch = x.size() / hidden;
  std::vector<float> y(rows.size() * hidden);
  ExpertInput input;
  if (w.gate.format.is_integer()) {
    input.q = AllocQuantizedRows(ctx, w.gate.format, batch, hidden);
    QuantizeRows(ctx, {x.data(), batch, hidden}, input.q);
  } else {
    input.f32 = {x.data(), batch, hidden};
  }
  ExpertFfn(ctx, w, input, rows, {y.data(), rows.size(), hidden});
  return y;
}

TEST(ExpertFfnTest, LevelsBatchesAndThreadsGiveTheBitsOfTheReference) {
  const std::vector<FfnCase> cases = {
      {"q4_0", "q4_0", 256, 352},        {"q8_0", "q8_0", 256, 352},
      {"int4g128", "int8g64", 200, 300}, {"int8g64", "int4g128", 72, 328},
      {"q4_k", "q6_k", 256, 512},        {"f32", "f32", 75, 130},
      {"f16", "q8_0", 64, 96},           {"q5_1", "bf16", 96, 80},
      {"w4xg32", "w4xg32", 200, 300},    {"w4xg64", "w4xg128", 256, 352},
      {"w4xg128", "int4g64", 72, 328},   {"q8_0", "w4xg32", 256, 70}};
  for (const FfnCase& c : cases) {
    SCOPED_TRACE(c.gate + " " + c.down);
    const RandomMatrix gate(c.gate, c.middle, c.hidden, 1), up(c.gate, c.middle, c.hidden, 2),
        down(c.down, c.hidden, c.middle, 3);
    const ExpertWeights w{gate.w, up.w, down.w};
    const std::vector<float> x = test::Normal(70 * c.hidden, 4);
    std::vector<uint32_t> all;
    for (uint32_t i = 0; i < 64; ++i) all.push_back(i * 37 % 70);
    TestContext scalar(CpuLevel::kScalar, 1);
    const std::vector<float> expected = RunFfn(scalar.ctx, w, x, all);
    for (const CpuLevel level : AvailableLevels()) {
      if (level == CpuLevel::kScalar) continue;
      for (const int threads : {1, 2}) {
        TestContext context(level, threads);
        for (const size_t rows : kRowCounts) {
          const std::vector<uint32_t> some(all.begin(), all.begin() + rows);
          const std::vector<float> y = RunFfn(context.ctx, w, x, some);
          const std::vector<float> want(expected.begin(), expected.begin() + rows * c.hidden);
          ASSERT_EQ(FirstDifference(y, want), y.size())
              << CpuLevelName(level) << " threads " << threads << " rows " << rows;
        }
      }
    }
  }
}

TEST(ExpertFfnTest, ReferenceAgreesWithDoublePrecision) {
  const size_t hidden = 40, middle = 56;
  const RandomMatrix gate("f32", middle, hidden, 1), up("f32", middle, hidden, 2),
      down("f32", hidden, middle, 3);
  std::vector<float> x(hidden);
  for (size_t i = 0; i < hidden; ++i) x[i] = std::sin(static_cast<float>(i) * 7.0f) * 3.0f;
  TestContext scalar(CpuLevel::kScalar, 1);
  const std::vector<float> y = RunFfn(scalar.ctx, {gate.w, up.w, down.w}, x, {0});
  std::vector<float> row(hidden);
  std::vector<double> h(middle);
  for (size_t j = 0; j < middle; ++j) {
    double g = 0, u = 0;
    UnpackRow(gate.w, j, row.data());
    for (size_t i = 0; i < hidden; ++i) g += static_cast<double>(row[i]) * x[i];
    UnpackRow(up.w, j, row.data());
    for (size_t i = 0; i < hidden; ++i) u += static_cast<double>(row[i]) * x[i];
    h[j] = g / (1 + std::exp(-g)) * u;
  }
  std::vector<float> down_row(middle);
  for (size_t i = 0; i < hidden; ++i) {
    UnpackRow(down.w, i, down_row.data());
    double sum = 0;
    for (size_t j = 0; j < middle; ++j) sum += down_row[j] * h[j];
    EXPECT_NEAR(y[i], sum, 2e-5);
  }
}

}  // namespace
}  // namespace octet
