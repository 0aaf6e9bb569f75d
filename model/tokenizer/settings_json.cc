#include "model/tokenizer/settings_json.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "core/limits.h"
#include "core/status_macros.h"
#include "model/json.h"

namespace octet {
namespace {

absl::StatusOr<std::optional<TokenId>> OptionalId(const nlohmann::json& json, const char* key) {
  OCTET_ASSIGN_OR_RETURN(const int64_t id,
                         JsonIntOr(json, key, "tokenizer settings", 0, kVocabMax - 1, -1));
  if (id < 0) return std::optional<TokenId>();
  return std::optional<TokenId>(static_cast<TokenId>(id));
}

}  // namespace

nlohmann::json SettingsToJson(const TokenizerSettings& settings) {
  nlohmann::json json = {{"eos_ids", settings.eos_ids}, {"add_bos", settings.add_bos}};
  if (settings.bos_id.has_value()) json["bos_id"] = *settings.bos_id;
  if (settings.unk_id.has_value()) json["unk_id"] = *settings.unk_id;
  if (settings.pad_id.has_value()) json["pad_id"] = *settings.pad_id;
  if (!settings.chat_template.empty()) json["chat_template"] = settings.chat_template;
  return json;
}

absl::StatusOr<TokenizerSettings> SettingsFromJson(const nlohmann::json& json) {
  TokenizerSettings settings;
  OCTET_ASSIGN_OR_RETURN(settings.bos_id, OptionalId(json, "bos_id"));
  OCTET_ASSIGN_OR_RETURN(settings.unk_id, OptionalId(json, "unk_id"));
  OCTET_ASSIGN_OR_RETURN(settings.pad_id, OptionalId(json, "pad_id"));
  OCTET_ASSIGN_OR_RETURN(settings.add_bos,
                         JsonBoolOr(json, "add_bos", "tokenizer settings", false));
  OCTET_ASSIGN_OR_RETURN(settings.chat_template,
                         JsonStringOr(json, "chat_template", "tokenizer settings", ""));
  const nlohmann::json* eos = JsonFind(json, "eos_ids");
  if (eos == nullptr) return settings;
  for (const nlohmann::json& entry : *eos) {
    OCTET_ASSIGN_OR_RETURN(const int64_t id,
                           JsonInt(nlohmann::json::object({{"eos_ids", entry}}), "eos_ids",
                                   "tokenizer settings", 0, kVocabMax - 1));
    settings.eos_ids.push_back(static_cast<TokenId>(id));
  }
  std::sort(settings.eos_ids.begin(), settings.eos_ids.end());
  settings.eos_ids.erase(std::unique(settings.eos_ids.begin(), settings.eos_ids.end()),
                         settings.eos_ids.end());
  return settings;
}

absl::StatusOr<std::vector<std::string>> TokensFromJson(const nlohmann::json& json) {
  const nlohmann::json* list = JsonFind(json, "tokens");
  if (list == nullptr || !list->is_array() || list->size() > kVocabMax) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tokenizer: field \"tokens\" is ", list == nullptr ? "missing" : JsonForError(*list),
        ", allowed is an array of at most ", kVocabMax, " strings"));
  }
  std::vector<std::string> tokens;
  tokens.reserve(list->size());
  for (const nlohmann::json& token : *list) {
    if (!token.is_string()) {
      return absl::InvalidArgumentError(absl::StrCat("tokenizer: tokens[", tokens.size(), "] is ",
                                                     JsonForError(token), ", allowed is a string"));
    }
    tokens.push_back(token.get<std::string>());
  }
  return tokens;
}

}  // namespace octet
