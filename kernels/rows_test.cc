// Row operations, gates and heads: every level equals the reference, the reference equals maths.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "kernels/kernels.h"
#include "kernels/math.h"
#include "kernels/test_util.h"

namespace octet {
namespace {

using test::AvailableLevels;
using test::FirstDifference;
using test::Normal;
using test::TestContext;

// Runs `op` at every level with one and two threads, and expects one result.
std::vector<float> SameEverywhere(const std::function<std::vector<float>(const ExecContext&)>& op) {
  std::vector<float> expected;
  for (const CpuLevel level : AvailableLevels()) {
    for (const int threads : {1, 2}) {
      TestContext context(level, threads);
      const std::vector<float> got = op(context.ctx);
      if (expected.empty()) expected = got;
      EXPECT_EQ(FirstDifference(got, expected), got.size())
          << CpuLevelName(level) << " threads " << threads;
    }
  }
  return expected;
}

TEST(RowsTest, RmsNorm) {
  for (const size_t n : {1u, 15u, 16u, 31u, 33u, 64u, 576u, 1000u}) {
    const size_t rows = 70;
    const std::vector<float> x = Normal(rows * n, 1), w = Normal(n, 2);
    const auto y = SameEverywhere([&](const ExecContext& ctx) {
      std::vector<float> out(rows * n);
      RmsNorm(ctx, {x.data(), rows, n}, w.data(), 1e-5f, {out.data(), rows, n});
      return out;
    });
    for (size_t r = 0; r < rows; ++r) {
      double sum = 0;
      for (size_t i = 0; i < n; ++i) sum += std::pow(static_cast<double>(x[r * n + i]), 2);
      for (size_t i = 0; i < n; ++i) {
        const double want = x[r * n + i] / std::sqrt(sum / n + 1e-5) * w[i];
        ASSERT_NEAR(y[r * n + i], want, 1e-5 * std::max(1.0, std::fabs(want)));
      }
    }
  }
}

TEST(RowsTest, AddAndCombineInPlace) {
  const size_t rows = 40, n = 77, k = 3;
  const std::vector<float> x = Normal(rows * n, 1), weights = Normal(rows * k, 2),
                           replies = Normal(rows * k * n, 3);
  std::vector<const float*> pointers;
  for (size_t i = 0; i < rows * k; ++i) pointers.push_back(&replies[i * n]);
  const auto y = SameEverywhere([&](const ExecContext& ctx) {
    std::vector<float> out = x;
    CombineExperts(ctx, {out.data(), rows, n}, k, weights.data(), pointers.data(),
                   {out.data(), rows, n});
    AddRows(ctx, {x.data(), rows, n}, {out.data(), rows, n});
    return out;
  });
  for (size_t r = 0; r < rows; ++r) {
    for (size_t i = 0; i < n; ++i) {
      double want = 2.0 * x[r * n + i];
      for (size_t s = 0; s < k; ++s) want += weights[r * k + s] * replies[(r * k + s) * n + i];
      ASSERT_NEAR(y[r * n + i], want, 2e-6 * std::max(1.0, std::fabs(want)) + 1e-5);
    }
  }
}

TEST(RowsTest, CombineWithWeightOneAddsTheReplyExactly) {
  const std::vector<float> x = Normal(64, 1), reply = Normal(64, 2);
  const float one = 1.0f;
  const float* pointer = reply.data();
  const auto y = SameEverywhere([&](const ExecContext& ctx) {
    std::vector<float> out(64);
    CombineExperts(ctx, {x.data(), 1, 64}, 1, &one, &pointer, {out.data(), 1, 64});
    return out;
  });
  for (size_t i = 0; i < 64; ++i) EXPECT_EQ(y[i], x[i] + reply[i]);
}

TEST(RowsTest, RopeRotatesHalvesAndKeepsLength) {
  for (const size_t head_dim : {2u, 24u, 64u, 128u}) {
    const size_t rows = 33, heads = 3, positions = 3000, half = head_dim / 2;
    std::vector<float> c(positions * half), s(positions * half);
    FillRopeTable(10000.0, head_dim, positions, c.data(), s.data());
    for (size_t i = 0; i < half; ++i) {
      const double angle = 2999 * std::pow(10000.0, -2.0 * i / head_dim);
      ASSERT_NEAR(c[2999 * half + i], std::cos(angle), 1e-7);
      ASSERT_NEAR(s[2999 * half + i], std::sin(angle), 1e-7);
    }
    std::vector<uint32_t> at;
    for (uint32_t r = 0; r < rows; ++r) at.push_back(r * 90);
    const std::vector<float> x = Normal(rows * heads * head_dim, 4);
    const auto y = SameEverywhere([&](const ExecContext& ctx) {
      std::vector<float> out = x;
      ApplyRope(ctx, c.data(), s.data(), head_dim, at, {out.data(), rows, heads * head_dim});
      return out;
    });
    for (size_t h = 0; h < rows * heads; ++h) {
      const uint32_t p = at[h / heads];
      for (size_t i = 0; i < half; ++i) {
        const double a = x[h * head_dim + i], b = x[h * head_dim + half + i];
        const double cosine = c[p * half + i], sine = s[p * half + i];
        ASSERT_NEAR(y[h * head_dim + i], a * cosine - b * sine, 1e-6);
        ASSERT_NEAR(y[h * head_dim + half + i], b * cosine + a * sine, 1e-6);
      }
    }
  }
}

TEST(RowsTest, EmbedRowsReturnsTableRows) {
  const test::RandomMatrix table("q4_0", 50, 96, 5);
  const std::vector<TokenId> ids = {0, 49, 7, 7};
  const auto y = SameEverywhere([&](const ExecContext& ctx) {
    std::vector<float> out(4 * 96);
    EmbedRows(ctx, table.w, ids, {out.data(), 4, 96});
    return out;
  });
  for (size_t i = 0; i < ids.size(); ++i) {
    std::vector<float> row(96);
    UnpackRow(table.w, static_cast<size_t>(ids[i]), row.data());
    EXPECT_TRUE(std::equal(row.begin(), row.end(), y.begin() + i * 96));
  }
}

struct Gated {
  std::vector<uint32_t> experts;
  std::vector<float> weights;
};

TEST(GateTest, LinearChoosesTheBestAndRenormalises) {
  for (const size_t experts : {4u, 8u, 16u, 60u}) {
    const size_t rows = 65, hidden = 48, k = 3;
    const test::RandomMatrix w("f32", experts, hidden, 6);
    const std::vector<float> x = Normal(rows * hidden, 7, 4.0f);
    std::vector<uint32_t> chosen(rows * k);
    const auto weights = SameEverywhere([&](const ExecContext& ctx) {
      std::vector<uint32_t> ids(rows * k);
      std::vector<float> out(rows * k);
      GateLinear(ctx, w.w, {x.data(), rows, hidden}, {rows, k, ids.data(), out.data()});
      out.insert(out.end(), ids.begin(), ids.end());
      chosen = ids;
      return out;
    });
    std::vector<float> row(hidden);
    for (size_t r = 0; r < rows; ++r) {
      std::vector<std::pair<double, size_t>> logits;
      for (size_t e = 0; e < experts; ++e) {
        UnpackRow(w.w, e, row.data());
        double sum = 0;
        for (size_t i = 0; i < hidden; ++i) sum += static_cast<double>(row[i]) * x[r * hidden + i];
        logits.emplace_back(-sum, e);
      }
      std::sort(logits.begin(), logits.end());
      double total = 0;
      for (size_t s = 0; s < k; ++s) total += std::exp(logits[0].first - logits[s].first);
      for (size_t s = 0; s < k; ++s) {
        ASSERT_EQ(chosen[r * k + s], logits[s].second);
        ASSERT_NEAR(weights[r * k + s], std::exp(logits[0].first - logits[s].first) / total, 1e-5);
      }
    }
  }
}

TEST(GateTest, TiesGoToTheLowerExpert) {
  test::AlignedBytes packed(PackedBytes(*WeightFormatFromName("f32"), 8, 4));
  const std::vector<float> same(8 * 4, 0.25f);
  ASSERT_TRUE(
      PackFloatWeights(*WeightFormatFromName("f32"), {same.data(), 8, 4}, packed.data()).ok());
  const PackedWeights w{*WeightFormatFromName("f32"), 8, 4, packed.data(), Device{}};
  const std::vector<float> x = {1, 2, 3, 4};
  for (const CpuLevel level : AvailableLevels()) {
    TestContext context(level, 1);
    uint32_t ids[2];
    float weights[2];
    GateLinear(context.ctx, w, {x.data(), 1, 4}, {1, 2, ids, weights});
    EXPECT_EQ(ids[0], 0u);
    EXPECT_EQ(ids[1], 1u);
    EXPECT_EQ(weights[0], 0.5f);
  }
}

TEST(GateTest, AttentionMatchesItsFormula) {
  const size_t experts = 8, rows = 20, hidden = 32, k = 2;
  const test::RandomMatrix wq("f32", experts, hidden, 1), wk("f32", experts, hidden, 2),
      wv("f32", experts, hidden, 3);
  const std::vector<float> x = Normal(rows * hidden, 7, 2.0f);
  std::vector<uint32_t> chosen;
  const auto weights = SameEverywhere([&](const ExecContext& ctx) {
    std::vector<uint32_t> ids(rows * k);
    std::vector<float> out(rows * k);
    GateAttention(ctx, wq.w, wk.w, wv.w, {x.data(), rows, hidden},
                  {rows, k, ids.data(), out.data()});
    chosen = ids;
    return out;
  });
  std::vector<float> row(hidden);
  for (size_t r = 0; r < rows; ++r) {
    std::vector<double> q(experts), key(experts), v(experts), p(experts);
    const auto project = [&](const PackedWeights& w, std::vector<double>& out) {
      for (size_t e = 0; e < experts; ++e) {
        UnpackRow(w, e, row.data());
        out[e] = 0;
        for (size_t i = 0; i < hidden; ++i)
          out[e] += static_cast<double>(row[i]) * x[r * hidden + i];
      }
    };
    project(wq.w, q);
    project(wk.w, key);
    project(wv.w, v);
    for (size_t i = 0; i < experts; ++i) {
      double sum = 0, dot = 0;
      for (size_t j = 0; j < experts; ++j) {
        sum += std::exp(q[i] * key[j]);
        dot += std::exp(q[i] * key[j]) * v[j];
      }
      p[i] = dot / sum;
    }
    std::vector<size_t> order(experts);
    for (size_t i = 0; i < experts; ++i) order[i] = i;
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return p[a] > p[b]; });
    const double second = std::exp(p[order[1]] - p[order[0]]);
    EXPECT_EQ(chosen[r * k], order[0]);
    EXPECT_EQ(chosen[r * k + 1], order[1]);
    EXPECT_NEAR(weights[r * k], 1 / (1 + second), 1e-5);
    EXPECT_NEAR(weights[r * k + 1], second / (1 + second), 1e-5);
  }
}

