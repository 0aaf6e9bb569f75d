// Logits of every position against independent implementations, over every golden model.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "core/check.h"
#include "core/clock.h"
#include "gtest/gtest.h"
#include "router/kv_cache.h"
#include "router/test_util.h"
#include "router/transformer.h"

namespace octet {
namespace {

constexpr size_t kStepRows = 256;

// A transformer over an in-process cluster with everything it needs.
class Model {
 public:
  Model(std::shared_ptr<const ModelPackage> package, DType kv_dtype)
      : cluster_(package, {3, 2, 1, DetectCpuLevel()}, &clock_), pool_(1) {
    auto weights = package->MapRouter(1);
    OCTET_CHECK(weights.ok()) << weights.status().ToString();
    auto cache = KvCache::Create(package->config(), kv_dtype, 16u << 20);
    OCTET_CHECK(cache.ok()) << cache.status().ToString();
    cache_ = *std::move(cache);
    ExecContext ctx;
    ctx.level = DetectCpuLevel();
    ctx.pool = &pool_;
    ctx.arena = &arena_;
    TransformerLimits limits;
    limits.rows_max = limits.logit_rows_max = kStepRows;
    transformer_ =
        std::make_unique<Transformer>(MakeTransformerModel(*package, *std::move(weights)), limits,
                                      cache_.get(), cluster_.dispatcher(), ctx);
  }

  // Logits of all positions, computed in steps of `chunk` rows, over the blocks from `first_block`.
  std::vector<float> Run(const std::vector<TokenId>& ids, size_t chunk, uint32_t first_block = 0) {
    std::vector<BlockId> blocks;
    for (size_t b = 0; b < KvBlocksFor(ids.size()); ++b) {
      blocks.push_back(BlockId(first_block + static_cast<uint32_t>(b)));
    }
    std::vector<float> all;
    for (size_t at = 0; at < ids.size(); at += chunk) {
      const size_t rows = std::min(chunk, ids.size() - at);
      Batch batch;
      batch.step = StepId(++step_);
      BatchSequence sequence;
      sequence.rows = rows;
      sequence.position_begin = static_cast<uint32_t>(at);
      sequence.blocks = blocks.data();
      sequence.block_count = blocks.size();
      batch.sequences.push_back(sequence);
      for (size_t i = 0; i < rows; ++i) {
        batch.tokens.push_back(ids[at + i]);
        batch.positions.push_back(static_cast<uint32_t>(at + i));
        batch.logit_rows.push_back(static_cast<uint32_t>(i));
      }
      const absl::Status status = transformer_->Forward(batch, kNever);
      OCTET_CHECK(status.ok()) << status.ToString();
      const ConstTensorF32 logits = transformer_->Logits(batch, 0, rows);
      for (size_t i = 0; i < rows; ++i) {
        all.insert(all.end(), logits.row(i), logits.row(i) + logits.cols);
      }
    }
    return all;
  }

  KvCache* cache() { return cache_.get(); }

 private:
  SystemClock clock_;
  LocalCluster cluster_;
  ThreadPool pool_;
  Arena arena_;
  std::unique_ptr<KvCache> cache_;
  std::unique_ptr<Transformer> transformer_;
  uint64_t step_ = 0;
};

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
  Model model(PackGolden(GetParam(), temp_.path(), options), DType::kF32);
  EXPECT_LE(MaxDifference(model.Run(oracle.ids, kStepRows), oracle.logits), 1e-3);
}

TEST_P(OracleTest, SourceEncodingGivesThemToo) {
  PackOptions options;
  options.experts = options.attention = "source";
  const Oracle oracle = ReadOracle(GetParam());
  Model model(PackGolden(GetParam(), temp_.path(), options), DType::kF32);
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
  Model model(PackGolden(GetParam(), temp_.path(), options), DType::kF16);
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
