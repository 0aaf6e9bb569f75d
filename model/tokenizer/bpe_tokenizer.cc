#include "model/tokenizer/bpe_tokenizer.h"

#include "absl/strings/str_cat.h"
#include "core/limits.h"
#include "core/status_macros.h"
#include "model/json.h"
#include "model/tokenizer/tokenizer_checks.h"
#include "model/tokenizer/utf8.h"

namespace octet {
namespace {

// GPT-2 writes a byte as the character of the same number where that prints, else as the next
// unused one from U+0100 on.
struct ByteAlphabet {
  ByteAlphabet() {
    byte_of.fill(-1);
    uint32_t next = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
      const bool prints = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
      byte_of[prints ? static_cast<uint32_t>(byte) : next++] = static_cast<int16_t>(byte);
    }
  }
  std::array<int16_t, 0x144> byte_of;
};

uint64_t PairKey(TokenId left, TokenId right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

std::string SpacesOfMetaspace(std::string_view token) {
  std::string out;
  while (!token.empty()) {
    const bool space = token.substr(0, kMetaspace.size()) == kMetaspace;
    out.push_back(space ? ' ' : token.front());
    token.remove_prefix(space ? kMetaspace.size() : 1);
  }
  return out;
}

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

}  // namespace

std::optional<std::string> BytesOfAlphabet(std::string_view token) {
  static const ByteAlphabet* const kAlphabet = new ByteAlphabet();
  std::string out;
  while (!token.empty()) {
    const Utf8Char c = DecodeUtf8(token);
    if (c.kind != Utf8Char::Kind::kValid || c.code >= kAlphabet->byte_of.size())
      return std::nullopt;
    const int16_t byte = kAlphabet->byte_of[c.code];
    if (byte < 0) return std::nullopt;
    out.push_back(static_cast<char>(byte));
    token.remove_prefix(c.length);
  }
  return out;
}

int ByteOfToken(std::string_view token) {
  if (token.size() != 6 || token.substr(0, 3) != "<0x" || token[5] != '>') return -1;
  int value = 0;
  for (const char c : token.substr(3, 2)) {
    const bool digit = c >= '0' && c <= '9';
    if (!digit && (c < 'A' || c > 'F')) return -1;
    value = value * 16 + (digit ? c - '0' : c - 'A' + 10);
  }
  return value;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> BpeTokenizer::Create(BpeSpec spec) {
  std::unique_ptr<BpeTokenizer> tokenizer(new BpeTokenizer(std::move(spec)));
  OCTET_ASSIGN_OR_RETURN(tokenizer->normalizer_, Normalizer::Parse(tokenizer->spec_.normalizer));
  OCTET_ASSIGN_OR_RETURN(tokenizer->pre_tokenizer_,
                         PreTokenizer::Parse(tokenizer->spec_.pre_tokenizer));
  OCTET_RETURN_IF_ERROR(tokenizer->FillVocabulary());
  OCTET_RETURN_IF_ERROR(tokenizer->FillMerges());
  OCTET_RETURN_IF_ERROR(tokenizer->FillAdded());
  OCTET_RETURN_IF_ERROR(CheckTokenizerSettings(tokenizer->spec_.settings, tokenizer->vocab_size()));
  tokenizer->settings_ = tokenizer->spec_.settings;
  tokenizer->drops_leading_space_ = tokenizer->spec_.drop_leading_space;
  return std::unique_ptr<Tokenizer>(std::move(tokenizer));
}

absl::Status BpeTokenizer::FillVocabulary() {
  const size_t count = spec_.tokens.size();
  if (count > kVocabMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("tokenizer has ", count, " tokens, allowed are ", kVocabMax));
  }
  bytes_.resize(count);
  pieces_.resize(count);
  special_.resize(count);
  byte_ids_.fill(-1);
  for (size_t i = 0; i < count; ++i) {
    const std::string& token = spec_.tokens[i];
    const TokenId id = static_cast<TokenId>(i);
    if (token.empty()) continue;
    if (token.size() > kTokenBytesMax || Utf8ValidLength(token) != token.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("token ", i, " is not UTF-8 or longer than ", kTokenBytesMax, " bytes"));
    }
    if (!ids_.emplace(token, id).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("token ", JsonForError(token), " appears twice"));
    }
    pieces_[i] = token;
    const std::optional<std::string> bytes =
        spec_.byte_level ? BytesOfAlphabet(token) : std::optional<std::string>(token);
    if (bytes.has_value()) encode_ids_.emplace(*bytes, id);
    const int byte = spec_.byte_fallback ? ByteOfToken(token) : -1;
    if (spec_.byte_level) {
      bytes_[i] = bytes.value_or(token);
      if (bytes.has_value() && bytes->size() == 1)
        byte_ids_[static_cast<uint8_t>((*bytes)[0])] = id;
    } else {
      bytes_[i] = byte >= 0 ? std::string(1, static_cast<char>(byte)) : SpacesOfMetaspace(token);
      if (byte >= 0) byte_ids_[byte] = id;
    }
  }
  return absl::OkStatus();
}

