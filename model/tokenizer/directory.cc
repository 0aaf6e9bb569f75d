// The tokenizer of a Hugging Face directory, whose parts are spread over several files.
#include <algorithm>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "core/limits.h"
#include "core/status_macros.h"
#include "model/json.h"
#include "model/tokenizer/bpe_tokenizer.h"
#include "model/tokenizer/hf_files.h"
#include "model/tokenizer/sentencepiece_tokenizer.h"
#include "model/tokenizer/settings_json.h"
#include "model/tokenizer/tokenizer.h"

namespace octet {
namespace {

using Json = nlohmann::json;

// The whole file; nullopt when there is none.
absl::StatusOr<std::optional<std::string>> ReadFile(const std::string& path, uint64_t bytes_max) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return std::optional<std::string>();
  const uint64_t size = std::filesystem::file_size(path, error);
  if (error) return absl::UnavailableError(absl::StrCat(path, ": ", error.message()));
  if (size > bytes_max) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " is ", size, " bytes long, allowed are ", bytes_max));
  }
  std::string bytes(size, '\0');
  std::ifstream file(path, std::ios::binary);
  if (!file.read(bytes.data(), static_cast<std::streamsize>(size))) {
    return absl::UnavailableError(absl::StrCat(path, ": cannot be read"));
  }
  return std::optional<std::string>(std::move(bytes));
}

absl::Status InFile(const std::string& path, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
}

// A JSON file; null when there is none.
absl::StatusOr<Json> ReadJson(const std::string& path, uint64_t bytes_max) {
  OCTET_ASSIGN_OR_RETURN(const auto bytes, ReadFile(path, bytes_max));
  if (!bytes.has_value()) return Json();
  absl::StatusOr<Json> json = ParseJsonBounded(*bytes, bytes_max);
  if (!json.ok()) return InFile(path, json.status());
  return json;
}

struct DirectoryFiles {
  Json tokenizer;  // tokenizer.json
  std::optional<std::string> sentencepiece;
  Json tokenizer_config;
  Json special_tokens_map;
  Json generation_config;
  Json config;
  Json added_tokens;
  std::optional<std::string> chat_template;
};

absl::StatusOr<DirectoryFiles> ReadFiles(const std::string& directory) {
  const auto path = [&](const char* name) { return absl::StrCat(directory, "/", name); };
  DirectoryFiles files;
  OCTET_ASSIGN_OR_RETURN(files.tokenizer, ReadJson(path("tokenizer.json"), kTokenizerBytesMax));
  OCTET_ASSIGN_OR_RETURN(files.sentencepiece,
                         ReadFile(path("tokenizer.model"), kTokenizerBytesMax));
  OCTET_ASSIGN_OR_RETURN(files.tokenizer_config,
                         ReadJson(path("tokenizer_config.json"), kConfigBytesMax));
  OCTET_ASSIGN_OR_RETURN(files.special_tokens_map,
                         ReadJson(path("special_tokens_map.json"), kConfigBytesMax));
  OCTET_ASSIGN_OR_RETURN(files.generation_config,
                         ReadJson(path("generation_config.json"), kConfigBytesMax));
  OCTET_ASSIGN_OR_RETURN(files.config, ReadJson(path("config.json"), kConfigBytesMax));
  OCTET_ASSIGN_OR_RETURN(files.added_tokens, ReadJson(path("added_tokens.json"), kConfigBytesMax));
  OCTET_ASSIGN_OR_RETURN(files.chat_template,
                         ReadFile(path("chat_template.jinja"), kTemplateBytesMax));
  return files;
}

// "bos_token": "<s>" or {"content": "<s>", ...}; empty: not given.
std::string TokenName(const Json& json, const char* key) {
  const Json* value = JsonFind(json, key);
  if (value != nullptr && value->is_object()) value = JsonFind(*value, "content");
  return value != nullptr && value->is_string() ? value->get<std::string>() : std::string();
}

std::string NamedToken(const DirectoryFiles& files, const char* key) {
  const std::string name = TokenName(files.tokenizer_config, key);
  return name.empty() ? TokenName(files.special_tokens_map, key) : name;
}

// A number or a list of numbers; -1 and the like stand for none.
void AppendIds(const Json* value, std::vector<TokenId>* ids) {
  if (value == nullptr) return;
  const auto append = [&](const Json& entry) {
    if (!entry.is_number_unsigned() || entry.get<uint64_t>() >= kVocabMax) return;
    ids->push_back(static_cast<TokenId>(entry.get<uint64_t>()));
  };
  if (!value->is_array()) return append(*value);
  for (const Json& entry : *value) append(entry);
}

std::string ChatTemplateOf(const DirectoryFiles& files) {
  if (files.chat_template.has_value()) return *files.chat_template;
  const Json* value = JsonFind(files.tokenizer_config, "chat_template");
  if (value == nullptr) return {};
  if (value->is_string()) return value->get<std::string>();
  // A list of named templates: the one for chats is "default".
  for (const Json& entry : *value) {
    if (TokenName(entry, "name") == "default") return TokenName(entry, "template");
  }
  return {};
}