TEST(GateTest, ProbabilitiesAreWhatTheChoiceWasMadeFrom) {
  const size_t experts = 8, rows = 20, hidden = 32, k = 3;
  const test::RandomMatrix wq("f32", experts, hidden, 1), wk("f32", experts, hidden, 2),
      wv("f32", experts, hidden, 3);
  const std::vector<float> x = Normal(rows * hidden, 7, 2.0f);
  for (const bool attention : {false, true}) {
    std::vector<uint32_t> ids(rows * k);
    std::vector<float> weights(rows * k), p(rows * experts);
    const TopK out{rows, k, ids.data(), weights.data(), p.data()};
    TestContext context(CpuLevel::kScalar, 1);
    if (attention) {
      GateAttention(context.ctx, wq.w, wk.w, wv.w, {x.data(), rows, hidden}, out);
    } else {
      GateLinear(context.ctx, wq.w, {x.data(), rows, hidden}, out);
    }
    for (size_t r = 0; r < rows; ++r) {
      const float* row = &p[r * experts];
      float sum = 0, chosen = 0;
      for (size_t e = 0; e < experts; ++e) sum += row[e];
      EXPECT_NEAR(sum, 1.0f, 1e-6f);
      EXPECT_EQ(ids[r * k], std::max_element(row, row + experts) - row);
      for (size_t s = 0; s < k; ++s) chosen += row[ids[r * k + s]];
      for (size_t s = 0; s < k; ++s) {
        EXPECT_EQ(weights[r * k + s], row[ids[r * k + s]] / chosen);
      }
    }
  }
}

