#include <cmath>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/limits.h"
#include "core/status_macros.h"
#include "model/hf_config.h"

namespace octet {
namespace {

absl::Status Unsupported(absl::string_view where, absl::string_view key, absl::string_view value,
                         absl::string_view allowed) {
  return absl::UnimplementedError(absl::StrCat(where, ": metadata \"", key, "\" is ", value,
                                               ", which is not supported; allowed is ", allowed));
}

absl::Status CheckRope(const GgufHeader& header, absl::string_view where, uint32_t head_dim) {
  OCTET_ASSIGN_OR_RETURN(const std::string scaling,
                         GgufStringOr(header, "llama.rope.scaling.type", "none", where));
  if (absl::string_view(scaling) != "none") {
    return Unsupported(where, "llama.rope.scaling.type",
                       absl::StrCat("\"", scaling.substr(0, 80), "\""), "\"none\"");
  }
  for (const char* key : {"llama.rope.scaling.factor", "llama.rope.scale_linear"}) {
    OCTET_ASSIGN_OR_RETURN(const double factor, GgufFloatOr(header, key, 1.0, where));
    if (factor != 1.0 && factor != 0.0) {
      return Unsupported(where, key, absl::StrCat(factor), "1");
    }
  }
  if (header.tensors.contains("rope_freqs.weight")) {
    return absl::UnimplementedError(absl::StrCat(
        where, ": tensor \"rope_freqs.weight\" asks for rope scaling, which is not supported"));
  }
  OCTET_ASSIGN_OR_RETURN(const int64_t dims, GgufIntOr(header, "llama.rope.dimension_count", 0,
                                                       kHeadDimMax, head_dim, where));
  if (dims != head_dim) {
    return Unsupported(where, "llama.rope.dimension_count", absl::StrCat(dims),
                       absl::StrCat("the head's size, ", head_dim));
  }
  return absl::OkStatus();
}

absl::Status ParseExperts(const GgufHeader& header, absl::string_view where, ModelConfig* config) {
  OCTET_ASSIGN_OR_RETURN(const int64_t experts,
                         GgufIntOr(header, "llama.expert_count", 0, kExpertsMax, 0, where));
  config->architecture = experts > 1 ? "mixtral" : "llama";
  if (experts <= 1) return absl::OkStatus();
  OCTET_ASSIGN_OR_RETURN(const int64_t top_k,
                         GgufInt(header, "llama.expert_used_count", 1, kTopKMax, where));
  OCTET_ASSIGN_OR_RETURN(const int64_t intermediate,
                         GgufIntOr(header, "llama.expert_feed_forward_length", 1, kIntermediateMax,
                                   config->intermediate, where));
  OCTET_ASSIGN_OR_RETURN(const int64_t shared,
                         GgufIntOr(header, "llama.expert_shared_count", 0, kExpertsMax, 0, where));
  if (shared != 0) {
    return Unsupported(where, "llama.expert_shared_count", absl::StrCat(shared), "0");
  }
  // 1: softmax over all; 3: softmax over the chosen. Renormalised, both are the same.
  OCTET_ASSIGN_OR_RETURN(const int64_t gating,
                         GgufIntOr(header, "llama.expert_gating_func", 0, 255, 1, where));
  if (gating != 0 && gating != 1 && gating != 3) {
    return Unsupported(where, "llama.expert_gating_func", absl::StrCat(gating), "1 or 3 (softmax)");
  }
  const auto norm = header.values.find("llama.expert_weights_norm");
  if (norm != header.values.end() &&
      (norm->second.type != GgufType::kBool || norm->second.u != 1)) {
    return Unsupported(where, "llama.expert_weights_norm", "not true", "true");
  }
  OCTET_ASSIGN_OR_RETURN(const double scale,
                         GgufFloatOr(header, "llama.expert_weights_scale", 1.0, where));
  if (scale != 1.0 && scale != 0.0) {
    return Unsupported(where, "llama.expert_weights_scale", absl::StrCat(scale), "1");
  }
  config->experts = static_cast<uint32_t>(experts);
  config->top_k = static_cast<uint32_t>(top_k);
  config->intermediate = static_cast<uint32_t>(intermediate);
  config->gate = GateKind::kLinear;
  return absl::OkStatus();
}

absl::Status ParseHeads(const GgufHeader& header, absl::string_view where, ModelConfig* config) {
  OCTET_ASSIGN_OR_RETURN(const int64_t kv_heads, GgufIntOr(header, "llama.attention.head_count_kv",
                                                           1, kHeadsMax, config->heads, where));
  config->kv_heads = static_cast<uint32_t>(kv_heads);
  const bool explicit_dim = header.values.contains("llama.attention.key_length");
  if (!explicit_dim && config->hidden % config->heads != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, ": metadata \"llama.embedding_length\" is ", config->hidden,
                     ", allowed is a multiple of llama.attention.head_count, ", config->heads));
  }
  OCTET_ASSIGN_OR_RETURN(const int64_t key_length,
                         GgufIntOr(header, "llama.attention.key_length", 2, kHeadDimMax,
                                   config->hidden / config->heads, where));
  OCTET_ASSIGN_OR_RETURN(
      const int64_t value_length,
      GgufIntOr(header, "llama.attention.value_length", 2, kHeadDimMax, key_length, where));
  if (value_length != key_length) {
    return Unsupported(where, "llama.attention.value_length", absl::StrCat(value_length),
                       absl::StrCat("llama.attention.key_length, ", key_length));
  }
  config->head_dim = static_cast<uint32_t>(key_length);
  return absl::OkStatus();
}

