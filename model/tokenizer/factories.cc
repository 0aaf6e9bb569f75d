// Tokenizers from GGUF keys, from a SentencePiece file and from our own schema.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "core/limits.h"
#include "core/status_macros.h"
#include "model/json.h"
#include "model/tokenizer/bpe_tokenizer.h"
#include "model/tokenizer/gguf_pre.h"
#include "model/tokenizer/sentencepiece_tokenizer.h"
#include "model/tokenizer/settings_json.h"
#include "model/tokenizer/tokenizer.h"

namespace octet {
namespace {

constexpr int32_t kGgufUnknown = 2;
constexpr int32_t kGgufControl = 3;
constexpr int32_t kGgufUserDefined = 4;
constexpr int32_t kGgufByte = 6;

TokenizerSettings SettingsOfGguf(const GgufTokenizerData& data, bool add_bos_default) {
  TokenizerSettings settings;
  settings.bos_id = data.bos_id;
  settings.unk_id = data.unk_id;
  settings.pad_id = data.pad_id;
  for (const auto& id : {data.eos_id, data.eot_id}) {
    if (id.has_value()) settings.eos_ids.push_back(*id);
  }
  std::sort(settings.eos_ids.begin(), settings.eos_ids.end());
  settings.eos_ids.erase(std::unique(settings.eos_ids.begin(), settings.eos_ids.end()),
                         settings.eos_ids.end());
  settings.add_bos = data.add_bos.value_or(add_bos_default);
  settings.chat_template = data.chat_template;
  return settings;
}

absl::Status CheckGguf(const GgufTokenizerData& data) {
  const size_t count = data.tokens.size();
  if (count == 0 || count > kVocabMax) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer.ggml.tokens has ", count,
                                                   " entries, allowed are 1 to ", kVocabMax));
  }
  if (!data.token_types.empty() && data.token_types.size() != count) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer.ggml.token_type has ",
                                                   data.token_types.size(), " entries for ", count,
                                                   " tokens"));
  }
  for (size_t i = 0; i < data.token_types.size(); ++i) {
    if (data.token_types[i] < 1 || data.token_types[i] > kGgufByte) {
      return absl::InvalidArgumentError(absl::StrCat("tokenizer.ggml.token_type[", i, "] is ",
                                                     data.token_types[i], ", allowed are 1 to 6"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Tokenizer>> FromGgufLlama(const GgufTokenizerData& data) {
  if (data.scores.size() != data.tokens.size()) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer.ggml.scores has ", data.scores.size(),
                                                   " entries for ", data.tokens.size(), " tokens"));
  }
  SentencePieceModel model;
  model.add_dummy_prefix = data.add_space_prefix.value_or(true);
  model.remove_extra_whitespaces = false;
  size_t byte_pieces = 0;
  for (size_t i = 0; i < data.tokens.size(); ++i) {
    const int32_t type = data.token_types.empty() ? 1 : data.token_types[i];
    byte_pieces += type == kGgufByte;
    model.pieces.push_back({data.tokens[i], data.scores[i], static_cast<SentencePieceType>(type)});
  }
  model.byte_fallback = byte_pieces == 256;
  model.unk_id = data.unk_id.value_or(0);
  model.bos_id = data.bos_id.value_or(-1);
  model.eos_id = data.eos_id.value_or(-1);
  model.pad_id = data.pad_id.value_or(-1);
  return SentencePieceTokenizer::Create(std::move(model), {}, SettingsOfGguf(data, true));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> FromGgufGpt2(const GgufTokenizerData& data) {
  BpeSpec spec;
  OCTET_ASSIGN_OR_RETURN(const GgufPre pre, FindGgufPre(data.pre));
  spec.pre_tokenizer = PreTokenizer::JsonOfPatterns(pre.patterns);
  spec.ignore_merges = pre.ignore_merges;
  spec.tokens = data.tokens;
  absl::flat_hash_map<std::string, TokenId> ids;
  for (size_t i = 0; i < data.tokens.size(); ++i) {
    const TokenId id = static_cast<TokenId>(i);
    ids.emplace(data.tokens[i], id);
    const int32_t type = data.token_types.empty() ? 1 : data.token_types[i];
    if (data.tokens[i].empty()) continue;
    if (type == kGgufControl || type == kGgufUnknown || type == kGgufUserDefined) {
      AddedToken token;
      token.id = id;
      token.content = data.tokens[i];
      token.special = type != kGgufUserDefined;
      spec.added.push_back(std::move(token));
    }
  }
  if (data.merges.size() > kMergesMax) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer.ggml.merges has ", data.merges.size(),
                                                   " entries, allowed are ", kMergesMax));
  }
  for (size_t i = 0; i < data.merges.size(); ++i) {
    const std::string& merge = data.merges[i];
    const size_t space = merge.find(' ', 1);
    auto left = ids.end();
    auto right = ids.end();
    if (space != std::string::npos) {
      left = ids.find(merge.substr(0, space));
      right = ids.find(merge.substr(space + 1));
    }
    if (left == ids.end() || right == ids.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("tokenizer.ggml.merges[", i, "] is ", JsonForError(merge),
                       ", allowed are two tokens with a space between"));
    }
    spec.merges.emplace_back(left->second, right->second);
  }
  spec.settings = SettingsOfGguf(data, pre.add_bos);
  return BpeTokenizer::Create(std::move(spec));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> TokenizerFromGguf(const GgufTokenizerData& data) {
  OCTET_RETURN_IF_ERROR(CheckGguf(data));
  if (data.model == "llama") return FromGgufLlama(data);
  if (data.model == "gpt2") return FromGgufGpt2(data);
  return absl::UnimplementedError(absl::StrCat("tokenizer.ggml.model is ", JsonForError(data.model),
                                               ", supported are \"llama\" and \"gpt2\""));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> TokenizerFromSentencePiece(std::string_view bytes) {
  OCTET_ASSIGN_OR_RETURN(SentencePieceModel model, ParseSentencePieceModel(bytes));
  TokenizerSettings settings;
  const auto id = [&](TokenId value) {
    const bool known = value >= 0 && static_cast<size_t>(value) < model.pieces.size();
    return known ? std::optional<TokenId>(value) : std::nullopt;
  };
  settings.bos_id = id(model.bos_id);
  settings.unk_id = id(model.unk_id);
  settings.pad_id = id(model.pad_id);
  if (const auto eos = id(model.eos_id); eos.has_value()) settings.eos_ids.push_back(*eos);
  settings.add_bos = settings.bos_id.has_value();
  return SentencePieceTokenizer::Create(std::move(model), {}, std::move(settings));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> DeserializeTokenizer(std::string_view bytes) {
  OCTET_ASSIGN_OR_RETURN(const nlohmann::json json, ParseJsonBounded(bytes, kTokenizerBytesMax));
  OCTET_ASSIGN_OR_RETURN(const int64_t version,
                         JsonInt(json, kSerializedKey, "tokenizer", 1, kSerializedVersion));
  static_cast<void>(version);
  OCTET_ASSIGN_OR_RETURN(const std::string kind, JsonString(json, "kind", "tokenizer"));
  if (kind == "bpe") {
    OCTET_ASSIGN_OR_RETURN(BpeSpec spec, BpeSpecFromJson(json));
    return BpeTokenizer::Create(std::move(spec));
  }
  if (kind != "sentencepiece") {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer: field \"kind\" is ",
                                                   JsonForError(kind),
                                                   ", allowed are bpe and sentencepiece"));
  }
  const nlohmann::json none = nlohmann::json::object();
  const nlohmann::json* member = JsonFind(json, "sentencepiece");
  OCTET_ASSIGN_OR_RETURN(SentencePieceModel model,
                         SentencePieceModelFromJson(member == nullptr ? none : *member));
  TokenizerSettings settings;
  std::vector<AddedToken> added;
  if (const nlohmann::json* found = JsonFind(json, "settings"); found != nullptr) {
    OCTET_ASSIGN_OR_RETURN(settings, SettingsFromJson(*found));
  }
  if (const nlohmann::json* found = JsonFind(json, "added_tokens"); found != nullptr) {
    OCTET_ASSIGN_OR_RETURN(added, ParseAddedTokens(*found, "tokenizer: added_tokens"));
  }
  return SentencePieceTokenizer::Create(std::move(model), std::move(added), std::move(settings));
}

}  // namespace octet