TEST(GateTest, RowThatIsNotFiniteSpoilsOnlyItself) {
  const test::RandomMatrix w("f32", 8, 32, 6);
  std::vector<float> x = Normal(3 * 32, 7);
  x[32 + 5] = NAN;
  for (const CpuLevel level : AvailableLevels()) {
    TestContext context(level, 1);
    uint32_t ids[6];
    float weights[6];
    GateLinear(context.ctx, w.w, {x.data(), 3, 32}, {3, 2, ids, weights});
    EXPECT_TRUE(std::isnan(weights[2]) && std::isnan(weights[3]));
    EXPECT_TRUE(ids[2] < 8 && ids[3] < 8 && ids[2] != ids[3]);
    EXPECT_NEAR(weights[0] + weights[1], 1.0f, 1e-6);
    EXPECT_NEAR(weights[4] + weights[5], 1.0f, 1e-6);
  }
}

TEST(HeadsTest, ArgMaxTakesTheLowestOfTheBest) {
  EXPECT_EQ(ArgMax(std::vector<float>{1, 3, 3, 2}), 1);
  EXPECT_EQ(ArgMax(std::vector<float>{NAN, -5, NAN, -4}), 3);
  EXPECT_EQ(ArgMax(std::vector<float>{NAN, -INFINITY}), 1);
  EXPECT_EQ(ArgMax(std::vector<float>{NAN, NAN}), 0);
  EXPECT_EQ(ArgMax(std::vector<float>{-0.0f, 0.0f}), 0);
  EXPECT_EQ(ArgMax(std::vector<float>{-INFINITY, INFINITY, INFINITY}), 1);
  std::vector<float> x = Normal(1000, 3);
  x[777] = 50;
  x[900] = 50;
  EXPECT_EQ(ArgMax(x), 777);
}

