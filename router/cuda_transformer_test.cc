// A router on a CUDA device gives the host's logits, bit for bit: every golden model, experts in
// the cluster and beside the router, steps of any size, both types of cache.
#include "router/cuda_transformer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "kernels/cuda/test_util.h"
#include "kernels/test_util.h"
#include "router/test_util.h"

namespace octet {
namespace {

std::vector<std::string> GoldenModels() {
  std::vector<std::string> names;
  const std::string root = std::string(OCTET_SOURCE_DIR) + "/tests/golden/models";
  for (const auto& entry : std::filesystem::directory_iterator(root)) {
    if (entry.is_directory()) names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<TokenId> Prompt(uint32_t vocab, size_t count) {
  std::mt19937 rng(5);
  std::vector<TokenId> ids(count);
  for (TokenId& id : ids) id = static_cast<TokenId>(rng() % vocab);
  return ids;
}

void ExpectSame(const std::vector<float>& got, const std::vector<float>& want, size_t vocab) {
  const size_t at = test::FirstDifference(got, want);
  ASSERT_EQ(at, got.size()) << "position " << at / vocab << " token " << at % vocab << ": "
                            << got[at] << " for " << want[at];
}

class CudaTransformerTest : public ::testing::TestWithParam<std::string> {
 protected:
  void Check(const PackOptions& options, DType kv_dtype) {
    const auto package = PackGolden(GetParam(), temp_.path(), options);
    const ModelConfig& config = package->config();
    const std::vector<TokenId> ids = Prompt(config.vocab, std::min<size_t>(config.context, 150));
    LogitModel host(package, kv_dtype);
    const std::vector<float> want = host.Run(ids, 64);
    bool integer = true;
    for (uint32_t i = 0; i < config.layers; ++i) {
      integer = integer && package->wire_format(LayerId(i)).is_integer();
    }
    for (const auto where : {LogitModel::Where::kCudaRouter, LogitModel::Where::kCudaAll}) {
      if (where == LogitModel::Where::kCudaAll && !integer) continue;
      LogitModel device(package, kv_dtype, where);
      for (const size_t chunk : {256u, 37u, 1u}) {
        SCOPED_TRACE(::testing::Message()
                     << "experts " << (where == LogitModel::Where::kCudaAll ? "here" : "there")
                     << " chunk " << chunk);
        ExpectSame(device.Run(ids, chunk), want, config.vocab);
      }
    }
  }
  TempDirectory temp_;
};

TEST_P(CudaTransformerTest, SourceFormatsGiveTheLogitsOfTheHost) {
  OCTET_NEEDS_CUDA();
  Check({.experts = "source", .attention = "source"}, DType::kF16);
}

TEST_P(CudaTransformerTest, IntegerFormatsGiveTheLogitsOfTheHost) {
  OCTET_NEEDS_CUDA();
  if (GetParam().rfind("gguf", 0) == 0) GTEST_SKIP() << "packed as it is above";
  for (const uint32_t group : {32u, 128u}) {
    Check({.experts = "int4", .attention = "int8", .group = group}, DType::kF32);
  }
  Check({.experts = "w4x", .attention = "int4", .group = 64}, DType::kF16);
}

// The bits of tensor cores: near the host's, and the same however positions are cut into steps.
TEST(CudaTransformerBf16Test, LogitsDoNotDependOnTheSteps) {
  OCTET_NEEDS_CUDA();
  const TempDirectory temp;
  const auto exact =
      PackGolden("gguf-q4_k", temp.path(), {.experts = "bf16", .attention = "source"});
  ModelPackage::OpenOptions options;
  options.numerics = ExpertNumerics::kHopperBf16;
  const auto package =
      ModelPackage::Open(exact->directory(), options, [](absl::string_view, uint64_t, uint64_t) {});
  ASSERT_TRUE(package.ok()) << package.status();
  EXPECT_NE((*package)->compute_digest(), exact->compute_digest());
  const size_t vocab = exact->config().vocab;
  const std::vector<TokenId> ids = Prompt(exact->config().vocab, 100);
  const std::vector<float> host = LogitModel(exact, DType::kF16).Run(ids, 64);
  LogitModel device(*package, DType::kF16, LogitModel::Where::kCudaAll);
  const std::vector<float> whole = device.Run(ids, 100);
  EXPECT_LT(test::RelativeError(whole, host), 2e-2);
  for (const size_t chunk : {64u, 37u, 1u}) {
    SCOPED_TRACE(chunk);
    ExpectSame(device.Run(ids, chunk), whole, vocab);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, CudaTransformerTest, ::testing::ValuesIn(GoldenModels()),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace_if(
                               name.begin(), name.end(), [](char c) { return !std::isalnum(c); },
                               '_');
                           return name;
                         });

}  // namespace
}  // namespace octet