absl::Status BpeTokenizer::FillMerges() {
  if (spec_.merges.size() > kMergesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("tokenizer has ", spec_.merges.size(), " merges, allowed are ", kMergesMax));
  }
  merges_.reserve(spec_.merges.size());
  const auto known = [&](TokenId id) {
    return id >= 0 && static_cast<size_t>(id) < spec_.tokens.size() && !spec_.tokens[id].empty();
  };
  for (size_t rank = 0; rank < spec_.merges.size(); ++rank) {
    const auto& [left, right] = spec_.merges[rank];
    if (!known(left) || !known(right)) {
      return absl::InvalidArgumentError(absl::StrCat("merge ", rank, " joins tokens ", left,
                                                     " and ", right,
                                                     ", which are not both in the vocabulary"));
    }
    const std::string joined = spec_.tokens[left] + spec_.tokens[right];
    const std::optional<TokenId> id = IdOf(joined);
    if (!id.has_value()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "merge ", rank, " makes ", JsonForError(joined), ", which is not in the vocabulary"));
    }
    // A repeated pair keeps its last rank, as in the reference implementation.
    merges_[PairKey(left, right)] = {static_cast<uint32_t>(rank), *id};
  }
  return absl::OkStatus();
}

absl::Status BpeTokenizer::FillAdded() {
  bytes_complete_ = spec_.byte_fallback;
  for (const TokenId id : byte_ids_) bytes_complete_ = bytes_complete_ && id >= 0;
  for (const AddedToken& token : spec_.added) {
    const size_t index = static_cast<size_t>(token.id);
    if (token.id < 0 || index >= kVocabMax || token.content.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("added token ", token.id, " is empty or its id is not below ", kVocabMax));
    }
    if (Utf8ValidLength(token.content) != token.content.size()) {
      return absl::InvalidArgumentError(absl::StrCat("added token ", token.id, " is not UTF-8"));
    }
    if (index >= bytes_.size()) {
      bytes_.resize(index + 1);
      pieces_.resize(index + 1);
      special_.resize(index + 1);
    }
    bytes_[index] = token.content;
    pieces_[index] = token.content;
    special_[index] = token.special;
    ids_[token.content] = token.id;
    if (token.special) encode_ids_.erase(token.content);
    if (!token.normalized) {
      raw_added_.Add(token, token.content);
      continue;
    }
    OCTET_ASSIGN_OR_RETURN(const std::string content, normalizer_.Apply(token.content));
    if (!content.empty()) normalized_added_.Add(token, content);
  }
  return absl::OkStatus();
}

