// The members that both kinds of serialised tokenizer share.
#ifndef OCTET_MODEL_TOKENIZER_SETTINGS_JSON_H_
#define OCTET_MODEL_TOKENIZER_SETTINGS_JSON_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/tokenizer/tokenizer.h"
#include "nlohmann/json.hpp"

namespace octet {

inline constexpr char kSerializedKey[] = "octet_tokenizer";  // holds the version of the schema
inline constexpr int kSerializedVersion = 1;

nlohmann::json SettingsToJson(const TokenizerSettings& settings);
absl::StatusOr<TokenizerSettings> SettingsFromJson(const nlohmann::json& json);

// An array of at most kVocabMax strings.
absl::StatusOr<std::vector<std::string>> TokensFromJson(const nlohmann::json& json);

}  // namespace octet

#endif  // OCTET_MODEL_TOKENIZER_SETTINGS_JSON_H_
