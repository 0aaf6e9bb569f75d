// Logits of every position against independent implementations, over every golden model.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "gtest/gtest.h"
#include "router/kv_cache.h"
#include "router/test_util.h"

namespace octet {
namespace {

constexpr size_t kStepRows = LogitModel::kStepRows;

std::vector<std::string> GoldenModels() {
  std::vector<std::string> names;
  const std::string root = std::string(OCTET_SOURCE_DIR) + "/tests/golden/models";
  for (const auto& entry : std::filesystem::directory_iterator(root)) {
    if (std::filesystem::exists(entry.path() / "oracle.safetensors")) {
      names.push_back(entry.path().filename().string());
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

double MaxDifference(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double worst = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    const double d = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    worst = std::isnan(d) ? INFINITY : std::max(worst, d);
  }
  return worst;
}

// Relative root mean square distance: what is left of a signal after quantising on the way.
double RelativeError(const std::vector<float>& a, const std::vector<float>& b) {
  double error = 0, signal = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    error += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
    signal += static_cast<double>(b[i]) * b[i];
  }
  return std::sqrt(error / signal);
}

class OracleTest : public testing::TestWithParam<std::string> {
 protected:
  TempDirectory temp_;
};

TEST_P(OracleTest, FloatWeightsGiveTheLogitsOfEveryPosition) {
  PackOptions options;
  options.experts = options.attention = "f32";
  const Oracle oracle = ReadOracle(GetParam());
  LogitModel model(PackGolden(GetParam(), temp_.path(), options), DType::kF32);
  EXPECT_LE(MaxDifference(model.Run(oracle.ids, kStepRows), oracle.logits), 1e-3);
}

TEST_P(OracleTest, SourceEncodingGivesThemToo) {
  PackOptions options;
  options.experts = options.attention = "source";
  const Oracle oracle = ReadOracle(GetParam());
  LogitModel model(PackGolden(GetParam(), temp_.path(), options), DType::kF32);
  const std::vector<float> logits = model.Run(oracle.ids, kStepRows);
  if (absl::StrContains(GetParam(), "_") || absl::StrContains(GetParam(), "q8")) {
    // Integer weights quantise activations to 8 bits at run time; docs/numerics.md. A random model
    // has no redundancy: its gate flips near ties, so the mean, not the worst, is bounded.
    EXPECT_LE(RelativeError(logits, oracle.logits), 0.06);
  } else {
    EXPECT_LE(MaxDifference(logits, oracle.logits), 1e-3);
  }
}

TEST_P(OracleTest, ChunksAndPlaceInTheCacheDoNotChangeABit) {
  PackOptions options;
  options.experts = options.attention = "source";
  const Oracle oracle = ReadOracle(GetParam());
  LogitModel model(PackGolden(GetParam(), temp_.path(), options), DType::kF16);
  const std::vector<float> whole = model.Run(oracle.ids, kStepRows);
  // Blocks that others have left full of NaN.
  std::fill_n(model.cache()->data() + model.cache()->bytes() / 2, model.cache()->bytes() / 2, 0xff);
  const auto second_half = static_cast<uint32_t>(model.cache()->blocks() / 2 + 1);
  for (const size_t chunk : {size_t{1}, size_t{7}, size_t{64}}) {
    EXPECT_EQ(model.Run(oracle.ids, chunk, second_half), whole) << chunk;
  }
}

INSTANTIATE_TEST_SUITE_P(Golden, OracleTest, testing::ValuesIn(GoldenModels()),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace octet