void BpeTokenizer::AddUnknown(std::string_view piece, uint32_t begin, uint32_t length,
                              std::vector<BpeSymbol>* symbols) const {
  if (bytes_complete_) {
    // The symbols split one character; their lengths still add up to the text's.
    for (uint32_t i = 0; i < length; ++i) {
      symbols->push_back({begin + i, 1, byte_ids_[static_cast<uint8_t>(piece[begin + i])], -1, -1});
    }
    return;
  }
  if (!spec_.model_unk.has_value()) return;
  const TokenId unk = *spec_.model_unk;
  if (spec_.fuse_unk && !symbols->empty() && symbols->back().id == unk) {
    symbols->back().length += length;
    return;
  }
  symbols->push_back({begin, length, unk, -1, -1});
}

void BpeTokenizer::AddSymbols(std::string_view piece, std::vector<BpeSymbol>* symbols) const {
  symbols->clear();
  for (uint32_t at = 0; at < piece.size();) {
    uint32_t length = 1;
    TokenId id = -1;
    if (spec_.byte_level) {
      id = byte_ids_[static_cast<uint8_t>(piece[at])];
    } else {
      length = DecodeUtf8(piece.substr(at)).length;
      auto it = encode_ids_.find(View(piece.substr(at, length)));
      if (it != encode_ids_.end()) id = it->second;
    }
    if (id >= 0) {
      symbols->push_back({at, length, id, -1, -1});
    } else {
      AddUnknown(piece, at, length, symbols);
    }
    at += length;
  }
}

void BpeTokenizer::EncodePiece(std::string_view piece, BpeScratch* scratch,
                               std::vector<TokenId>* out) const {
  if (spec_.ignore_merges) {
    auto it = encode_ids_.find(View(piece));
    if (it != encode_ids_.end()) {
      out->push_back(it->second);
      return;
    }
  }
  AddSymbols(piece, &scratch->symbols);
  MergeSymbols(scratch, [this](const BpeSymbol& left, const BpeSymbol& right) {
    auto it = merges_.find(PairKey(left.id, right.id));
    return it == merges_.end() ? std::nullopt : std::optional<BpeMergeResult>(it->second);
  });
  for (const BpeSymbol& symbol : scratch->symbols) {
    if (symbol.length > 0) out->push_back(symbol.id);
  }
}

absl::Status BpeTokenizer::EncodeText(std::string_view text, bool at_start, bool parse_special,
                                      BpeScratch* scratch, std::vector<TokenId>* out) const {
  std::string normalized;
  if (!normalizer_.identity()) {
    OCTET_ASSIGN_OR_RETURN(normalized, normalizer_.Apply(text));
    text = normalized;
  }
  std::vector<TextSegment> segments;
  normalized_added_.Split(text, parse_special, &segments);
  PreTokens tokens;
  for (const TextSegment& segment : segments) {
    if (segment.id.has_value()) {
      out->push_back(*segment.id);
    } else {
      OCTET_RETURN_IF_ERROR(pre_tokenizer_.Split(segment.text, at_start, &tokens));
      for (const std::string_view piece : tokens.pieces) EncodePiece(piece, scratch, out);
    }
    at_start = false;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<TokenId>> BpeTokenizer::Encode(std::string_view text,
                                                          const EncodeOptions& options) const {
  OCTET_RETURN_IF_ERROR(CheckEncodeText(text));
  std::vector<TokenId> out;
  if (options.add_bos && settings_.bos_id.has_value()) out.push_back(*settings_.bos_id);
  std::vector<TextSegment> segments;
  raw_added_.Split(text, options.parse_special, &segments);
  BpeScratch scratch;
  bool at_start = true;
  for (const TextSegment& segment : segments) {
    if (segment.id.has_value()) {
      out.push_back(*segment.id);
    } else {
      OCTET_RETURN_IF_ERROR(
          EncodeText(segment.text, at_start, options.parse_special, &scratch, &out));
    }
    at_start = false;
  }
  return out;
}

}  // namespace octet