// Completes what the vocabulary's own file says. id_of looks a spelling up.
template <typename IdOf>
void CompleteSettings(const DirectoryFiles& files, const IdOf& id_of, TokenizerSettings* settings) {
  const auto named = [&](const char* key) -> std::optional<TokenId> {
    const std::string name = NamedToken(files, key);
    return name.empty() ? std::nullopt : id_of(name);
  };
  if (const auto bos = named("bos_token"); bos.has_value()) settings->bos_id = bos;
  if (const auto unk = named("unk_token"); unk.has_value()) settings->unk_id = unk;
  if (const auto pad = named("pad_token"); pad.has_value()) settings->pad_id = pad;
  std::vector<TokenId> ids;
  AppendIds(JsonFind(files.generation_config, "eos_token_id"), &ids);
  if (ids.empty()) AppendIds(JsonFind(files.config, "eos_token_id"), &ids);
  if (const auto eos = named("eos_token"); eos.has_value()) ids.push_back(*eos);
  if (!ids.empty()) settings->eos_ids = ids;
  std::sort(settings->eos_ids.begin(), settings->eos_ids.end());
  settings->eos_ids.erase(std::unique(settings->eos_ids.begin(), settings->eos_ids.end()),
                          settings->eos_ids.end());
  if (!settings->bos_id.has_value()) {
    std::vector<TokenId> bos;
    AppendIds(JsonFind(files.config, "bos_token_id"), &bos);
    if (!bos.empty()) settings->bos_id = bos.front();
  }
  const Json* add_bos = JsonFind(files.tokenizer_config, "add_bos_token");
  if (add_bos != nullptr && add_bos->is_boolean()) settings->add_bos = add_bos->get<bool>();
  settings->chat_template = ChatTemplateOf(files);
}

// Tokens beyond tokenizer.model's: tokenizer.json's list, else tokenizer_config.json's, else
// added_tokens.json.
absl::StatusOr<std::vector<AddedToken>> AddedTokensOf(const DirectoryFiles& files) {
  if (const Json* list = JsonFind(files.tokenizer, "added_tokens"); list != nullptr) {
    return ParseAddedTokens(*list, "tokenizer.json: added_tokens");
  }
  Json list = Json::array();
  if (const Json* decoder = JsonFind(files.tokenizer_config, "added_tokens_decoder")) {
    for (const auto& [key, value] : decoder->items()) {
      Json entry = value;
      const bool number = !key.empty() && key.size() < 8 &&
                          key.find_first_not_of("0123456789") == std::string::npos;
      if (!entry.is_object() || !number) {
        return absl::InvalidArgumentError(
            absl::StrCat("tokenizer_config.json: added_tokens_decoder entry ", JsonForError(key),
                         " must be an id with an object"));
      }
      entry["id"] = std::stoul(key);
      list.push_back(std::move(entry));
    }
    return ParseAddedTokens(list, "tokenizer_config.json: added_tokens_decoder");
  }
  if (files.added_tokens.is_object()) {
    for (const auto& [key, value] : files.added_tokens.items()) {
      list.push_back({{"content", key}, {"id", value}, {"special", true}});
    }
  }
  return ParseAddedTokens(list, "added_tokens.json");
}

absl::StatusOr<std::unique_ptr<Tokenizer>> FromBpe(const DirectoryFiles& files, BpeSpec spec) {
  absl::flat_hash_map<std::string, TokenId> ids;
  for (const AddedToken& token : spec.added) ids.emplace(token.content, token.id);
  for (size_t i = 0; i < spec.tokens.size(); ++i) {
    ids.emplace(spec.tokens[i], static_cast<TokenId>(i));
  }
  const auto id_of = [&](const std::string& name) -> std::optional<TokenId> {
    auto it = ids.find(name);
    return it == ids.end() ? std::nullopt : std::optional<TokenId>(it->second);
  };
  CompleteSettings(files, id_of, &spec.settings);
  return BpeTokenizer::Create(std::move(spec));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> FromSentencePiece(const DirectoryFiles& files) {
  // The plain tokenizer first: its settings are what the other files complete.
  OCTET_ASSIGN_OR_RETURN(const auto plain, TokenizerFromSentencePiece(*files.sentencepiece));
  OCTET_ASSIGN_OR_RETURN(SentencePieceModel model, ParseSentencePieceModel(*files.sentencepiece));
  OCTET_ASSIGN_OR_RETURN(std::vector<AddedToken> added, AddedTokensOf(files));
  TokenizerSettings settings = plain->settings();
  const auto id_of = [&](const std::string& name) -> std::optional<TokenId> {
    for (const AddedToken& token : added) {
      if (token.content == name) return token.id;
    }
    return plain->IdOf(name);
  };
  CompleteSettings(files, id_of, &settings);
  return SentencePieceTokenizer::Create(std::move(model), std::move(added), std::move(settings));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizerFromDirectory(
    const std::string& directory) {
  OCTET_ASSIGN_OR_RETURN(const DirectoryFiles files, ReadFiles(directory));
  if (JsonFind(files.tokenizer, kSerializedKey) != nullptr) {
    return DeserializeTokenizer(files.tokenizer.dump());
  }
  if (files.tokenizer.is_null()) {
    if (files.sentencepiece.has_value()) return FromSentencePiece(files);
    return absl::NotFoundError(
        absl::StrCat(directory, " has neither tokenizer.json nor tokenizer.model"));
  }
  absl::StatusOr<BpeSpec> spec = BpeSpecFromHfJson(files.tokenizer);
  if (files.sentencepiece.has_value() && (!spec.ok() || !spec->byte_level)) {
    return FromSentencePiece(files);
  }
  if (!spec.ok()) return InFile(directory, spec.status());
  return FromBpe(files, *std::move(spec));
}

}  // namespace octet
