// config.json and GGUF metadata: what is understood, and what is refused by name.
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/hf_config.h"
#include "model/test_util.h"

namespace octet {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

Json Base(const char* architecture = "MixtralForCausalLM") {
  return {{"architectures", {architecture}},
          {"hidden_size", 64},
          {"intermediate_size", 96},
          {"num_hidden_layers", 2},
          {"num_attention_heads", 8},
          {"num_key_value_heads", 2},
          {"vocab_size", 200},
          {"max_position_embeddings", 128},
          {"rope_theta", 10000.0},
          {"num_local_experts", 4},
          {"num_experts_per_tok", 2},
          {"bos_token_id", 1},
          {"eos_token_id", 2}};
}

absl::StatusOr<ModelConfig> Parse(const Json& json) { return ParseHfConfig(json.dump(), "c"); }

// The error after setting one field.
std::string Error(const char* key, Json value, Json base = Base()) {
  base[key] = std::move(value);
  const auto config = Parse(base);
  return config.ok() ? "accepted" : std::string(config.status().message());
}

TEST(HfConfig, ReadsMixtral) {
  const auto config = Parse(Base());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->architecture, "mixtral");
  EXPECT_EQ(config->head_dim, 8u);
  EXPECT_EQ(config->kv_heads, 2u);
  EXPECT_EQ(config->experts, 4u);
  EXPECT_EQ(config->top_k, 2u);
  EXPECT_EQ(config->gate, GateKind::kLinear);
  EXPECT_EQ(config->sliding_window, 0u);
  EXPECT_EQ(config->bos_id, 1);
  EXPECT_EQ(config->eos_ids, (std::vector<TokenId>{2}));
  EXPECT_FALSE(config->tied_embeddings);
  EXPECT_EQ(config->rms_eps, 1e-5f);
}

TEST(HfConfig, RopeThetaStandsInEitherPlaceAsIntegerOrFloat) {
  for (const Json& value : {Json(1000000), Json(1e6)}) {
    Json top = Base();
    top["rope_theta"] = value;
    EXPECT_EQ(Parse(top)->rope_theta, 1e6);
    Json nested = Base();
    nested.erase("rope_theta");
    nested["rope_parameters"] = {{"rope_theta", value}, {"rope_type", "default"}};
    EXPECT_EQ(Parse(nested)->rope_theta, 1e6);
  }
}

TEST(HfConfig, OptionalFieldsAreHonoured) {
  Json json = Base();
  json["head_dim"] = 16;
  json["sliding_window"] = 32;
  json["tie_word_embeddings"] = true;
  json["eos_token_id"] = {2, 7};
  json["rope_scaling"] = nullptr;
  json["router_type"] = "attention";
  const auto config = Parse(json);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->head_dim, 16u);
  EXPECT_EQ(config->sliding_window, 32u);
  EXPECT_TRUE(config->tied_embeddings);
  EXPECT_EQ(config->eos_ids, (std::vector<TokenId>{2, 7}));
  EXPECT_EQ(config->gate, GateKind::kAttention);
  json["sliding_window"] = nullptr;
  EXPECT_EQ(Parse(json)->sliding_window, 0u);
}

TEST(HfConfig, DenseModelsHaveOneExpert) {
  for (const char* name : {"LlamaForCausalLM", "MistralForCausalLM"}) {
    const auto config = Parse(Base(name));
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_EQ(config->experts, 1u);
    EXPECT_EQ(config->top_k, 1u);
    EXPECT_EQ(config->gate, GateKind::kNone);
    EXPECT_EQ(config->architecture, "llama");
  }
}

