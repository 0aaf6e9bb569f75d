#include "router/sampler.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/kernels.h"
#include "kernels/math.h"
#include "router/philox.h"

namespace octet {
namespace {

TEST(PhiloxTest, KnownAnswers) {
  // Known-answer vectors of the paper's reference implementation.
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, {0, 0}),
            (std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (std::array<uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (std::array<uint32_t, 4>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

std::vector<float> RandomLogits(size_t vocab, uint32_t seed, float spread) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> logits(vocab);
  for (float& l : logits) l = normal(random);
  return logits;
}

// The filtered and renormalised distribution by the definition, in long double with libm.
std::vector<double> Expected(const std::vector<float>& logits, const SamplingSettings& s) {
  const size_t vocab = logits.size();
  std::vector<size_t> order(vocab);
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  std::vector<double> p(vocab, 0.0);
  const size_t keep = s.top_k > 0 ? std::min<size_t>(static_cast<size_t>(s.top_k), vocab) : vocab;
  double total = 0;
  for (size_t i = 0; i < keep; ++i) {
    p[order[i]] = std::exp((static_cast<double>(logits[order[i]]) - logits[order[0]]) /
                           static_cast<double>(s.temperature));
    total += p[order[i]];
  }
  double before = 0;
  const double best = p[order[0]];
  double kept = 0;
  for (size_t i = 0; i < keep; ++i) {
    double& w = p[order[i]];
    const bool in_nucleus = before < static_cast<double>(s.top_p) * total;
    before += w;
    if (!in_nucleus || w < static_cast<double>(s.min_p) * best) w = 0;
    kept += w;
  }
  for (double& w : p) w /= kept;
  return p;
}

// Chi-square over `draws` positions against the expected distribution; bins below 8 expected hits
// are joined. The bound is the mean plus six standard deviations: a fixed seed, so never flaky.
void ExpectDistribution(const std::vector<float>& logits, SamplingSettings s, uint32_t draws) {
  Sampler sampler(logits.size());
  const std::vector<double> p = Expected(logits, s);
  std::vector<uint32_t> hits(logits.size(), 0);
  SampleInput input;
  input.logits = logits;
  input.settings = &s;
  for (uint32_t i = 0; i < draws; ++i) {
    s.seed = 1000 + i;
    ++hits[static_cast<size_t>(sampler.Sample(input))];
  }
  double chi = 0, rest_expected = 0, rest_hits = 0;
  int bins = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    const double expected = p[i] * draws;
    if (p[i] == 0) {
      EXPECT_EQ(hits[i], 0u) << "id " << i << " was filtered out";
    }
    if (expected < 8) {
      rest_expected += expected;
      rest_hits += hits[i];
      continue;
    }
    chi += (hits[i] - expected) * (hits[i] - expected) / expected;
    ++bins;
  }
  if (rest_expected > 0) {
    chi += (rest_hits - rest_expected) * (rest_hits - rest_expected) / rest_expected;
    ++bins;
  }
  EXPECT_LT(chi, bins + 6 * std::sqrt(2.0 * bins)) << bins << " bins";
}

TEST(SamplerTest, DrawsFollowTheDistribution) {
  SamplingSettings s;
  ExpectDistribution(RandomLogits(30, 1, 2), s, 20000);
  s.temperature = 0.6f;
  ExpectDistribution(RandomLogits(300, 2, 2), s, 20000);
  s.temperature = 1.7f;
  ExpectDistribution(RandomLogits(1000, 3, 1), s, 20000);
}

TEST(SamplerTest, FiltersFollowTheirDefinitions) {
  SamplingSettings s;
  s.top_k = 7;
  ExpectDistribution(RandomLogits(200, 4, 2), s, 20000);
  s.top_p = 0.8f;
  ExpectDistribution(RandomLogits(200, 5, 2), s, 20000);
  s.top_k = 0;
  ExpectDistribution(RandomLogits(2000, 6, 1.5), s, 20000);
  s.top_p = 1;
  s.min_p = 0.1f;
  ExpectDistribution(RandomLogits(500, 7, 2), s, 20000);
  s.top_p = 0.9f;
  s.top_k = 100;
  s.temperature = 1.3f;
  s.min_p = 0.02f;
  ExpectDistribution(RandomLogits(500, 8, 2), s, 20000);
}

TEST(SamplerTest, PositionsOfOneSeedAreIndependentDraws) {
  const std::vector<float> logits(4, 0.0f);
  SamplingSettings s;
  s.seed = 42;
  Sampler sampler(4);
  std::vector<TokenId> output;
  std::array<uint32_t, 16> pairs{};
  SampleInput input;
  input.logits = logits;
  input.settings = &s;
  for (int i = 0; i < 4001; ++i) {
    input.output = output;
    output.push_back(sampler.Sample(input));
    if (i > 0) {
      ++pairs[static_cast<size_t>(output[output.size() - 2] * 4 + output[output.size() - 1])];
    }
  }
  double chi = 0;
  for (const uint32_t n : pairs) chi += (n - 250.0) * (n - 250.0) / 250.0;
  EXPECT_LT(chi, 15 + 6 * std::sqrt(30.0));
}

TEST(SamplerTest, TopPKeepsTheTokenThatReachesIt) {
  // Four equal tokens: a top_p of exactly one half needs two of them, a bit more needs three. Equal
  // logits are ordered by id.
  const std::vector<float> logits(4, 1.0f);
  Sampler sampler(4);
  const auto support = [&](float top_p) {
    SamplingSettings s;
    s.top_p = top_p;
    SampleInput input;
    input.logits = logits;
    input.settings = &s;
    std::set<TokenId> seen;
    for (uint64_t seed = 0; seed < 400; ++seed) {
      s.seed = seed;
      seen.insert(sampler.Sample(input));
    }
    return seen;
  };
  EXPECT_EQ(support(0.5f), (std::set<TokenId>{0, 1}));
  EXPECT_EQ(support(0.500001f), (std::set<TokenId>{0, 1, 2}));
  EXPECT_EQ(support(1e-6f), (std::set<TokenId>{0}));
  EXPECT_EQ(support(1.0f), (std::set<TokenId>{0, 1, 2, 3}));
}

TEST(SamplerTest, TopKTiesGoToTheLowestIds) {
  const std::vector<float> logits = {0, 5, 5, 5, 5, 1};
  SamplingSettings s;
  s.top_k = 2;
  SampleInput input;
  input.logits = logits;
  input.settings = &s;
  Sampler sampler(logits.size());
  std::set<TokenId> seen;
  for (s.seed = 0; s.seed < 200; ++s.seed) seen.insert(sampler.Sample(input));
  EXPECT_EQ(seen, (std::set<TokenId>{1, 2}));
}

TEST(SamplerTest, GreedyTakesTheLowestIdOnTies) {
  const std::vector<float> logits = {0, 3, 3, -1};
  SamplingSettings s;
  s.temperature = 0;
  SampleInput input;
  input.logits = logits;
  input.settings = &s;
  Sampler sampler(logits.size());
  EXPECT_EQ(sampler.Sample(input), 1);
}

TEST(SamplerTest, ExtremeTemperaturesStayFinite) {
  const std::vector<float> logits = {-3e38f, 10, 9.999f, 3e37f};
  SamplingSettings s;
  SampleInput input;
  input.logits = logits;
  input.settings = &s;
  Sampler sampler(logits.size());
  s.temperature = 1e-38f;
  for (s.seed = 0; s.seed < 50; ++s.seed) EXPECT_EQ(sampler.Sample(input), 3);
  s.temperature = 100;
  for (s.seed = 0; s.seed < 50; ++s.seed) EXPECT_EQ(sampler.Sample(input), 3);
}

TEST(SamplerTest, PenaltiesMatchTheirFormulas) {
  const std::vector<float> logits = {2.0f, 1.9f, -1.0f, -1.1f};
  Sampler sampler(4);
  const auto greedy = [&](SamplingSettings s, std::vector<TokenId> prompt,
                          std::vector<TokenId> output) {
    s.temperature = 0;
    SampleInput input;
    input.logits = logits;
    input.prompt = prompt;
    input.output = output;
    input.settings = &s;
    return sampler.Sample(input);
  };
  SamplingSettings s;
  s.repetition_penalty = 1.1f;  // 2.0 / 1.1 < 1.9, also for tokens of the prompt
  EXPECT_EQ(greedy(s, {0}, {}), 1);
  EXPECT_EQ(greedy(s, {}, {0}), 1);
  EXPECT_EQ(greedy(s, {0, 1}, {}), 0);
  EXPECT_EQ(greedy(s, {0, 0, 0, 1}, {}), 0) << "once per distinct token";
  s = SamplingSettings();
  s.frequency_penalty = 0.06f;  // two occurrences: 2.0 - 0.12 < 1.9
  EXPECT_EQ(greedy(s, {0, 0}, {}), 0) << "the prompt does not count";
  EXPECT_EQ(greedy(s, {}, {0}), 0);
  EXPECT_EQ(greedy(s, {}, {0, 0}), 1);
  s = SamplingSettings();
  s.presence_penalty = 0.2f;
  EXPECT_EQ(greedy(s, {0}, {}), 0);
  EXPECT_EQ(greedy(s, {}, {0, 0, 0}), 1);
  EXPECT_EQ(greedy(s, {}, {0, 1}), 0);
  s = SamplingSettings();
  s.repetition_penalty = 2.0f;
  s.logit_bias = {{0, -100.0f}, {1, -100.0f}, {3, 0.2f}};
  EXPECT_EQ(greedy(s, {}, {}), 3);
  EXPECT_EQ(greedy(s, {3}, {}), 2) << "a negative logit is multiplied";
}

TEST(SamplerTest, ScratchDoesNotLeakBetweenCalls) {
  const std::vector<float> logits = RandomLogits(50, 11, 1);
  SamplingSettings plain, penalised;
  plain.seed = penalised.seed = 5;
  penalised.repetition_penalty = 1.5f;
  penalised.frequency_penalty = 0.5f;
  penalised.logit_bias = {{3, 20.0f}};
  const std::vector<TokenId> output = {1, 2, 3, 3, 3};
  const std::vector<TokenId> forbidden = {3, 7};
  SampleInput a, b;
  a.logits = b.logits = logits;
  a.settings = &plain;
  b.settings = &penalised;
  b.output = output;
  b.forbidden = forbidden;
  Sampler used(50), fresh(50);
  for (int i = 0; i < 20; ++i) {
    plain.seed = penalised.seed = static_cast<uint64_t>(i);
    const TokenId with = used.Sample(b);
    const TokenId without = used.Sample(a);
    EXPECT_EQ(with, Sampler(50).Sample(b));
    EXPECT_EQ(without, Sampler(50).Sample(a));
  }
}

TEST(SamplerTest, ForbiddenIdsAreNotDrawnUnlessNothingElseIsLeft) {
  const std::vector<float> logits = {9, 1, 0};
  Sampler sampler(3);
  SamplingSettings s;
  SampleInput input;
  input.logits = logits;
  input.settings = &s;
  std::vector<TokenId> forbidden = {0};
  input.forbidden = forbidden;
  for (s.seed = 0; s.seed < 100; ++s.seed) EXPECT_NE(sampler.Sample(input), 0);
  s.temperature = 0;
  EXPECT_EQ(sampler.Sample(input), 1);
  forbidden = {0, 1, 2};
  input.forbidden = forbidden;
  EXPECT_EQ(sampler.Sample(input), 0);
}

TEST(LogprobTest, IsTheLogOfTheSoftmaxWithTheBestInOrder) {
  const std::vector<float> logits = {1, 3, 3, -2, 0.5f};
  double sum = 0;
  for (const float l : logits) sum += std::exp(static_cast<double>(l));
  const TokenLogprob result = ComputeLogprob(logits, 4, 3);
  EXPECT_NEAR(result.logprob, 0.5 - std::log(sum), 1e-6);
  ASSERT_EQ(result.top.size(), 3u);
  EXPECT_EQ(result.top[0].first, 1);
  EXPECT_EQ(result.top[1].first, 2);
  EXPECT_EQ(result.top[2].first, 0);
  EXPECT_NEAR(result.top[2].second, 1 - std::log(sum), 1e-6);
  EXPECT_EQ(ComputeLogprob(logits, 0, 20).top.size(), 5u);
  EXPECT_TRUE(ComputeLogprob(logits, 0, 0).top.empty());
}

TEST(LogprobTest, TopEqualsASortOnRandomLogits) {
  for (uint32_t seed = 0; seed < 50; ++seed) {
    std::vector<float> logits = RandomLogits(200, seed, 1);
    for (float& l : logits) l = std::round(l * 4) / 4;  // many ties
    std::vector<TokenId> order(logits.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](TokenId a, TokenId b) {
      return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
    });
    const TokenLogprob result = ComputeLogprob(logits, 0, 10);
    for (size_t i = 0; i < 10; ++i) EXPECT_EQ(result.top[i].first, order[i]);
  }
}

// Steps 5 to 8 of docs/numerics.md, word for word and with no thought of speed.
TokenId PlainDraw(const std::vector<float>& logits, const SamplingSettings& s, double u) {
  std::vector<TokenId> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto at = [&](TokenId id) { return logits[static_cast<size_t>(id)]; };
  std::stable_sort(order.begin(), order.end(), [&](TokenId a, TokenId b) { return at(a) > at(b); });
  const float best = at(order[0]);
  const auto weight = [&](TokenId id) {
    return static_cast<double>(ExpF((at(id) - best) / s.temperature));
  };
  const bool cut = s.top_k > 0 && static_cast<size_t>(s.top_k) < order.size();
  double mass = 0;
  if (cut) order.resize(static_cast<size_t>(s.top_k));
  std::vector<TokenId> summed = order;
  if (!cut) std::sort(summed.begin(), summed.end());
  for (const TokenId id : summed) mass += weight(id);
  std::vector<std::pair<double, TokenId>> kept;
  double sum = 0;
  for (const TokenId id : order) {
    const double w = weight(id);
    if (w == 0 || (!kept.empty() && w < static_cast<double>(s.min_p))) break;
    sum += w;
    kept.emplace_back(sum, id);
    if (s.top_p < 1 && sum >= static_cast<double>(s.top_p) * mass) break;
  }
  const bool whole = s.top_p >= 1 && s.min_p <= 0;
  const double target = u * (whole ? mass : sum);
  for (const auto& [running, id] : kept) {
    if (running > target) return id;
  }
  return kept.back().second;
}

TEST(SamplerTest, ALargeVocabularyGivesTheTokensOfTheDefinition) {
  // Flat and peaked, spread out and crowded into one place, with many ties, and a vocabulary that
  // does not end with a piece.
  for (const size_t vocab : {20001u, 33000u, 5000u}) {
    for (int kind = 0; kind < 4; ++kind) {
      std::vector<float> logits = RandomLogits(vocab, 7 + static_cast<uint32_t>(kind), 2);
      for (size_t i = 0; i < vocab; ++i) {
        if (kind == 1) logits[i] = std::round(logits[i] * 4) / 4;
        if (kind == 2 && i / 500 == 9) logits[i] += 8;
        if (kind == 3) logits[i] *= 0.01f;
      }
      Sampler sampler(vocab);
      for (uint64_t seed = 0; seed < 24; ++seed) {
        SamplingSettings s;
        s.seed = seed;
        s.temperature = seed % 2 == 0 ? 1.0f : 0.7f;
        s.top_k = seed % 3 == 1 ? static_cast<int32_t>(1 + seed * 9) : 0;
        s.top_p = seed % 4 == 2 ? 0.9f : 1.0f;
        s.min_p = seed % 5 == 3 ? 0.01f : 0.0f;
        SampleInput input;
        input.logits = logits;
        input.settings = &s;
        if (seed % 2 == 0) input.best = ArgMax(logits);
        EXPECT_EQ(sampler.Sample(input), PlainDraw(logits, s, UniformDraw(seed, 0, 0)))
            << vocab << " kind " << kind << " seed " << seed;
      }
    }
  }
}

}  // namespace
}  // namespace octet
