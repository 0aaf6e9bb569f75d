// BpeTokenizer in our own schema.
#include "absl/strings/str_cat.h"
#include "core/limits.h"
#include "core/status_macros.h"
#include "model/json.h"
#include "model/tokenizer/bpe_tokenizer.h"
#include "model/tokenizer/settings_json.h"

namespace octet {
namespace {

constexpr char kWhere[] = "tokenizer";

absl::StatusOr<std::vector<std::pair<TokenId, TokenId>>> MergesFromJson(
    const nlohmann::json& json) {
  std::vector<std::pair<TokenId, TokenId>> merges;
  const nlohmann::json* list = JsonFind(json, "merges");
  if (list == nullptr) return merges;
  if (!list->is_array() || list->size() % 2 != 0 || list->size() > 2 * kMergesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("tokenizer: field \"merges\" is ", JsonForError(*list),
                     ", allowed is an array of at most ", kMergesMax, " pairs of ids"));
  }
  merges.reserve(list->size() / 2);
  TokenId left = 0;
  for (size_t i = 0; i < list->size(); ++i) {
    const nlohmann::json& entry = (*list)[i];
    if (!entry.is_number_unsigned() || entry.get<uint64_t>() >= kVocabMax) {
      return absl::InvalidArgumentError(absl::StrCat("tokenizer: merges[", i, "] is ",
                                                     JsonForError(entry), ", allowed is an id"));
    }
    const TokenId id = static_cast<TokenId>(entry.get<uint64_t>());
    if (i % 2 == 1) merges.emplace_back(left, id);
    left = id;
  }
  return merges;
}

}  // namespace

nlohmann::json BpeSpecToJson(const BpeSpec& spec) {
  nlohmann::json merges = nlohmann::json::array();
  for (const auto& [left, right] : spec.merges) {
    merges.push_back(static_cast<uint32_t>(left));
    merges.push_back(static_cast<uint32_t>(right));
  }
  nlohmann::json json = {{kSerializedKey, kSerializedVersion},
                         {"kind", "bpe"},
                         {"settings", SettingsToJson(spec.settings)},
                         {"tokens", spec.tokens},
                         {"merges", std::move(merges)},
                         {"added_tokens", AddedTokensToJson(spec.added)},
                         {"normalizer", spec.normalizer},
                         {"pre_tokenizer", spec.pre_tokenizer},
                         {"byte_level", spec.byte_level},
                         {"byte_fallback", spec.byte_fallback},
                         {"fuse_unk", spec.fuse_unk},
                         {"ignore_merges", spec.ignore_merges},
                         {"drop_leading_space", spec.drop_leading_space}};
  if (spec.model_unk.has_value()) json["model_unk"] = *spec.model_unk;
  return json;
}

absl::StatusOr<BpeSpec> BpeSpecFromJson(const nlohmann::json& json) {
  BpeSpec spec;
  OCTET_ASSIGN_OR_RETURN(spec.tokens, TokensFromJson(json));
  OCTET_ASSIGN_OR_RETURN(spec.merges, MergesFromJson(json));
  if (const nlohmann::json* added = JsonFind(json, "added_tokens"); added != nullptr) {
    OCTET_ASSIGN_OR_RETURN(spec.added, ParseAddedTokens(*added, "tokenizer: added_tokens"));
  }
  if (const nlohmann::json* settings = JsonFind(json, "settings"); settings != nullptr) {
    OCTET_ASSIGN_OR_RETURN(spec.settings, SettingsFromJson(*settings));
  }
  if (const nlohmann::json* step = JsonFind(json, "normalizer")) spec.normalizer = *step;
  if (const nlohmann::json* step = JsonFind(json, "pre_tokenizer")) spec.pre_tokenizer = *step;
  OCTET_ASSIGN_OR_RETURN(spec.byte_level, JsonBoolOr(json, "byte_level", kWhere, true));
  OCTET_ASSIGN_OR_RETURN(spec.byte_fallback, JsonBoolOr(json, "byte_fallback", kWhere, false));
  OCTET_ASSIGN_OR_RETURN(spec.fuse_unk, JsonBoolOr(json, "fuse_unk", kWhere, false));
  OCTET_ASSIGN_OR_RETURN(spec.ignore_merges, JsonBoolOr(json, "ignore_merges", kWhere, false));
  OCTET_ASSIGN_OR_RETURN(spec.drop_leading_space,
                         JsonBoolOr(json, "drop_leading_space", kWhere, false));
  OCTET_ASSIGN_OR_RETURN(const int64_t unk,
                         JsonIntOr(json, "model_unk", kWhere, 0, kVocabMax - 1, -1));
  if (unk >= 0) spec.model_unk = static_cast<TokenId>(unk);
  return spec;
}

std::string BpeTokenizer::Serialize() const { return BpeSpecToJson(spec_).dump(); }

}  // namespace octet
