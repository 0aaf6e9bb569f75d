#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/limits.h"
#include "core/status_macros.h"
#include "model/hf_config.h"
#include "model/json.h"

namespace octet {
namespace {

using Json = nlohmann::json;

constexpr double kRopeThetaMax = 1e12;

std::string_view StdView(absl::string_view text) { return {text.data(), text.size()}; }

absl::Status Bad(absl::string_view where, absl::string_view field, absl::string_view value,
                 absl::string_view allowed) {
  return absl::InvalidArgumentError(
      absl::StrCat(where, ": field \"", field, "\" is ", value, ", allowed is ", allowed));
}

const char* GateName(GateKind gate) {
  switch (gate) {
    case GateKind::kNone:
      return "none";
    case GateKind::kLinear:
      return "linear";
    case GateKind::kAttention:
      return "attention";
  }
  return "none";
}

absl::Status CheckTokens(const ModelConfig& config, absl::string_view where) {
  const auto vocab = static_cast<TokenId>(config.vocab);
  if (config.bos_id < -1 || config.bos_id >= vocab) {
    return Bad(where, "bos_token_id", absl::StrCat(config.bos_id),
               absl::StrCat("a token below ", vocab));
  }
  for (const TokenId id : config.eos_ids) {
    if (id < 0 || id >= vocab) {
      return Bad(where, "eos_token_id", absl::StrCat(id), absl::StrCat("a token below ", vocab));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ValidateModelConfig(const ModelConfig& config, absl::string_view where) {
  const struct {
    const char* field;
    uint32_t value;
    uint32_t min;
    uint32_t max;
  } kRanges[] = {{"num_hidden_layers", config.layers, 1, kLayersMax},
                 {"hidden_size", config.hidden, 1, kHiddenMax},
                 {"intermediate_size", config.intermediate, 1, kIntermediateMax},
                 {"num_attention_heads", config.heads, 1, kHeadsMax},
                 {"num_key_value_heads", config.kv_heads, 1, config.heads},
                 {"head_dim", config.head_dim, 2, kHeadDimMax},
                 {"vocab_size", config.vocab, 1, kVocabMax},
                 {"max_position_embeddings", config.context, 1, kContextMax},
                 {"sliding_window", config.sliding_window, 0, kContextMax},
                 {"num_local_experts", config.experts, 1, kExpertsMax},
                 {"num_experts_per_tok", config.top_k, 1,
                  config.experts < kTopKMax ? config.experts : kTopKMax}};
  for (const auto& range : kRanges) {
    if (range.value < range.min || range.value > range.max) {
      return Bad(where, range.field, absl::StrCat(range.value),
                 absl::StrCat("an integer from ", range.min, " to ", range.max));
    }
  }
  if (config.heads % config.kv_heads != 0) {
    return Bad(where, "num_key_value_heads", absl::StrCat(config.kv_heads),
               absl::StrCat("a divisor of num_attention_heads, ", config.heads));
  }
  if (config.head_dim % 2 != 0) {
    return Bad(where, "head_dim", absl::StrCat(config.head_dim), "an even number");
  }
  if (!(config.rms_eps > 0.0f && config.rms_eps <= 1.0f)) {
    return Bad(where, "rms_norm_eps", absl::StrCat(config.rms_eps), "above 0 and at most 1");
  }
  if (!(config.rope_theta >= 1.0 && config.rope_theta <= kRopeThetaMax)) {
    return Bad(where, "rope_theta", absl::StrCat(config.rope_theta), "from 1 to 1e12");
  }
  if ((config.gate == GateKind::kNone) != (config.experts == 1)) {
    return Bad(where, "num_local_experts", absl::StrCat(config.experts),
               "1 without a gate, 2 or more with one");
  }
  return CheckTokens(config, where);
}

absl::StatusOr<double> JsonNumberOr(const Json& object, const char* key, absl::string_view where,
                                    double min, double max, double fallback) {
  const Json* value = JsonFind(object, key);
  if (value == nullptr) return fallback;
  const double number = value->is_number() ? value->get<double>() : std::nan("");
  if (!(number >= min && number <= max)) {
    return Bad(where, key, JsonForError(*value), absl::StrCat("a number from ", min, " to ", max));
  }
  return number;
}

Json ModelConfigToJson(const ModelConfig& config) {
  return {{"architecture", config.architecture},
          {"layers", config.layers},
          {"hidden", config.hidden},
          {"intermediate", config.intermediate},
          {"heads", config.heads},
          {"kv_heads", config.kv_heads},
          {"head_dim", config.head_dim},
          {"vocab", config.vocab},
          {"context", config.context},
          {"sliding_window", config.sliding_window},
          {"experts", config.experts},
          {"top_k", config.top_k},
          {"gate", GateName(config.gate)},
          {"tied_embeddings", config.tied_embeddings},
          {"rms_eps", static_cast<double>(config.rms_eps)},
          {"rope_theta", config.rope_theta},
          {"bos_id", config.bos_id},
          {"eos_ids", config.eos_ids}};
}

absl::StatusOr<ModelConfig> ModelConfigFromJson(const Json& json, absl::string_view where) {
  const std::string_view w = StdView(where);
  ModelConfig config;
  OCTET_ASSIGN_OR_RETURN(config.architecture, JsonString(json, "architecture", w));
  if (config.architecture != "mixtral" && config.architecture != "llama") {
    return Bad(where, "architecture", config.architecture.substr(0, 80), "mixtral or llama");
  }
  const std::pair<const char*, uint32_t*> fields[] = {{"layers", &config.layers},
                                                      {"hidden", &config.hidden},
                                                      {"intermediate", &config.intermediate},
                                                      {"heads", &config.heads},
                                                      {"kv_heads", &config.kv_heads},
                                                      {"head_dim", &config.head_dim},
                                                      {"vocab", &config.vocab},
                                                      {"context", &config.context},
                                                      {"sliding_window", &config.sliding_window},
                                                      {"experts", &config.experts},
                                                      {"top_k", &config.top_k}};
  for (const auto& [key, out] : fields) {
    OCTET_ASSIGN_OR_RETURN(const int64_t value, JsonInt(json, key, w, 0, UINT32_MAX));
    *out = static_cast<uint32_t>(value);
  }
  OCTET_ASSIGN_OR_RETURN(const std::string gate, JsonString(json, "gate", w));
  bool known = false;
  for (const GateKind kind : {GateKind::kNone, GateKind::kLinear, GateKind::kAttention}) {
    if (gate != GateName(kind)) continue;
    config.gate = kind;
    known = true;
  }
  if (!known) return Bad(where, "gate", gate.substr(0, 80), "none, linear or attention");
  OCTET_ASSIGN_OR_RETURN(config.tied_embeddings, JsonBoolOr(json, "tied_embeddings", w, false));
  OCTET_ASSIGN_OR_RETURN(const double eps, JsonNumberOr(json, "rms_eps", where, 0, 1, 0));
  config.rms_eps = static_cast<float>(eps);
  OCTET_ASSIGN_OR_RETURN(config.rope_theta,
                         JsonNumberOr(json, "rope_theta", where, 1, kRopeThetaMax, 0));
  OCTET_ASSIGN_OR_RETURN(const int64_t bos, JsonInt(json, "bos_id", w, -1, kVocabMax));
  config.bos_id = static_cast<TokenId>(bos);
  const Json* eos = JsonFind(json, "eos_ids");
  if (eos == nullptr || !eos->is_array() || eos->size() > kStopIdsMax) {
    return Bad(where, "eos_ids", eos == nullptr ? "missing" : JsonForError(*eos),
               absl::StrCat("an array of at most ", kStopIdsMax, " token ids"));
  }
  for (const Json& id : *eos) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= kVocabMax) {
      return Bad(where, "eos_ids", JsonForError(id), "token ids");
    }
    config.eos_ids.push_back(id.get<TokenId>());
  }
  OCTET_RETURN_IF_ERROR(ValidateModelConfig(config, where));
  return config;
}

}  // namespace octet
