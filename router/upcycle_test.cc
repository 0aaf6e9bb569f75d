// A dense model and the eight equal experts made of it are the same function: the weights of the
// chosen experts sum to one, up to rounding.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "core/check.h"
#include "gtest/gtest.h"
#include "router/test_util.h"

namespace octet {
namespace {

constexpr size_t kPromptTokens = 8;
constexpr size_t kGreedyTokens = 80;

struct Case {
  std::string name;
  std::string golden;
  std::string experts;
  std::string attention;
};

size_t Argmax(const float* logits, size_t vocab) {
  return static_cast<size_t>(std::max_element(logits, logits + vocab) - logits);
}

class UpcycleTest : public testing::TestWithParam<Case> {
 protected:
  LogitModel Load(const Case& c, uint32_t upcycle) {
    PackOptions options;
    options.experts = c.experts;
    options.attention = c.attention;
    options.upcycle = upcycle;
    auto package = PackGolden(c.golden, (upcycle == 0 ? dense_ : sparse_).path(), options);
    // Else the comparison would be of a model with itself.
    OCTET_CHECK(package->config().experts == (upcycle == 0 ? 1 : upcycle));
    return LogitModel(package, DType::kF32);
  }

  TempDirectory dense_;
  TempDirectory sparse_;
};

// Continues `ids` greedily by kGreedyTokens.
std::vector<TokenId> Greedy(LogitModel* model, std::vector<TokenId> ids, size_t vocab) {
  for (size_t i = 0; i < kGreedyTokens; ++i) {
    const std::vector<float> logits = model->Run(ids, LogitModel::kStepRows);
    const float* last = logits.data() + (ids.size() - 1) * vocab;
    ids.push_back(static_cast<TokenId>(Argmax(last, vocab)));
  }
  return ids;
}

std::vector<TokenId> Prompt(const Oracle& oracle) {
  OCTET_CHECK(oracle.ids.size() >= kPromptTokens);
  return {oracle.ids.begin(), oracle.ids.begin() + kPromptTokens};
}

using FloatUpcycleTest = UpcycleTest;

TEST_P(FloatUpcycleTest, LogitsOfEveryPositionAndGreedyTokensAreThoseOfTheDenseModel) {
  const Oracle oracle = ReadOracle(GetParam().golden);
  LogitModel dense = Load(GetParam(), 0);
  LogitModel sparse = Load(GetParam(), 8);
  const std::vector<TokenId> tokens = Greedy(&dense, Prompt(oracle), oracle.vocab);
  EXPECT_EQ(Greedy(&sparse, Prompt(oracle), oracle.vocab), tokens);
  for (const std::vector<TokenId>& ids : {oracle.ids, tokens}) {
    const std::vector<float> want = dense.Run(ids, LogitModel::kStepRows);
    const std::vector<float> got = sparse.Run(ids, LogitModel::kStepRows);
    ASSERT_EQ(want.size(), ids.size() * oracle.vocab);
    ASSERT_EQ(got.size(), want.size());
    for (size_t i = 0; i < want.size(); ++i) {
      ASSERT_NEAR(got[i], want[i], 1e-4) << "position " << i / oracle.vocab;
    }
  }
}

using IntegerUpcycleTest = UpcycleTest;

TEST_P(IntegerUpcycleTest, GreedyTokensDivergeAtANearTieOnly) {
  const Oracle oracle = ReadOracle(GetParam().golden);
  LogitModel dense = Load(GetParam(), 0);
  LogitModel sparse = Load(GetParam(), 8);
  const std::vector<TokenId> want = Greedy(&dense, Prompt(oracle), oracle.vocab);
  const std::vector<TokenId> got = Greedy(&sparse, Prompt(oracle), oracle.vocab);
  const auto differs = std::mismatch(want.begin(), want.end(), got.begin());
  if (differs.first == want.end()) return;
  const auto at = static_cast<size_t>(differs.first - want.begin());
  const std::vector<float> logits =
      dense.Run({want.begin(), want.begin() + static_cast<ptrdiff_t>(at)}, LogitModel::kStepRows);
  const float* last = logits.data() + (at - 1) * oracle.vocab;
  RecordProperty("diverges_at", static_cast<int>(at));
  EXPECT_LT(last[want[at]] - last[got[at]], 1e-2) << "token " << at;
}

std::string CaseName(const testing::TestParamInfo<Case>& info) { return info.param.name; }

INSTANTIATE_TEST_SUITE_P(Golden, FloatUpcycleTest,
                         testing::Values(Case{"llama", "llama-f32", "f32", "f32"},
                                         Case{"gguf_q5_k", "gguf-dense-q5_k", "f32", "f32"}),
                         CaseName);

INSTANTIATE_TEST_SUITE_P(Golden, IntegerUpcycleTest,
                         testing::Values(Case{"int4", "llama-f32", "int4", "int8"},
                                         Case{"q5_k", "gguf-dense-q5_k", "source", "source"},
                                         Case{"q8_0", "gguf-dense-tied-q8_0", "source", "source"}),
                         CaseName);

}  // namespace
}  // namespace octet