TEST(HfConfig, RefusesByNameWhatItCannotCompute) {
  EXPECT_THAT(Error("architectures", {"GPT2LMHeadModel"}),
              AllOf(HasSubstr("GPT2LMHeadModel"), HasSubstr("MixtralForCausalLM")));
  EXPECT_THAT(Error("architectures", Json::array()), HasSubstr("architectures"));
  EXPECT_THAT(Error("architectures", nullptr), HasSubstr("architectures"));
  EXPECT_THAT(Error("rope_scaling", {{"rope_type", "yarn"}, {"factor", 4.0}}),
              AllOf(HasSubstr("rope_scaling.rope_type"), HasSubstr("yarn")));
  EXPECT_THAT(Error("rope_scaling", {{"type", "linear"}}), HasSubstr("linear"));
  EXPECT_THAT(Error("rope_parameters", {{"rope_type", "llama3"}}), HasSubstr("llama3"));
  EXPECT_THAT(Error("rope_parameters", {{"partial_rotary_factor", 0.5}}), HasSubstr("partial"));
  EXPECT_THAT(Error("hidden_act", "gelu"), AllOf(HasSubstr("hidden_act"), HasSubstr("gelu")));
  EXPECT_THAT(Error("attention_bias", true), HasSubstr("attention_bias"));
  EXPECT_THAT(Error("norm_topk_prob", false), HasSubstr("norm_topk_prob"));
  EXPECT_THAT(Error("quantization_config", {{"quant_method", "gptq"}}),
              HasSubstr("quantization_config"));
  EXPECT_THAT(Error("router_type", "magic"), HasSubstr("router_type"));
}

TEST(HfConfig, EveryNumberIsCheckedAndNamed) {
  for (const char* key :
       {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "vocab_size", "max_position_embeddings", "num_local_experts",
        "num_experts_per_tok", "sliding_window", "head_dim"}) {
    for (const Json& value : {Json(0), Json(-1), Json(1LL << 40), Json(UINT64_MAX), Json(2.5),
                              Json("8"), Json(true), Json::array({1})}) {
      EXPECT_THAT(Error(key, value), HasSubstr(absl::StrCat("\"", key, "\""))) << value;
    }
  }
  EXPECT_THAT(Error("hidden_size", nullptr), HasSubstr("\"hidden_size\" is missing"));
  EXPECT_THAT(Error("num_key_value_heads", 3), HasSubstr("divisor"));
  EXPECT_THAT(Error("num_experts_per_tok", 5), HasSubstr("num_experts_per_tok"));
  EXPECT_THAT(Error("hidden_size", 63), HasSubstr("multiple of num_attention_heads"));
  EXPECT_THAT(Error("head_dim", 7), HasSubstr("even"));
  for (const Json& value : {Json(0.5), Json(-1), Json(1e13), Json("1e6")}) {
    EXPECT_THAT(Error("rope_theta", value), HasSubstr("rope_theta")) << value;
  }
  for (const Json& value : {Json(0), Json(-1e-5), Json(2), Json("x")}) {
    EXPECT_THAT(Error("rms_norm_eps", value), HasSubstr("rms_norm_eps")) << value;
  }
  for (const Json& value : {Json(200), Json(-1), Json("2"), Json({2, 200}), Json({2, "x"})}) {
    EXPECT_THAT(Error("eos_token_id", value), HasSubstr("eos_token_id")) << value;
  }
  EXPECT_THAT(Error("bos_token_id", 200), HasSubstr("bos_token_id"));
}

