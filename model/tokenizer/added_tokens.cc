#include "model/tokenizer/added_tokens.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "core/limits.h"
#include "core/status_macros.h"
#include "model/json.h"
#include "model/tokenizer/utf8.h"

namespace octet {
namespace {

bool EndsWithWord(std::string_view text) {
  if (text.empty()) return false;
  return IsWordChar(DecodeUtf8(text.substr(PreviousChar(text, text.size()))).code);
}

bool StartsWithWord(std::string_view text) {
  return !text.empty() && IsWordChar(DecodeUtf8(text).code);
}

size_t SkipSpaceBefore(std::string_view text, size_t at) {
  while (at > 0) {
    const size_t previous = PreviousChar(text, at);
    if (!IsWhiteSpace(DecodeUtf8(text.substr(previous)).code)) break;
    at = previous;
  }
  return at;
}

size_t SkipSpaceAfter(std::string_view text, size_t at) {
  while (at < text.size()) {
    const Utf8Char c = DecodeUtf8(text.substr(at));
    if (!IsWhiteSpace(c.code)) break;
    at += c.length;
  }
  return at;
}

}  // namespace

void AddedTokenMatcher::Add(const AddedToken& token, std::string_view content) {
  trie_.Insert(content, static_cast<int32_t>(tokens_.size()));
  tokens_.push_back(token);
  tokens_.back().content = content;
}

void AddedTokenMatcher::Split(std::string_view text, bool parse_special,
                              std::vector<TextSegment>* out) const {
  size_t done = 0;
  size_t at = 0;
  while (at < text.size()) {
    const int32_t index = trie_.Longest(text.substr(at));
    if (index < 0) {
      ++at;
      continue;
    }
    const AddedToken* token = &tokens_[static_cast<size_t>(index)];
    size_t begin = at;
    size_t end = at + token->content.size();
    at = end;
    if (token->special && !parse_special) continue;
    if (token->single_word &&
        (EndsWithWord(text.substr(0, begin)) || StartsWithWord(text.substr(end)))) {
      continue;
    }
    if (token->lstrip) begin = std::max(done, SkipSpaceBefore(text, begin));
    if (token->rstrip) end = SkipSpaceAfter(text, end);
    if (begin > done) out->push_back({text.substr(done, begin - done), std::nullopt});
    out->push_back({text.substr(begin, end - begin), token->id});
    done = at = end;
  }
  if (done < text.size()) out->push_back({text.substr(done), std::nullopt});
}

absl::StatusOr<std::vector<AddedToken>> ParseAddedTokens(const nlohmann::json& array,
                                                         std::string_view where) {
  const absl::string_view place(where.data(), where.size());
  if (!array.is_array() || array.size() > kAddedTokensMax) {
    return absl::InvalidArgumentError(absl::StrCat(place, " is ", JsonForError(array),
                                                   ", allowed is an array of at most ",
                                                   kAddedTokensMax, " objects"));
  }
  std::vector<AddedToken> tokens;
  for (const nlohmann::json& entry : array) {
    const std::string at = absl::StrCat(place, "[", tokens.size(), "]");
    AddedToken token;
    OCTET_ASSIGN_OR_RETURN(const int64_t id, JsonInt(entry, "id", at, 0, kVocabMax - 1));
    token.id = static_cast<TokenId>(id);
    OCTET_ASSIGN_OR_RETURN(token.content, JsonString(entry, "content", at));
    if (token.content.empty() || token.content.size() > kTokenBytesMax) {
      return absl::InvalidArgumentError(absl::StrCat(at, ": field \"content\" has ",
                                                     token.content.size(),
                                                     " bytes, allowed are 1 to ", kTokenBytesMax));
    }
    OCTET_ASSIGN_OR_RETURN(token.special, JsonBoolOr(entry, "special", at, false));
    OCTET_ASSIGN_OR_RETURN(token.single_word, JsonBoolOr(entry, "single_word", at, false));
    OCTET_ASSIGN_OR_RETURN(token.lstrip, JsonBoolOr(entry, "lstrip", at, false));
    OCTET_ASSIGN_OR_RETURN(token.rstrip, JsonBoolOr(entry, "rstrip", at, false));
    OCTET_ASSIGN_OR_RETURN(token.normalized, JsonBoolOr(entry, "normalized", at, false));
    tokens.push_back(std::move(token));
  }
  return tokens;
}

nlohmann::json AddedTokensToJson(const std::vector<AddedToken>& tokens) {
  nlohmann::json array = nlohmann::json::array();
  for (const AddedToken& token : tokens) {
    nlohmann::json entry = {{"id", token.id}, {"content", token.content}};
    if (token.special) entry["special"] = true;
    if (token.single_word) entry["single_word"] = true;
    if (token.lstrip) entry["lstrip"] = true;
    if (token.rstrip) entry["rstrip"] = true;
    if (token.normalized) entry["normalized"] = true;
    array.push_back(std::move(entry));
  }
  return array;
}

}  // namespace octet
