// Model shapes from what people publish: config.json of a Hugging Face directory, or the metadata
// of a GGUF file. Every number is checked against core/limits.h, and whatever would need arithmetic
// that Octet does not have (rope scaling, biases, other activations) is refused by name.
#ifndef OCTET_MODEL_HF_CONFIG_H_
#define OCTET_MODEL_HF_CONFIG_H_

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/model_config.h"
#include "model/gguf.h"
#include "nlohmann/json.hpp"

namespace octet {

// Architectures MixtralForCausalLM, MistralForCausalLM and LlamaForCausalLM. "router_type":
// "attention" chooses the attention gate (default "linear"). Pure; bytes may be hostile.
// INVALID_ARGUMENT or UNIMPLEMENTED name `where`, the field, its value and what is allowed.
absl::StatusOr<ModelConfig> ParseHfConfig(absl::string_view bytes, absl::string_view where);

// Architecture "llama", with or without experts. The vocabulary's size is the tensor token_embd's.
absl::StatusOr<ModelConfig> GgufModelConfig(const GgufHeader& header, absl::string_view where);

// What every ModelConfig satisfies, whatever it came from.
absl::Status ValidateModelConfig(const ModelConfig& config, absl::string_view where);

// A config as the manifest holds it, and back. Parsing validates.
nlohmann::json ModelConfigToJson(const ModelConfig& config);
absl::StatusOr<ModelConfig> ModelConfigFromJson(const nlohmann::json& json,
                                                absl::string_view where);

// A finite number, integer or not, in [min, max]. Missing and null give the fallback.
absl::StatusOr<double> JsonNumberOr(const nlohmann::json& object, const char* key,
                                    absl::string_view where, double min, double max,
                                    double fallback);

}  // namespace octet

#endif  // OCTET_MODEL_HF_CONFIG_H_