TEST(HfConfig, BadTextIsOneError) {
  for (const char* text : {"", "{", "[]", "3", "null", "{\"a\":1,\"a\":2}", "\xff"}) {
    EXPECT_EQ(ParseHfConfig(text, "c").status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
  const std::string good = Base().dump();
  for (size_t length = 0; length < good.size(); ++length) {
    EXPECT_FALSE(ParseHfConfig(good.substr(0, length), "c").ok()) << length;
  }
}

TEST(ModelConfigJson, SurvivesTheRoundTrip) {
  Json json = Base();
  json["rms_norm_eps"] = 1e-6;
  json["eos_token_id"] = {2, 5};
  json["router_type"] = "attention";
  const ModelConfig config = *Parse(json);
  const auto back = ModelConfigFromJson(Json::parse(ModelConfigToJson(config).dump()), "m");
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(ModelConfigToJson(*back), ModelConfigToJson(config));
  EXPECT_EQ(back->rms_eps, 1e-6f);
  EXPECT_EQ(back->gate, GateKind::kAttention);
}

// Metadata of a small model, and one more pair.
GgufHeader Metadata() {
  GgufHeader header;
  const auto set = [&](const char* key, uint64_t value) {
    header.values[key].type = GgufType::kU32;
    header.values[key].u = value;
  };
  header.values["general.architecture"].type = GgufType::kString;
  header.values["general.architecture"].s = "llama";
  set("llama.block_count", 2);
  set("llama.embedding_length", 64);
  set("llama.feed_forward_length", 96);
  set("llama.attention.head_count", 8);
  set("llama.context_length", 128);
  set("llama.expert_count", 8);
  set("llama.expert_used_count", 2);
  header.tensors["token_embd.weight"].dims = {64, 200};
  header.tensors["output.weight"].dims = {64, 200};
  return header;
}

std::string GgufError(const char* key, GgufValue value) {
  GgufHeader header = Metadata();
  header.values[key] = std::move(value);
  const auto config = GgufModelConfig(header, "g");
  return config.ok() ? "accepted" : std::string(config.status().message());
}

GgufValue U32(uint64_t u) {
  GgufValue value;
  value.type = GgufType::kU32;
  value.u = u;
  return value;
}

GgufValue Text(const char* s) {
  GgufValue value;
  value.type = GgufType::kString;
  value.s = s;
  return value;
}

GgufValue Bool(bool b) {
  GgufValue value;
  value.type = GgufType::kBool;
  value.u = b;
  return value;
}

TEST(GgufConfig, ReadsAMixtureAndADenseModel) {
  GgufHeader header = Metadata();
  const auto config = GgufModelConfig(header, "g");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->experts, 8u);
  EXPECT_EQ(config->kv_heads, 8u);
  EXPECT_EQ(config->vocab, 200u);
  EXPECT_FALSE(config->tied_embeddings);
  header.values.erase("llama.expert_count");
  header.tensors.erase("output.weight");
  const auto dense = GgufModelConfig(header, "g");
  ASSERT_TRUE(dense.ok()) << dense.status();
  EXPECT_EQ(dense->experts, 1u);
  EXPECT_EQ(dense->gate, GateKind::kNone);
  EXPECT_TRUE(dense->tied_embeddings);
}

TEST(GgufConfig, RefusesByNameWhatItCannotCompute) {
  EXPECT_THAT(GgufError("general.architecture", Text("qwen2moe")),
              AllOf(HasSubstr("qwen2moe"), HasSubstr("llama")));
  EXPECT_THAT(GgufError("general.architecture", U32(1)), HasSubstr("general.architecture"));
  EXPECT_THAT(GgufError("llama.rope.scaling.type", Text("yarn")), HasSubstr("yarn"));
  EXPECT_THAT(GgufError("llama.rope.dimension_count", U32(4)), HasSubstr("rope.dimension_count"));
  EXPECT_THAT(GgufError("llama.expert_gating_func", U32(2)), HasSubstr("expert_gating_func"));
  EXPECT_EQ(GgufError("llama.expert_gating_func", U32(3)), "accepted");
  EXPECT_THAT(GgufError("llama.expert_weights_norm", Bool(false)),
              HasSubstr("expert_weights_norm"));
  EXPECT_EQ(GgufError("llama.expert_weights_norm", Bool(true)), "accepted");
  EXPECT_THAT(GgufError("llama.expert_shared_count", U32(1)), HasSubstr("expert_shared_count"));
  EXPECT_THAT(GgufError("llama.attention.value_length", U32(16)), HasSubstr("value_length"));
  EXPECT_THAT(GgufError("llama.embedding_length", U32(0)), HasSubstr("embedding_length"));
  EXPECT_THAT(GgufError("llama.block_count", U32(UINT32_MAX)), HasSubstr("block_count"));
  EXPECT_THAT(GgufError("llama.block_count", Text("2")), HasSubstr("block_count"));
  EXPECT_THAT(GgufError("llama.expert_used_count", U32(9)), HasSubstr("num_experts_per_tok"));
  GgufHeader header = Metadata();
  header.tensors["rope_freqs.weight"].dims = {4};
  EXPECT_THAT(std::string(GgufModelConfig(header, "g").status().message()),
              HasSubstr("rope_freqs"));
  header = Metadata();
  header.values.erase("llama.block_count");
  EXPECT_THAT(std::string(GgufModelConfig(header, "g").status().message()),
              HasSubstr("\"llama.block_count\" is missing"));
}

}  // namespace
}  // namespace octet
