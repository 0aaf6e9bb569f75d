// From a published model to a mapped package: every weight arrives, whatever container and layout
// it came from.
#include <cstring>
#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/packed_weights.h"
#include "model/mapped_file.h"
#include "model/model_package.h"
#include "model/safetensors.h"
#include "model/source.h"
#include "model/test_util.h"

namespace octet {
namespace {

using ::testing::HasSubstr;

const auto kNoProgress = [](absl::string_view, uint64_t, uint64_t) {};

std::shared_ptr<const ModelPackage> PackAndOpen(const std::string& source,
                                                const TestDirectory& directory,
                                                const PackOptions& options) {
  const std::string destination = directory / "packed";
  const absl::Status status = PackModel(source, destination, options, kNoProgress);
  EXPECT_TRUE(status.ok()) << status;
  auto package = ModelPackage::Open(destination, {}, kNoProgress);
  EXPECT_TRUE(package.ok()) << package.status();
  return package.ok() ? *package : nullptr;
}

absl::Status OpenWith(const std::string& directory, ExpertNumerics numerics, std::string* digest) {
  ModelPackage::OpenOptions options;
  options.numerics = numerics;
  const auto package = ModelPackage::Open(directory, options, kNoProgress);
  if (package.ok()) *digest = (*package)->compute_digest();
  return package.status();
}

PackOptions Formats(const std::string& experts, const std::string& attention) {
  PackOptions options;
  options.experts = experts;
  options.attention = attention;
  return options;
}

std::vector<float> Values(const PackedWeights& weights) {
  std::vector<float> out(weights.n * weights.k);
  for (size_t row = 0; row < weights.n; ++row) UnpackRow(weights, row, &out[row * weights.k]);
  return out;
}

std::vector<float> Values(const SourceMatrix& matrix) {
  std::vector<float> out(matrix.n * matrix.k);
  const absl::Status status = SourceRowsF32(matrix, 0, matrix.n, out.data());
  EXPECT_TRUE(status.ok()) << status;
  return out;
}

// f32 tensor of a safetensors directory, as it stands.
std::vector<float> Raw(const SafetensorsReader& reader, const std::string& name) {
  const SafetensorsTensor* tensor = reader.Find(name);
  EXPECT_NE(tensor, nullptr) << name;
  if (tensor == nullptr) return {};
  EXPECT_EQ(tensor->dtype, "F32");
  std::vector<float> out(tensor->bytes / 4);
  memcpy(out.data(), tensor->data, tensor->bytes);
  return out;
}

TEST(Package, EveryWeightOfAnF32MixtralArrivesUnchanged) {
  TestDirectory directory;
  const std::string source = OracleModel("mixtral-f32");
  const auto package = PackAndOpen(source, directory, Formats("source", "source"));
  ASSERT_NE(package, nullptr);
  EXPECT_EQ(package->config().experts, 4u);
  EXPECT_EQ(package->config().rope_theta, 1e6);
  EXPECT_EQ(package->config().gate, GateKind::kLinear);
  const auto reader = SafetensorsReader::Open(source);
  ASSERT_TRUE(reader.ok()) << reader.status();
  const auto router = package->MapRouter(2);
  ASSERT_TRUE(router.ok()) << router.status();
  EXPECT_EQ(Values(router->embedding), Raw(**reader, "model.embed_tokens.weight"));
  EXPECT_EQ(Values(router->head), Raw(**reader, "lm_head.weight"));
  const std::vector<float> norm = Raw(**reader, "model.norm.weight");
  EXPECT_EQ(std::vector<float>(router->final_norm, router->final_norm + 32), norm);
  for (uint32_t layer = 0; layer < 2; ++layer) {
    const std::string prefix = absl::StrCat("model.layers.", layer, ".");
    const RouterLayerWeights& weights = router->layers[layer];
    EXPECT_EQ(Values(weights.q), Raw(**reader, prefix + "self_attn.q_proj.weight"));
    EXPECT_EQ(Values(weights.k), Raw(**reader, prefix + "self_attn.k_proj.weight"));
    EXPECT_EQ(Values(weights.v), Raw(**reader, prefix + "self_attn.v_proj.weight"));
    EXPECT_EQ(Values(weights.o), Raw(**reader, prefix + "self_attn.o_proj.weight"));
    EXPECT_EQ(Values(weights.gate), Raw(**reader, prefix + "block_sparse_moe.gate.weight"));
    EXPECT_EQ(std::vector<float>(weights.ffn_norm, weights.ffn_norm + 32),
              Raw(**reader, prefix + "post_attention_layernorm.weight"));
    EXPECT_EQ(std::vector<float>(weights.attention_norm, weights.attention_norm + 32),
              Raw(**reader, prefix + "input_layernorm.weight"));
    for (uint32_t expert = 0; expert < 4; ++expert) {
      const auto mapped = package->MapExpert(ExpertId(expert), 1);
      ASSERT_TRUE(mapped.ok()) << mapped.status();
      const std::string experts = absl::StrCat(prefix, "block_sparse_moe.experts.", expert, ".");
      EXPECT_EQ(Values(mapped->layers[layer].gate), Raw(**reader, experts + "w1.weight"));
      EXPECT_EQ(Values(mapped->layers[layer].up), Raw(**reader, experts + "w3.weight"));
      EXPECT_EQ(Values(mapped->layers[layer].down), Raw(**reader, experts + "w2.weight"));
    }
  }
}

TEST(Package, TheFusedLayoutHoldsGateThenUpOfEachExpert) {
  const auto source = OpenModelSource(OracleModel("mixtral-top4of16-bf16"));
  ASSERT_TRUE(source.ok()) << source.status();
  const auto reader = SafetensorsReader::Open(OracleModel("mixtral-top4of16-bf16"));
  ASSERT_TRUE(reader.ok()) << reader.status();
  const SafetensorsTensor* fused = (*reader)->Find("model.layers.0.mlp.experts.gate_up_proj");
  ASSERT_NE(fused, nullptr);
  ASSERT_EQ(fused->shape, (std::vector<uint64_t>{16, 32, 32}));
  const size_t half = 16 * 32 * 2;  // bytes of w1 or w3 of one expert
  const auto gate = (*source)->Matrix(WeightRole::kExpertGate, 0, 5);
  const auto up = (*source)->Matrix(WeightRole::kExpertUp, 0, 5);
  ASSERT_TRUE(gate.ok() && up.ok());
  EXPECT_EQ(memcmp(gate->data, fused->data + 10 * half, half), 0);
  EXPECT_EQ(memcmp(up->data, fused->data + 11 * half, half), 0);
}

TEST(Package, GgufRowsOfQAndKComeBackInRotateHalfOrder) {
  const auto source = OpenModelSource(OracleModel("gguf-f32/model.gguf"));
  ASSERT_TRUE(source.ok()) << source.status();
  const auto q = (*source)->Matrix(WeightRole::kQ, 0, 0);
  ASSERT_TRUE(q.ok()) << q.status();
  std::vector<float> file(q->n * q->k);
  memcpy(file.data(), q->data, file.size() * 4);
  const std::vector<float> ours = Values(*q);
  const size_t head_dim = 8;
  for (size_t head = 0; head < 4; ++head) {
    for (size_t i = 0; i < head_dim / 2; ++i) {
      for (size_t j = 0; j < 2; ++j) {
        const float* from = &file[(head * head_dim + 2 * i + j) * q->k];
        const float* to = &ours[(head * head_dim + j * head_dim / 2 + i) * q->k];
        EXPECT_EQ(memcmp(from, to, q->k * 4), 0) << head << " " << i << " " << j;
      }
    }
  }
  // Chunks of rows see the same order.
  std::vector<float> part(4 * q->k);
  ASSERT_TRUE(SourceRowsF32(*q, 6, 4, part.data()).ok());
  EXPECT_EQ(memcmp(part.data(), &ours[6 * q->k], part.size() * 4), 0);
}

class GgufFormats : public ::testing::TestWithParam<const char*> {};

// A package that keeps the source's formats holds the same values as one unpacked to f32.
TEST_P(GgufFormats, ArePackedWithoutLoss) {
  TestDirectory directory;
  const std::string source = OracleModel(absl::StrCat(GetParam(), "/model.gguf"));
  const auto opened = OpenModelSource(source);
  ASSERT_TRUE(opened.ok()) << opened.status();
  const auto package = PackAndOpen(source, directory, PackOptions());
  ASSERT_NE(package, nullptr);
  const auto router = package->MapRouter(1);
  ASSERT_TRUE(router.ok()) << router.status();
  const auto expect_same = [&](const PackedWeights& weights, WeightRole role, uint32_t expert) {
    const auto matrix = (*opened)->Matrix(role, 0, expert);
    ASSERT_TRUE(matrix.ok()) << matrix.status();
    EXPECT_TRUE(weights.format == matrix->format) << matrix->name;
    EXPECT_EQ(Values(weights), Values(*matrix)) << matrix->name;
  };
  expect_same(router->embedding, WeightRole::kEmbedding, 0);
  expect_same(router->layers[0].q, WeightRole::kQ, 0);
  expect_same(router->layers[0].k, WeightRole::kK, 0);
  expect_same(router->layers[0].v, WeightRole::kV, 0);
  expect_same(router->layers[0].o, WeightRole::kO, 0);
  for (uint32_t expert = 0; expert < package->config().experts; ++expert) {
    const auto mapped = package->MapExpert(ExpertId(expert), 1);
    ASSERT_TRUE(mapped.ok()) << mapped.status();
    expect_same(mapped->layers[0].gate, WeightRole::kExpertGate, expert);
    expect_same(mapped->layers[0].up, WeightRole::kExpertUp, expert);
    expect_same(mapped->layers[0].down, WeightRole::kExpertDown, expert);
  }
}

INSTANTIATE_TEST_SUITE_P(All, GgufFormats,
                         ::testing::Values("gguf-f32", "gguf-f16", "gguf-bf16", "gguf-q8_0",
                                           "gguf-q4_0", "gguf-q4_1", "gguf-q5_0", "gguf-q5_1",
                                           "gguf-legacy-f16", "gguf-q4_k", "gguf-dense-q5_k",
                                           "gguf-dense-tied-q8_0"),
                         [](const auto& info) {
                           std::string name = info.param;
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name;
                         });

TEST(Package, EveryOracleModelPacksWithTheDefaults) {
  for (const auto& entry : std::filesystem::directory_iterator(OracleModel(""))) {
    if (!entry.is_directory()) continue;
    TestDirectory directory;
    std::string source = entry.path().string();
    if (absl::StrContains(source, "gguf-")) source += "/model.gguf";
    const auto package = PackAndOpen(source, directory, PackOptions());
    ASSERT_NE(package, nullptr) << source;
    EXPECT_TRUE(package->MapRouter(1).ok()) << source;
    for (uint32_t e = 0; e < package->config().experts; ++e) {
      EXPECT_TRUE(package->MapExpert(ExpertId(e), 1).ok()) << source;
    }
    EXPECT_EQ(package->LoadTokenizer().status().code(), absl::StatusCode::kNotFound);
  }
}

TEST(Package, HuggingFaceDefaultsAreInt4ExpertsAndInt8Attention) {
  TestDirectory directory;
  const auto package = PackAndOpen(OracleModel("mixtral-f32"), directory, PackOptions());
  ASSERT_NE(package, nullptr);
  const auto router = package->MapRouter(1);
  const auto expert = package->MapExpert(ExpertId(0), 1);
  ASSERT_TRUE(router.ok() && expert.ok());
  EXPECT_TRUE(router->layers[0].q.format == *WeightFormatFromName("int8g32"));
  EXPECT_TRUE(router->embedding.format == *WeightFormatFromName("int8g32"));
  EXPECT_TRUE(router->layers[0].gate.format == *WeightFormatFromName("f32"));
  EXPECT_TRUE(expert->layers[0].down.format == *WeightFormatFromName("int4g32"));
  EXPECT_EQ(package->wire_format(LayerId(0)).activation_group, 32u);
}

TEST(Package, TheAttentionGateHasThreeMatrices) {
  for (const char* name : {"mixtral-attention-gate-f32", "mixtral-attention-gate-fused-bf16"}) {
    TestDirectory directory;
    const auto package = PackAndOpen(OracleModel(name), directory, Formats("f32", "f32"));
    ASSERT_NE(package, nullptr);
    EXPECT_EQ(package->config().gate, GateKind::kAttention);
    const auto router = package->MapRouter(1);
    ASSERT_TRUE(router.ok()) << router.status();
    EXPECT_EQ(router->layers[0].gate_q.n, package->config().experts);
    EXPECT_EQ(router->layers[0].gate.data, nullptr);
    EXPECT_NE(Values(router->layers[0].gate_k), Values(router->layers[0].gate_v));
  }
}

TEST(Package, TiedModelsHaveOneEmbedding) {
  TestDirectory directory;
  const auto package = PackAndOpen(OracleModel("mixtral-tied-bf16"), directory, PackOptions());
  ASSERT_NE(package, nullptr);
  const auto router = package->MapRouter(1);
  ASSERT_TRUE(router.ok());
  EXPECT_EQ(router->head.data, router->embedding.data);
}

TEST(Package, UpcyclingStoresOneExpertAndASeededGate) {
  PackOptions options = Formats("f32", "f32");
  options.upcycle = 8;
  TestDirectory first_directory;
  const auto first = PackAndOpen(OracleModel("llama-f32"), first_directory, options);
  ASSERT_NE(first, nullptr);
  EXPECT_EQ(first->config().experts, 8u);
  EXPECT_EQ(first->config().top_k, 2u);
  EXPECT_EQ(first->config().gate, GateKind::kLinear);
  // The router's and one expert's.
  EXPECT_EQ(ListFiles(first_directory / "packed/blobs").size(), 2u);
  const auto a = first->MapExpert(ExpertId(0), 1);
  const auto b = first->MapExpert(ExpertId(7), 1);
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_EQ(a->layers[1].up.data, b->layers[1].up.data) << "mapped once";

  TestDirectory again_directory;
  const auto again = PackAndOpen(OracleModel("llama-f32"), again_directory, options);
  ASSERT_NE(again, nullptr);
  EXPECT_EQ(again->compute_digest(), first->compute_digest());
  options.upcycle_seed = 2;
  TestDirectory other_directory;
  const auto other = PackAndOpen(OracleModel("llama-f32"), other_directory, options);
  ASSERT_NE(other, nullptr);
  EXPECT_NE(other->compute_digest(), first->compute_digest());
}

TEST(Package, EqualExpertsOfASourceAreStoredOnce) {
  TestDirectory directory;
  const std::string source = directory / "twins";
  CopyDirectory(OracleModel("mixtral-f32"), source);
  const auto reader = SafetensorsReader::Open(source);
  ASSERT_TRUE(reader.ok());
  std::string bytes = ReadFileOrDie(source + "/model.safetensors");
  const auto header = ParseSafetensors(bytes, "twins");
  ASSERT_TRUE(header.ok());
  for (int layer = 0; layer < 2; ++layer) {
    for (const char* part : {"w1", "w2", "w3"}) {
      const auto name = [&](int expert) {
        return absl::StrCat("model.layers.", layer, ".block_sparse_moe.experts.", expert, ".", part,
                            ".weight");
      };
      const SafetensorsEntry& from = header->tensors.at(name(1));
      memcpy(&bytes[header->tensors.at(name(3)).begin], &bytes[from.begin], from.bytes);
    }
  }
  WriteFileOrDie(source + "/model.safetensors", bytes);
  ASSERT_NE(PackAndOpen(source, directory, PackOptions()), nullptr);
  EXPECT_EQ(ListFiles(directory / "packed/blobs").size(), 4u);
}

TEST(Package, ReplyAndFormatsArePartOfTheComputeDigest) {
  std::set<std::string> digests;
  std::vector<PackOptions> variants = {Formats("f32", "f32"), Formats("int8", "f32"),
                                       Formats("int8", "int8")};
  variants.push_back(variants.back());
  variants.back().reply = "bf16";
  variants.push_back(variants.back());
  variants.back().group = 64;
  for (const PackOptions& options : variants) {
    TestDirectory directory;
    const auto package = PackAndOpen(OracleModel("mixtral-f32"), directory, options);
    ASSERT_NE(package, nullptr);
    EXPECT_EQ(package->compute_digest().size(), 64u);
    EXPECT_EQ(package->wire_format(LayerId(0)).reply,
              options.reply == "bf16" ? ReplyDType::kBF16 : ReplyDType::kF32);
    digests.insert(package->compute_digest());
  }
  EXPECT_EQ(digests.size(), variants.size());
}

// Bits that other hardware fixes are another model to a cluster, and only for weights it takes.
TEST(PackageTest, NumericsOfTensorCoresHaveADigestOfTheirOwn) {
  const TestDirectory directory;
  const std::string source = OracleModel("gguf-q4_k") + "/model.gguf";
  const auto package = PackAndOpen(source, directory, Formats("bf16", "source"));
  ASSERT_NE(package, nullptr);
  std::string exact, other;
  ASSERT_TRUE(OpenWith(package->directory(), ExpertNumerics::kExact, &exact).ok());
  ASSERT_TRUE(OpenWith(package->directory(), ExpertNumerics::kHopperBf16, &other).ok());
  EXPECT_EQ(exact, package->compute_digest());
  EXPECT_NE(other, exact);
  EXPECT_EQ(other.size(), 64u);

  const TestDirectory integer;
  const auto packed = PackAndOpen(source, integer, Formats("source", "source"));
  ASSERT_NE(packed, nullptr);
  const absl::Status format = OpenWith(packed->directory(), ExpertNumerics::kHopperBf16, &other);
  EXPECT_TRUE(absl::IsInvalidArgument(format)) << format;
  EXPECT_THAT(format.message(), HasSubstr("layer 0 are in q4_k"));

  const TestDirectory small;
  const auto narrow = PackAndOpen(OracleModel("mixtral-gqa4-bf16"), small, Formats("bf16", "bf16"));
  ASSERT_NE(narrow, nullptr);
  const absl::Status shape = OpenWith(narrow->directory(), ExpertNumerics::kHopperBf16, &other);
  EXPECT_TRUE(absl::IsInvalidArgument(shape)) << shape;
  EXPECT_THAT(shape.message(), HasSubstr("multiples of 64, these are 32 by 16"));
}

}  // namespace
}  // namespace octet
