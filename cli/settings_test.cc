#include "cli/settings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/limits.h"

namespace octet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

SettingSpec Spec(const std::string& name, SettingType type, const std::string& fallback = "") {
  SettingSpec spec;
  spec.name = name;
  spec.type = type;
  spec.fallback = fallback;
  return spec;
}

std::vector<SettingSpec> Specs() {
  SettingSpec threads = Spec("threads", SettingType::kInt, "2");
  threads.max = 64;
  SettingSpec rate = Spec("rate", SettingType::kFloat);
  rate.max = 1.5;
  SettingSpec cache = Spec("kv-cache-bytes", SettingType::kBytes, "256MiB");
  cache.max = 1e12;
  SettingSpec dtype = Spec("kv-dtype", SettingType::kChoice, "f16");
  dtype.choices = "f16|f32";
  return {threads,
          rate,
          cache,
          dtype,
          Spec("stop", SettingType::kList),
          Spec("seed", SettingType::kUint64),
          Spec("json", SettingType::kBool, "false"),
          Spec("model", SettingType::kString)};
}

std::string ErrorOf(const RawSettings& flags, const RawSettings& env = {},
                    const RawSettings& yaml = {}) {
  return std::string(Settings::Resolve(Specs(), flags, env, yaml, "f.yaml").status().message());
}

TEST(SettingsTest, PrecedenceIsFlagsThenEnvironmentThenYamlThenDefault) {
  const RawSettings flags = {{"threads", {"5"}}};
  const RawSettings env = {{"threads", {"4"}}, {"model", {"from-env"}}};
  const RawSettings yaml = {{"threads", {"3"}}, {"model", {"from-yaml"}}, {"json", {"true"}}};
  auto settings = Settings::Resolve(Specs(), flags, env, yaml, "f.yaml");
  ASSERT_TRUE(settings.ok()) << settings.status();
  EXPECT_EQ(settings->Int("threads"), 5);
  EXPECT_EQ(settings->String("model"), "from-env");
  EXPECT_TRUE(settings->Bool("json"));
  EXPECT_EQ(settings->Bytes("kv-cache-bytes"), 256u << 20);
  EXPECT_EQ(settings->Source("threads"), SettingSource::kFlag);
  EXPECT_EQ(settings->Source("model"), SettingSource::kEnvironment);
  EXPECT_EQ(settings->Source("json"), SettingSource::kYaml);
  EXPECT_EQ(settings->Source("kv-dtype"), SettingSource::kDefault);
  EXPECT_EQ(settings->all()[0].second.origin, "flag --threads");
  EXPECT_EQ(settings->all()[7].second.origin, "OCTET_MODEL");
  EXPECT_EQ(settings->all()[6].second.origin, "f.yaml");
}

TEST(SettingsTest, UnsetSettingsAreUnset) {
  auto settings = Settings::Resolve(Specs(), {}, {}, {}, "");
  ASSERT_TRUE(settings.ok());
  EXPECT_FALSE(settings->IsSet("seed"));
  EXPECT_FALSE(settings->IsSet("model"));
  EXPECT_TRUE(settings->List("stop").empty());
  EXPECT_EQ(settings->String("model"), "");
}

TEST(SettingsTest, ErrorsNameSettingOriginValueAndWhatIsAllowed) {
  EXPECT_THAT(ErrorOf({{"threads", {"65"}}}),
              AllOf(HasSubstr("threads (flag --threads)"), HasSubstr("\"65\""),
                    HasSubstr("an integer from 0 to 64")));
  EXPECT_THAT(ErrorOf({}, {{"threads", {"two"}}}), HasSubstr("threads (OCTET_THREADS): \"two\""));
  EXPECT_THAT(ErrorOf({}, {}, {{"kv-dtype", {"f64"}}}),
              AllOf(HasSubstr("kv-dtype (f.yaml)"), HasSubstr("one of f16, f32")));
  EXPECT_THAT(ErrorOf({{"rate", {"1.6"}}}), HasSubstr("a number from 0 to 1.5"));
  EXPECT_THAT(ErrorOf({{"rate", {"nan"}}}), HasSubstr("a number from 0 to 1.5"));
  EXPECT_THAT(ErrorOf({{"json", {"maybe"}}}), HasSubstr("true or false"));
  EXPECT_THAT(ErrorOf({{"kv-cache-bytes", {"12 parsecs"}}}), HasSubstr("a number of bytes"));
  EXPECT_THAT(ErrorOf({{"kv-cache-bytes", {"99999999999GiB"}}}), HasSubstr("a number of bytes"));
  EXPECT_THAT(ErrorOf({{"seed", {"-1"}}}), HasSubstr("2^64"));
  EXPECT_THAT(ErrorOf({{"model", {"a", "b"}}}), HasSubstr("2 values; allowed is one"));
}