TEST(HeadsTest, LogSumExpMatchesMathsAndItsEdges) {
  for (const size_t n : {1u, 5u, 32u, 100u, 4097u}) {
    const std::vector<float> x = Normal(n, 9, 10.0f);
    long double sum = 0;
    for (const float v : x) sum += std::exp(static_cast<long double>(v));
    EXPECT_NEAR(LogSumExp(x), static_cast<double>(std::log(sum)), 1e-5);
  }
  EXPECT_EQ(LogSumExp(std::vector<float>{-INFINITY, -INFINITY}), -INFINITY);
  EXPECT_EQ(LogSumExp(std::vector<float>{0, INFINITY}), INFINITY);
  EXPECT_TRUE(std::isnan(LogSumExp(std::vector<float>{0, NAN})));
  EXPECT_EQ(LogSumExp(std::vector<float>{3e38f}), 3e38f);
}

TEST(HeadsTest, AScanIsBothAtOnceWhateverTheLength) {
  for (const size_t n : {1u, 15u, 64u, 1023u, 1024u, 1025u, 5000u}) {
    std::vector<float> x = Normal(n, static_cast<uint32_t>(n));
    const auto best = static_cast<TokenId>(std::max_element(x.begin(), x.end()) - x.begin());
    EXPECT_EQ(ScanLogits(x).best, best) << n;
    EXPECT_TRUE(ScanLogits(x).finite) << n;
    for (const size_t at : {size_t{0}, n / 2, n - 1}) {
      for (const float bad : {NAN, INFINITY, -INFINITY}) {
        std::vector<float> y = x;
        y[at] = bad;
        EXPECT_FALSE(ScanLogits(y).finite) << n << " " << at;
        EXPECT_EQ(ScanLogits(y).best, ArgMax(y));
      }
    }
  }
  // The first number may lie behind pieces without any.
  std::vector<float> x(3000, NAN);
  EXPECT_EQ(ArgMax(x), 0);
  x[2500] = x[2600] = -INFINITY;
  EXPECT_EQ(ArgMax(x), 2500);
}

TEST(HeadsTest, PiecesAndScaledExponentialsMatchTheirDefinitions) {
  for (const size_t n : {1u, 100u, 128u, 1000u}) {
    const std::vector<float> x = Normal(n, 4, 10.0f);
    std::vector<float> maxima((n + 127) / 128), scaled(n);
    PieceMaxima(x, 128, maxima.data());
    for (size_t p = 0; p < maxima.size(); ++p) {
      const auto begin = x.begin() + static_cast<ptrdiff_t>(p * 128);
      const auto end = x.begin() + static_cast<ptrdiff_t>(std::min(n, p * 128 + 128));
      EXPECT_EQ(maxima[p], *std::max_element(begin, end));
    }
    ExpScaled(x, 3.5f, 0.7f, scaled.data());
    for (size_t i = 0; i < n; ++i) EXPECT_EQ(scaled[i], ExpF((x[i] - 3.5f) / 0.7f)) << i;
  }
}

TEST(HeadsTest, AllFinite) {
  std::vector<float> x = Normal(101, 1);
  EXPECT_TRUE(AllFinite(x));
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    std::vector<float> y = x;
    y[100] = bad;
    EXPECT_FALSE(AllFinite(y));
  }
}

}  // namespace
}  // namespace octet
