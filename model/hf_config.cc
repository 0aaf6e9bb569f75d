#include "model/hf_config.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/limits.h"
#include "core/status_macros.h"
#include "model/json.h"

namespace octet {
namespace {

using Json = nlohmann::json;

std::string_view StdView(absl::string_view text) { return {text.data(), text.size()}; }

absl::Status Bad(absl::string_view where, absl::string_view field, absl::string_view value,
                 absl::string_view allowed) {
  return absl::InvalidArgumentError(
      absl::StrCat(where, ": field \"", field, "\" is ", value, ", allowed is ", allowed));
}

absl::Status Unsupported(absl::string_view where, absl::string_view field, absl::string_view value,
                         absl::string_view allowed) {
  return absl::UnimplementedError(absl::StrCat(where, ": field \"", field, "\" is ", value,
                                               ", which is not supported; allowed is ", allowed));
}

enum class HfFamily { kMixtral, kMistral, kLlama };

absl::StatusOr<HfFamily> Family(const Json& json, absl::string_view where) {
  static constexpr std::pair<const char*, HfFamily> kFamilies[] = {
      {"MixtralForCausalLM", HfFamily::kMixtral},
      {"MistralForCausalLM", HfFamily::kMistral},
      {"LlamaForCausalLM", HfFamily::kLlama}};
  const Json* list = JsonFind(json, "architectures");
  if (list == nullptr || !list->is_array() || list->size() != 1 || !(*list)[0].is_string()) {
    return Bad(where, "architectures", list == nullptr ? "missing" : JsonForError(*list),
               "an array of one of MixtralForCausalLM, MistralForCausalLM, LlamaForCausalLM");
  }
  for (const auto& [name, family] : kFamilies) {
    if ((*list)[0] == name) return family;
  }
  return absl::UnimplementedError(
      absl::StrCat(where, ": architecture ", JsonForError((*list)[0]),
                   " is not supported; known are MixtralForCausalLM, MistralForCausalLM, "
                   "LlamaForCausalLM"));
}

// Both "rope_scaling" and transformers 5's "rope_parameters" may only say "default".
absl::Status CheckRope(const Json& json, const char* field, absl::string_view where) {
  const Json* rope = JsonFind(json, field);
  if (rope == nullptr) return absl::OkStatus();
  if (!rope->is_object()) return Bad(where, field, JsonForError(*rope), "an object or null");
  for (const char* key : {"rope_type", "type"}) {
    const Json* type = JsonFind(*rope, key);
    if (type != nullptr && *type != "default") {
      return Unsupported(where, absl::StrCat(field, ".", key), JsonForError(*type), "\"default\"");
    }
  }
  if (rope->contains("factor")) {
    return Unsupported(where, absl::StrCat(field, ".factor"), JsonForError((*rope)["factor"]),
                       "no rope scaling");
  }
  const Json* partial = JsonFind(*rope, "partial_rotary_factor");
  if (partial != nullptr && !(partial->is_number() && partial->get<double>() == 1.0)) {
    return Unsupported(where, absl::StrCat(field, ".partial_rotary_factor"), JsonForError(*partial),
                       "1");
  }
  return absl::OkStatus();
}

absl::Status ParseRope(const Json& json, HfFamily family, absl::string_view where,
                       ModelConfig* config) {
  OCTET_RETURN_IF_ERROR(CheckRope(json, "rope_scaling", where));
  OCTET_RETURN_IF_ERROR(CheckRope(json, "rope_parameters", where));
  const double fallback = family == HfFamily::kMixtral ? 1e6 : 10000.0;
  OCTET_ASSIGN_OR_RETURN(config->rope_theta,
                         JsonNumberOr(json, "rope_theta", where, 1, 1e12, fallback));
  if (const Json* rope = JsonFind(json, "rope_parameters"); rope != nullptr) {
    OCTET_ASSIGN_OR_RETURN(
        config->rope_theta,
        JsonNumberOr(*rope, "rope_theta", absl::StrCat(where, ": rope_parameters"), 1, 1e12,
                     config->rope_theta));
  }
  return absl::OkStatus();
}

// What other members of these families have and Octet has no arithmetic for.
absl::Status CheckUnsupported(const Json& json, absl::string_view where) {
  for (const char* key : {"attention_bias", "mlp_bias"}) {
    OCTET_ASSIGN_OR_RETURN(const bool bias, JsonBoolOr(json, key, StdView(where), false));
    if (bias) return Unsupported(where, key, "true", "false");
  }
  OCTET_ASSIGN_OR_RETURN(const std::string activation,
                         JsonStringOr(json, "hidden_act", StdView(where), "silu"));
  if (absl::string_view(activation) != "silu") {
    return Unsupported(where, "hidden_act", absl::StrCat("\"", activation.substr(0, 80), "\""),
                       "\"silu\"");
  }
  if (const Json* quantization = JsonFind(json, "quantization_config"); quantization != nullptr) {
    return Unsupported(where, "quantization_config", JsonForError(*quantization),
                       "a model in f32, f16 or bf16");
  }
  OCTET_ASSIGN_OR_RETURN(const bool renormalise,
                         JsonBoolOr(json, "norm_topk_prob", StdView(where), true));
  if (!renormalise) return Unsupported(where, "norm_topk_prob", "false", "true");
  return absl::OkStatus();
}

absl::Status ParseTokens(const Json& json, absl::string_view where, ModelConfig* config) {
  OCTET_ASSIGN_OR_RETURN(const int64_t bos,
                         JsonIntOr(json, "bos_token_id", StdView(where), 0, kVocabMax, -1));
  config->bos_id = static_cast<TokenId>(bos);
  const Json* eos = JsonFind(json, "eos_token_id");
  if (eos == nullptr) return absl::OkStatus();
  const Json list = eos->is_array() ? *eos : Json::array({*eos});
  for (const Json& id : list) {
    if (list.size() > kStopIdsMax || !id.is_number_unsigned() ||
        id.get<uint64_t>() >= config->vocab) {
      return Bad(
          where, "eos_token_id", JsonForError(*eos),
          absl::StrCat("a token below ", config->vocab, " or up to ", kStopIdsMax, " of them"));
    }
    config->eos_ids.push_back(id.get<TokenId>());
  }
  return absl::OkStatus();
}

absl::Status ParseExperts(const Json& json, HfFamily family, absl::string_view where,
                          ModelConfig* config) {
  config->architecture = family == HfFamily::kMixtral ? "mixtral" : "llama";
  if (family != HfFamily::kMixtral) return absl::OkStatus();
  OCTET_ASSIGN_OR_RETURN(const int64_t experts,
                         JsonIntOr(json, "num_local_experts", StdView(where), 2, kExpertsMax, 8));
  OCTET_ASSIGN_OR_RETURN(const int64_t top_k,
                         JsonIntOr(json, "num_experts_per_tok", StdView(where), 1, kTopKMax, 2));
  OCTET_ASSIGN_OR_RETURN(const std::string router,
                         JsonStringOr(json, "router_type", StdView(where), "linear"));
  if (router != "linear" && router != "attention") {
    return Bad(where, "router_type", absl::StrCat("\"", router.substr(0, 80), "\""),
               "\"linear\" or \"attention\"");
  }
  config->experts = static_cast<uint32_t>(experts);
  config->top_k = static_cast<uint32_t>(top_k);
  config->gate = router == "attention" ? GateKind::kAttention : GateKind::kLinear;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelConfig> ParseHfConfig(absl::string_view bytes, absl::string_view where) {
  const auto parsed = ParseJsonBounded(StdView(bytes), kConfigBytesMax);
  if (!parsed.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(where, ": ", parsed.status().message()));
  }
  const Json& json = *parsed;
  const std::string_view w = StdView(where);
  if (!json.is_object()) return Bad(where, "", JsonForError(json), "an object");
  OCTET_ASSIGN_OR_RETURN(const HfFamily family, Family(json, where));
  OCTET_RETURN_IF_ERROR(CheckUnsupported(json, where));
  ModelConfig config;
  const struct {
    const char* key;
    uint32_t* out;
    uint32_t max;
  } kFields[] = {{"num_hidden_layers", &config.layers, kLayersMax},
                 {"hidden_size", &config.hidden, kHiddenMax},
                 {"intermediate_size", &config.intermediate, kIntermediateMax},
                 {"num_attention_heads", &config.heads, kHeadsMax},
                 {"vocab_size", &config.vocab, kVocabMax},
                 {"max_position_embeddings", &config.context, kContextMax}};
  for (const auto& field : kFields) {
    OCTET_ASSIGN_OR_RETURN(const int64_t value, JsonInt(json, field.key, w, 1, field.max));
    *field.out = static_cast<uint32_t>(value);
  }
  OCTET_ASSIGN_OR_RETURN(const int64_t kv_heads,
                         JsonIntOr(json, "num_key_value_heads", w, 1, kHeadsMax,
                                   family == HfFamily::kLlama ? config.heads : 8));
  config.kv_heads = static_cast<uint32_t>(kv_heads);
  if (JsonFind(json, "head_dim") == nullptr && config.hidden % config.heads != 0) {
    return Bad(where, "hidden_size", absl::StrCat(config.hidden),
               absl::StrCat("a multiple of num_attention_heads, ", config.heads));
  }
  OCTET_ASSIGN_OR_RETURN(const int64_t head_dim, JsonIntOr(json, "head_dim", w, 2, kHeadDimMax,
                                                           config.hidden / config.heads));
  config.head_dim = static_cast<uint32_t>(head_dim);
  OCTET_ASSIGN_OR_RETURN(const int64_t window,
                         JsonIntOr(json, "sliding_window", w, 1, kContextMax, 0));
  // Llama's attention never slides; Mistral's does unless the file says null.
  config.sliding_window = static_cast<uint32_t>(window);
  if (family == HfFamily::kLlama) config.sliding_window = 0;
  if (family == HfFamily::kMistral && !json.contains("sliding_window")) {
    config.sliding_window = 4096;
  }
  OCTET_ASSIGN_OR_RETURN(
      const double eps,
      JsonNumberOr(json, "rms_norm_eps", where, 0, 1, family == HfFamily::kMixtral ? 1e-5 : 1e-6));
  config.rms_eps = static_cast<float>(eps);
  OCTET_ASSIGN_OR_RETURN(config.tied_embeddings, JsonBoolOr(json, "tie_word_embeddings", w, false));
  OCTET_RETURN_IF_ERROR(ParseRope(json, family, where, &config));
  OCTET_RETURN_IF_ERROR(ParseTokens(json, where, &config));
  OCTET_RETURN_IF_ERROR(ParseExperts(json, family, where, &config));
  OCTET_RETURN_IF_ERROR(ValidateModelConfig(config, where));
  return config;
}

}  // namespace octet