TEST(SettingsTest, UnitsOfBytes) {
  const std::pair<const char*, uint64_t> cases[] = {
      {"12", 12}, {"3k", 3000}, {"3KiB", 3072}, {"2 MiB", 2u << 20}, {"1G", 1'000'000'000}};
  for (const auto& c : cases) {
    auto settings = Settings::Resolve(Specs(), {{"kv-cache-bytes", {c.first}}}, {}, {}, "");
    ASSERT_TRUE(settings.ok()) << settings.status();
    EXPECT_EQ(settings->Bytes("kv-cache-bytes"), c.second) << c.first;
  }
}

TEST(SettingsTest, EditDistanceCountsInsertDeleteChangeAndSwap) {
  EXPECT_EQ(EditDistance("", "abc"), 3u);
  EXPECT_EQ(EditDistance("abc", "abc"), 0u);
  EXPECT_EQ(EditDistance("abc", "acb"), 1u);
  EXPECT_EQ(EditDistance("kitten", "sitting"), 3u);
  EXPECT_EQ(NearestName("max-token", {"model", "max-tokens", "min-tokens"}), "max-tokens");
  EXPECT_EQ(NearestName("x", {}), "");
}

TEST(SettingsTest, EnvironmentName) {
  EXPECT_EQ(SettingEnvironmentName("kv-cache-bytes"), "OCTET_KV_CACHE_BYTES");
}

const std::vector<std::string>& Known() {
  static const auto* const known = new std::vector<std::string>{"threads", "stop", "model"};
  return *known;
}

std::string YamlErrorOf(const std::string& text) {
  return std::string(ParseYamlSettings(text, "f.yaml", Known()).status().message());
}

TEST(YamlSettingsTest, ReadsScalarsAndLists) {
  auto raw = ParseYamlSettings("threads: 3\nstop: [a, \"b c\"]\nmodel:\n", "f.yaml", Known());
  ASSERT_TRUE(raw.ok()) << raw.status();
  EXPECT_THAT((*raw)["threads"], ElementsAre("3"));
  EXPECT_THAT((*raw)["stop"], ElementsAre("a", "b c"));
  EXPECT_THAT((*raw)["model"], ElementsAre());
}

TEST(YamlSettingsTest, EmptyFileSetsNothing) {
  auto raw = ParseYamlSettings("# nothing\n", "f.yaml", Known());
  ASSERT_TRUE(raw.ok()) << raw.status();
  EXPECT_TRUE(raw->empty());
}

TEST(YamlSettingsTest, UnknownKeyNamesTheNearest) {
  EXPECT_THAT(YamlErrorOf("threads: 1\nmodle: x\n"),
              AllOf(HasSubstr("f.yaml:2"), HasSubstr("\"modle\""), HasSubstr("\"model\"?")));
}

TEST(YamlSettingsTest, RefusesWhatIsNoFlatMapping) {
  EXPECT_THAT(YamlErrorOf("- a\n"), HasSubstr("not a mapping"));
  EXPECT_THAT(YamlErrorOf("model: {a: b}\n"), HasSubstr("model: a mapping"));
  EXPECT_THAT(YamlErrorOf("stop: [[a]]\n"), HasSubstr("stop: a nested list"));
  EXPECT_THAT(YamlErrorOf("model: a\nmodel: b\n"), HasSubstr("stands twice"));
  EXPECT_THAT(YamlErrorOf("model: [\n"), HasSubstr("not YAML"));
  EXPECT_THAT(YamlErrorOf("model: a\n---\nmodel: b\n"), HasSubstr("allowed is one"));
  EXPECT_THAT(YamlErrorOf(std::string(kConfigBytesMax + 1, ' ')), HasSubstr("at most"));
}

}  // namespace
}  // namespace octet
