// The prefix cache through the whole engine: what is reused, and that nothing but time changes.
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "router/engine.h"
#include "router/test_util.h"

namespace octet {
namespace {

// The parameter is a golden model: one whose attention sees everything, one with a window of eight
// positions, less than a block.
class PrefixCacheEngineTest : public testing::TestWithParam<const char*> {
 protected:
  PrefixCacheEngineTest() {
    PackOptions options;
    options.experts = options.attention = "f32";
    package_ = PackGolden(GetParam(), temp_.path(), options);
  }
  ~PrefixCacheEngineTest() override { engine_.reset(); }

  void Start(EngineOptions options) {
    engine_.reset();
    cluster_ = std::make_unique<LocalCluster>(
        package_, LocalCluster::Options{2, 1, 1, DetectCpuLevel()}, &clock_);
    options.cpu_level = DetectCpuLevel();
    auto weights = package_->MapRouter(1);
    ASSERT_TRUE(weights.ok()) << weights.status();
    auto engine =
        Engine::Start(package_, *std::move(weights), MakeByteTokenizer(package_->config().vocab),
                      cluster_->dispatcher(), &clock_, options);
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = *std::move(engine);
  }

  GenerationRequest Request(std::vector<TokenId> prompt, uint32_t tokens) const {
    GenerationRequest request;
    request.prompt = std::move(prompt);
    request.sampling.temperature = 0.8f;
    request.sampling.seed = 11;
    request.stop.max_tokens = tokens;
    request.stop.ignore_eos = true;
    request.logprobs = true;
    return request;
  }
  std::vector<TokenId> Prompt(uint32_t seed, uint32_t length) const {
    std::vector<TokenId> prompt;
    for (uint32_t i = 0; i < length; ++i) {
      prompt.push_back(
          static_cast<TokenId>((seed * 31 + i * 17 + i * i * 5) % package_->config().vocab));
    }
    return prompt;
  }

  std::shared_ptr<CollectingSink> Generate(GenerationRequest request) {
    auto sink = std::make_shared<CollectingSink>();
    const auto id = engine_->Submit(std::move(request), sink);
    EXPECT_TRUE(id.ok()) << id.status();
    sink->WaitEnd();
    EXPECT_TRUE(sink->status.ok()) << sink->status;
    return sink;
  }
  static void ExpectSame(const CollectingSink& a, const CollectingSink& b) {
    EXPECT_EQ(a.tokens, b.tokens);
    ASSERT_EQ(a.logprobs.size(), b.logprobs.size());
    for (size_t i = 0; i < a.logprobs.size(); ++i) {
      EXPECT_EQ(a.logprobs[i].logprob, b.logprobs[i].logprob) << i;
    }
  }

  TempDirectory temp_;
  SystemClock clock_;
  std::shared_ptr<const ModelPackage> package_;
  std::unique_ptr<LocalCluster> cluster_;
  std::unique_ptr<Engine> engine_;
};

INSTANTIATE_TEST_SUITE_P(Models, PrefixCacheEngineTest,
                         testing::Values("mixtral-f32", "mixtral-window-f16"),
                         [](const auto& info) {
                           return std::string(info.index == 0 ? "Full" : "Window");
                         });

TEST_P(PrefixCacheEngineTest, ASecondTurnReusesPromptAndAnswerBitForBit) {
  EngineOptions options;
  options.kv_cache_bytes = 4u << 20;
  std::vector<std::shared_ptr<CollectingSink>> first, second;
  for (const bool cache : {false, true}) {
    options.prefix_cache = cache;
    Start(options);
    first.push_back(Generate(Request(Prompt(3, 50), 40)));
    std::vector<TokenId> turn = Prompt(3, 50);
    turn.insert(turn.end(), first.back()->tokens.begin(), first.back()->tokens.end());
    turn.insert(turn.end(), {1, 2, 3});
    second.push_back(Generate(Request(turn, 20)));
    engine_->Drain(kNever);
    EXPECT_EQ(engine_->stats().prefix_cache_queries, cache ? 50u + 93 : 0);
    EXPECT_EQ(engine_->stats().prefix_cache_hits, cache ? 64u : 0);
    EXPECT_EQ(engine_->stats().kv_blocks_used, 0u);
    EXPECT_EQ(engine_->stats().kv_blocks_idle, cache ? 1u : 0);
  }
  ExpectSame(*first[0], *first[1]);
  ExpectSame(*second[0], *second[1]);
  EXPECT_EQ(second[0]->result.usage.cached_tokens, 0u);
  EXPECT_EQ(second[1]->result.usage.cached_tokens, 64u);
}

TEST_P(PrefixCacheEngineTest, PromptLogprobsAreComputedPastACachedPrefix) {
  EngineOptions options;
  options.kv_cache_bytes = 4u << 20;
  Start(options);
  GenerationRequest request = Request(Prompt(5, 100), 4);
  request.prompt_logprobs = true;
  const auto cold = Generate(request);
  const auto again = Generate(request);
  ASSERT_EQ(again->prompt_logprobs.size(), 99u);
  EXPECT_EQ(again->result.usage.cached_tokens, 0u);
  for (size_t i = 0; i < 99; ++i) {
    EXPECT_EQ(again->prompt_logprobs[i].logprob, cold->prompt_logprobs[i].logprob) << i;
  }
  request.prompt_logprobs = false;
  const auto without = Generate(request);
  EXPECT_EQ(without->result.usage.cached_tokens, 64u);
  ExpectSame(*without, *cold);
}

TEST_P(PrefixCacheEngineTest, AnotherSaltFindsNothing) {
  EngineOptions options;
  options.kv_cache_bytes = 4u << 20;
  Start(options);
  GenerationRequest request = Request(Prompt(6, 70), 4);
  request.cache_salt = "tenant a";
  const auto cold = Generate(request);
  EXPECT_EQ(Generate(request)->result.usage.cached_tokens, 64u);
  request.cache_salt = "tenant b";
  const auto other = Generate(request);
  EXPECT_EQ(other->result.usage.cached_tokens, 0u);
  ExpectSame(*other, *cold);
  request.cache_salt.clear();
  EXPECT_EQ(Generate(request)->result.usage.cached_tokens, 0u);
}

// A cache of six blocks, conversations that come back in turn: what was pushed out is computed
// again, what was not is reused, and nobody can tell but by the count.
TEST_P(PrefixCacheEngineTest, AFullCachePushesOutTheOldestAndKeepsTheTokens) {
  const ModelConfig& config = package_->config();
  EngineOptions options;
  std::vector<std::shared_ptr<CollectingSink>> expected;
  for (const bool cache : {false, true}) {
    options.prefix_cache = cache;
    options.kv_cache_bytes =
        6 * config.layers * KvBlockLayerBytes(DType::kF16, config.kv_heads, config.head_dim);
    Start(options);
    uint32_t cached = 0;
    for (uint32_t i = 0; i < 12; ++i) {
      // Four conversations of two full blocks each; every third request asks the same again.
      const uint32_t which = i % 3 == 2 ? (i - 1) % 4 : i % 4;
      const auto sink = Generate(Request(Prompt(which, 130), 10));
      cached += sink->result.usage.cached_tokens;
      if (!cache) {
        expected.push_back(sink);
      } else {
        ExpectSame(*sink, *expected[i]);
      }
    }
    EXPECT_EQ(cached > 0, cache);
    EXPECT_LT(cached, 12u * 128);
  }
}

}  // namespace
}  // namespace octet
