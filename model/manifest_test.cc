// manifest.json: round trip, every field checked, nothing believed.
#include "model/manifest.h"

#include <functional>
#include <random>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/hf_config.h"
#include "model/model_package.h"
#include "model/package_cache.h"
#include "model/test_util.h"

namespace octet {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

const auto kNoProgress = [](absl::string_view, uint64_t, uint64_t) {};

Manifest Good() {
  Manifest manifest;
  manifest.name = "tiny";
  ModelConfig& config = manifest.config;
  config.architecture = "mixtral";
  config.layers = 2;
  config.hidden = 64;
  config.intermediate = 96;
  config.heads = 4;
  config.kv_heads = 2;
  config.head_dim = 16;
  config.vocab = 100;
  config.context = 128;
  config.experts = 3;
  config.top_k = 2;
  config.gate = GateKind::kLinear;
  config.eos_ids = {2};
  manifest.reply = ReplyDType::kBF16;
  manifest.embedding = *WeightFormatFromName("int8g64");
  manifest.head = *WeightFormatFromName("f16");
  ManifestLayer layer;
  layer.q = layer.k = *WeightFormatFromName("q4_1");
  layer.v = layer.o = *WeightFormatFromName("bf16");
  layer.gate = layer.up = *WeightFormatFromName("q4_0");
  layer.down = *WeightFormatFromName("q8_0");
  manifest.layers = {layer, layer};
  manifest.router = {std::string(64, 'a'), 1000};
  manifest.experts = {
      {std::string(64, 'b'), 10}, {std::string(64, 'b'), 10}, {std::string(64, 'c'), 11}};
  manifest.tokenizer_sha256 = std::string(64, 'd');
  return manifest;
}

// The error after a change to the JSON of a good manifest.
std::string Error(const std::function<void(Json&)>& change) {
  Json json = Json::parse(ManifestToJson(Good()));
  change(json);
  const auto manifest = ParseManifest(json.dump(), "m");
  return manifest.ok() ? "accepted" : std::string(manifest.status().message());
}

TEST(Manifest, SurvivesTheRoundTrip) {
  const std::string text = ManifestToJson(Good());
  const auto back = ParseManifest(text, "m");
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(ManifestToJson(*back), text);
  EXPECT_EQ(ComputeDigest(*back), ComputeDigest(Good()));
  EXPECT_EQ(ModelVersion(*back), ModelVersion(Good()));
}

TEST(Manifest, TheComputeDigestFollowsWhatDecidesResults) {
  const std::string digest = ComputeDigest(Good());
  const std::vector<std::function<void(Manifest&)>> changes = {
      [](Manifest& m) { m.config.rope_theta = 20000; },
      [](Manifest& m) { m.reply = ReplyDType::kF32; },
      [](Manifest& m) { m.router.digest[3] = '0'; },
      [](Manifest& m) { m.experts[2].digest[3] = '0'; },
      [](Manifest& m) { std::swap(m.experts[1], m.experts[2]); },
      [](Manifest& m) { m.layers[1].down = m.layers[1].gate; }};
  for (const auto& change : changes) {
    Manifest manifest = Good();
    change(manifest);
    EXPECT_NE(ComputeDigest(manifest), digest);
  }
  Manifest renamed = Good();
  renamed.name = "other";
  EXPECT_EQ(ComputeDigest(renamed), digest);
  renamed.tokenizer_sha256 = std::string(64, 'e');
  EXPECT_EQ(ComputeDigest(renamed), digest);
  EXPECT_NE(ModelVersion(renamed), ModelVersion(Good()));
}

TEST(Manifest, NamesTheFieldThatIsWrong) {
  EXPECT_EQ(Error([](Json&) {}), "accepted");
  const struct {
    std::function<void(Json&)> change;
    const char* expected;
  } kCases[] = {
      {[](Json& j) { j["format"] = "zip"; }, "format"},
      {[](Json& j) { j["version"] = 2; }, "pack the model again"},
      {[](Json& j) { j["numerics_version"] = 99; }, "numerics_version is 99"},
      {[](Json& j) { j["name"] = std::string(1000, 'x'); }, "name"},
      {[](Json& j) { j.erase("config"); }, "config"},
      {[](Json& j) { j["config"]["hidden"] = 1 << 20; }, "hidden_size"},
      {[](Json& j) { j["config"]["layers"] = 3; }, "\"layers\" is an array of 2"},
      {[](Json& j) { j["config"]["experts"] = 4; }, "blobs"},
      {[](Json& j) { j["config"]["gate"] = "magic"; }, "gate"},
      {[](Json& j) { j["config"]["gate"] = "none"; }, "num_local_experts"},
      {[](Json& j) { j["config"]["eos_ids"] = {100}; }, "eos_token_id"},
      {[](Json& j) { j["reply"] = "f64"; }, "reply"},
      {[](Json& j) { j["router"] = 7; }, "router"},
      {[](Json& j) { j["router"]["embedding"] = "q9_9"; }, "q9_9"},
      {[](Json& j) { j["router"]["layers"][0].erase("q"); }, "\"q\" is missing"},
      {[](Json& j) { j["router"]["blob"]["digest"] = "../../../etc/passwd"; }, "hexadecimal"},
      {[](Json& j) { j["router"]["blob"]["digest"] = std::string(64, 'A'); }, "lower-case"},
      {[](Json& j) { j["router"]["blob"]["bytes"] = -1; }, "bytes"},
      {[](Json& j) { j["experts"]["blobs"][1]["digest"] = 5; }, "expert 1"},
      {[](Json& j) { j["experts"]["layers"][1]["up"] = "f32"; }, "layer 1: gate and up"},
      {[](Json& j) { j["tokenizer"]["sha256"] = ".."; }, "tokenizer"},
      {[](Json& j) { j["compute_digest"] = std::string(64, '0'); }, "does not match"},
      {[](Json& j) { j["config"]["rope_theta"] = 12345.0; }, "does not match"}};
  for (const auto& c : kCases) EXPECT_THAT(Error(c.change), HasSubstr(c.expected)) << c.expected;
}

TEST(Manifest, FlippedAndTruncatedTextIsAnErrorOrHarmless) {
  const std::string good = ManifestToJson(Good());
  for (size_t length = 0; length + 2 < good.size(); ++length) {
    EXPECT_FALSE(ParseManifest(good.substr(0, length), "m").ok()) << length;
  }
  for (uint32_t seed = 0; seed < 3000; ++seed) {
    std::mt19937 random(seed);
    std::string text = good;
    text[random() % text.size()] ^= static_cast<char>(1u << random() % 8);
    const auto manifest = ParseManifest(text, "m");
    // What still parses decides the same results.
    if (!manifest.ok()) continue;
    EXPECT_EQ(ComputeDigest(*manifest), ComputeDigest(Good())) << seed;
  }
}

// A manifest whose digests agree, but whose blobs are too small for the shapes it claims.
TEST(Manifest, ClaimedShapesAreCheckedAgainstTheBlobs) {
  TestDirectory directory;
  PackOptions options;
  ASSERT_TRUE(PackModel(OracleModel("mixtral-f32"), directory / "p", options, kNoProgress).ok());
  const auto loaded = LoadManifest(directory / "p");
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const std::vector<std::function<void(Manifest&)>> lies = {
      [](Manifest& m) { m.config.hidden = 65536; }, [](Manifest& m) { m.config.vocab = 1u << 20; },
      [](Manifest& m) { m.embedding = m.head = *WeightFormatFromName("f32"); },
      [](Manifest& m) { std::swap(m.router, m.experts[0]); },
      [](Manifest& m) {
        m.config.gate = GateKind::kAttention;
        m.config.intermediate = 262144;
      }};
  for (const auto& lie : lies) {
    Manifest manifest = loaded->manifest;
    lie(manifest);
    WriteFileOrDie(directory / "p/manifest.json", ManifestToJson(manifest));
    const auto package = ModelPackage::Open(directory / "p", {}, kNoProgress);
    ASSERT_TRUE(package.ok()) << package.status();
    EXPECT_EQ((*package)->MapRouter(1).status().code(), absl::StatusCode::kDataLoss);
  }
}

}  // namespace
}  // namespace octet