absl::Status ParseTokens(const GgufHeader& header, absl::string_view where, ModelConfig* config) {
  const auto embedding = header.tensors.find("token_embd.weight");
  if (embedding == header.tensors.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, ": tensor \"token_embd.weight\" is missing"));
  }
  const std::vector<uint64_t>& dims = embedding->second.dims;
  if (dims.size() != 2 || dims[1] > kVocabMax) {
    return absl::InvalidArgumentError(absl::StrCat(
        where, ": tensor \"token_embd.weight\" must be a matrix of at most ", kVocabMax, " rows"));
  }
  config->vocab = static_cast<uint32_t>(dims[1]);
  config->tied_embeddings = !header.tensors.contains("output.weight");
  OCTET_ASSIGN_OR_RETURN(const GgufTokenizerData tokens, GgufTokenizer(header, where));
  if (tokens.bos_id.has_value()) config->bos_id = *tokens.bos_id;
  if (tokens.eos_id.has_value()) config->eos_ids.push_back(*tokens.eos_id);
  if (tokens.eot_id.has_value() && tokens.eot_id != tokens.eos_id) {
    config->eos_ids.push_back(*tokens.eot_id);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelConfig> GgufModelConfig(const GgufHeader& header, absl::string_view where) {
  OCTET_ASSIGN_OR_RETURN(const std::string architecture,
                         GgufStringOr(header, "general.architecture", "", where));
  if (architecture != "llama") {
    return absl::UnimplementedError(absl::StrCat(where, ": architecture \"",
                                                 architecture.substr(0, 80),
                                                 "\" is not supported; known is \"llama\""));
  }
  ModelConfig config;
  const struct {
    const char* key;
    uint32_t* out;
    uint32_t max;
  } kFields[] = {{"llama.block_count", &config.layers, kLayersMax},
                 {"llama.embedding_length", &config.hidden, kHiddenMax},
                 {"llama.feed_forward_length", &config.intermediate, kIntermediateMax},
                 {"llama.attention.head_count", &config.heads, kHeadsMax},
                 {"llama.context_length", &config.context, kContextMax}};
  for (const auto& field : kFields) {
    OCTET_ASSIGN_OR_RETURN(const int64_t value, GgufInt(header, field.key, 1, field.max, where));
    *field.out = static_cast<uint32_t>(value);
  }
  OCTET_RETURN_IF_ERROR(ParseHeads(header, where, &config));
  OCTET_ASSIGN_OR_RETURN(const int64_t window, GgufIntOr(header, "llama.attention.sliding_window",
                                                         0, kContextMax, 0, where));
  config.sliding_window = static_cast<uint32_t>(window);
  OCTET_ASSIGN_OR_RETURN(
      const double eps, GgufFloatOr(header, "llama.attention.layer_norm_rms_epsilon", 1e-5, where));
  config.rms_eps = static_cast<float>(eps);
  OCTET_ASSIGN_OR_RETURN(config.rope_theta,
                         GgufFloatOr(header, "llama.rope.freq_base", 10000.0, where));
  OCTET_RETURN_IF_ERROR(CheckRope(header, where, config.head_dim));
  OCTET_RETURN_IF_ERROR(ParseExperts(header, where, &config));
  OCTET_RETURN_IF_ERROR(ParseTokens(header, where, &config));
  OCTET_RETURN_IF_ERROR(ValidateModelConfig(config, where));
  return config;
}

}  // namespace octet
