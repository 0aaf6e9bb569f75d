#include "model/tokenizer/sentencepiece_tokenizer.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "core/limits.h"
#include "core/status_macros.h"
#include "model/json.h"
#include "model/tokenizer/bpe_tokenizer.h"
#include "model/tokenizer/settings_json.h"
#include "model/tokenizer/tokenizer_checks.h"
#include "model/tokenizer/utf8.h"

namespace octet {
namespace {

using Type = SentencePieceType;

constexpr TokenId kFrozen = -2;  // id of a symbol that takes no part in merges
constexpr float kUnknownPenalty = 10.0f;

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

std::string WithSpaces(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const bool space = text.substr(0, kMetaspace.size()) == kMetaspace;
    out.push_back(space ? ' ' : text.front());
    text.remove_prefix(space ? kMetaspace.size() : 1);
  }
  return out;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> SentencePieceTokenizer::Create(
    SentencePieceModel model, std::vector<AddedToken> added, TokenizerSettings settings) {
  std::unique_ptr<SentencePieceTokenizer> tokenizer(
      new SentencePieceTokenizer(std::move(model), std::move(added)));
  OCTET_ASSIGN_OR_RETURN(tokenizer->charsmap_, Charsmap::Parse(tokenizer->model_.charsmap));
  OCTET_RETURN_IF_ERROR(tokenizer->FillPieces());
  OCTET_RETURN_IF_ERROR(tokenizer->FillRanks());
  OCTET_RETURN_IF_ERROR(tokenizer->FillAdded());
  OCTET_RETURN_IF_ERROR(CheckTokenizerSettings(settings, tokenizer->vocab_size()));
  tokenizer->settings_ = std::move(settings);
  tokenizer->drops_leading_space_ = tokenizer->model_.add_dummy_prefix;
  return std::unique_ptr<Tokenizer>(std::move(tokenizer));
}

absl::Status SentencePieceTokenizer::FillPieces() {
  const size_t count = model_.pieces.size();
  byte_ids_.fill(-1);
  bytes_.resize(count);
  pieces_.resize(count);
  special_.resize(count);
  bool has_unknown = false;
  for (size_t i = 0; i < count; ++i) {
    const SentencePieceModel::Piece& piece = model_.pieces[i];
    const TokenId id = static_cast<TokenId>(i);
    if (piece.text.empty() || piece.text.size() > kTokenBytesMax || !std::isfinite(piece.score) ||
        Utf8ValidLength(piece.text) != piece.text.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("tokenizer piece ", i, " is empty, longer than ", kTokenBytesMax,
                       " bytes or not UTF-8, or its score is no number"));
    }
    if (!ids_.emplace(piece.text, id).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("tokenizer piece ", JsonForError(piece.text), " is there twice"));
    }
    pieces_[i] = piece.text;
    bytes_[i] = model_.escape_whitespaces ? WithSpaces(piece.text) : piece.text;
    special_[i] = piece.type == Type::kControl || piece.type == Type::kUnknown;
    if (special_[i]) {
      bytes_[i] = piece.text;
    } else if (piece.type == Type::kByte) {
      const int byte = ByteOfToken(piece.text);
      if (byte < 0) {
        return absl::InvalidArgumentError(absl::StrCat("tokenizer byte piece ",
                                                       JsonForError(piece.text),
                                                       " must be spelled <0x00> to <0xFF>"));
      }
      byte_ids_[static_cast<size_t>(byte)] = id;
      bytes_[i] = std::string(1, static_cast<char>(byte));
    } else {
      piece_ids_.emplace(piece.text, id);
    }
    if (piece.type == Type::kUserDefined) user_defined_.Insert(piece.text, id);
    if (piece.type == Type::kUnknown && !has_unknown) {
      model_.unk_id = id;
      has_unknown = true;
    }
  }
  if (!has_unknown) return absl::InvalidArgumentError("tokenizer has no unknown piece");
  const bool bytes_missing = std::count(byte_ids_.begin(), byte_ids_.end(), -1) > 0;
  if (model_.byte_fallback && bytes_missing) {
    return absl::InvalidArgumentError("tokenizer has byte fallback, but not all 256 byte pieces");
  }
  return absl::OkStatus();
}

absl::Status SentencePieceTokenizer::FillRanks() {
  // FLT_MIN, though not the least float, is where the library starts looking for the highest score.
  score_min_ = FLT_MAX;
  score_max_ = FLT_MIN;
  for (const SentencePieceModel::Piece& piece : model_.pieces) {
    if (piece.type != Type::kNormal) continue;
    score_min_ = std::min(score_min_, piece.score);
    score_max_ = std::max(score_max_, piece.score);
  }
  if (model_.kind == SentencePieceModel::Kind::kUnigram) {
    for (const auto& [text, id] : piece_ids_) trie_.Insert(text, id);
    return absl::OkStatus();
  }
  std::vector<TokenId> order(model_.pieces.size());
  std::iota(order.begin(), order.end(), 0);
  const auto score = [&](TokenId id) { return model_.pieces[static_cast<size_t>(id)].score; };
  std::stable_sort(order.begin(), order.end(),
                   [&](TokenId a, TokenId b) { return score(a) > score(b); });
  ranks_.resize(order.size());
  for (size_t i = 0; i < order.size(); ++i) {
    const bool equal = i > 0 && score(order[i]) == score(order[i - 1]);
    ranks_[order[i]] = equal ? ranks_[order[i - 1]] : static_cast<uint32_t>(i);
  }
  return absl::OkStatus();
}

absl::Status SentencePieceTokenizer::FillAdded() {
  for (size_t i = 0; i < model_.pieces.size(); ++i) {
    if (!special_[i]) continue;
    AddedToken token;
    token.id = static_cast<TokenId>(i);
    token.special = true;
    matcher_.Add(token, model_.pieces[i].text);
  }
  for (const AddedToken& token : added_) {
    const size_t index = static_cast<size_t>(token.id);
    if (token.id < 0 || index >= kVocabMax || token.content.empty() ||
        Utf8ValidLength(token.content) != token.content.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("added token ", token.id, " is empty, not UTF-8 or not below ", kVocabMax));
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
    matcher_.Add(token, token.content);
  }
  return absl::OkStatus();
}

Charsmap::Match SentencePieceTokenizer::NormalizeStep(std::string_view text) const {
  const int32_t user = user_defined_.Longest(text);
  if (user >= 0) {
    const size_t length = model_.pieces[static_cast<size_t>(user)].text.size();
    return {length, text.substr(0, length)};
  }
  if (const auto match = charsmap_.Longest(text); match.has_value()) return *match;
  const size_t length = DecodeUtf8(text).length;
  return {length, text.substr(0, length)};
}

std::string SentencePieceTokenizer::Normalize(std::string_view text) const {
  const std::string_view space = model_.escape_whitespaces ? kMetaspace : std::string_view(" ");
  if (model_.remove_extra_whitespaces) {
    while (!text.empty()) {
      const Charsmap::Match step = NormalizeStep(text);
      if (step.replacement != " ") break;
      text.remove_prefix(step.length);
    }
  }
  std::string out;
  if (text.empty()) return out;
  out.reserve(text.size() + text.size() / 2);
  if (model_.add_dummy_prefix) out += space;
  bool after_space = model_.remove_extra_whitespaces;
  while (!text.empty()) {
    const Charsmap::Match step = NormalizeStep(text);
    std::string_view piece = step.replacement;
    while (after_space && !piece.empty() && piece.front() == ' ') piece.remove_prefix(1);
    if (!piece.empty()) {
      for (const char c : piece) {
        if (c == ' ') {
          out += space;
        } else {
          out.push_back(c);
        }
      }
      after_space = model_.remove_extra_whitespaces && piece.back() == ' ';
    }
    text.remove_prefix(step.length);
  }
  if (model_.remove_extra_whitespaces) {
    while (out.size() >= space.size() &&
           std::string_view(out).substr(out.size() - space.size()) == space) {
      out.resize(out.size() - space.size());
    }
  }
  return out;
}

TokenId SentencePieceTokenizer::PieceId(std::string_view text) const {
  auto it = piece_ids_.find(View(text));
  return it == piece_ids_.end() ? -1 : it->second;
}

std::vector<SentencePieceTokenizer::Part> SentencePieceTokenizer::CutBpe(
    std::string_view text, BpeScratch* scratch) const {
  std::vector<BpeSymbol>& symbols = scratch->symbols;
  symbols.clear();
  for (uint32_t at = 0; at < text.size();) {
    const int32_t user = user_defined_.Longest(text.substr(at));
    const size_t length = user >= 0 ? model_.pieces[static_cast<size_t>(user)].text.size()
                                    : DecodeUtf8(text.substr(at)).length;
    symbols.push_back({at, static_cast<uint32_t>(length), user >= 0 ? kFrozen : -1, -1, -1});
    at += static_cast<uint32_t>(length);
  }
  absl::flat_hash_map<TokenId, uint32_t> splits;
  MergeSymbols(scratch, [&](const BpeSymbol& left, const BpeSymbol& right) {
    std::optional<BpeMergeResult> merge;
    if (left.id == kFrozen || right.id == kFrozen) return merge;
    const TokenId id = PieceId(text.substr(left.begin, left.length + right.length));
    if (id < 0) return merge;
    if (TypeOf(id) == Type::kUnused) splits[id] = left.length;
    merge = BpeMergeResult{ranks_[static_cast<size_t>(id)], id};
    return merge;
  });
  std::vector<Part> parts;
  for (const BpeSymbol& symbol : symbols) {
    if (symbol.length == 0) continue;
    const Part part{symbol.begin, symbol.length, PieceId(text.substr(symbol.begin, symbol.length))};
    AppendResegmented(text, part, splits, &parts);
  }
  return parts;
}

void SentencePieceTokenizer::AppendResegmented(std::string_view text, Part part,
                                               const absl::flat_hash_map<TokenId, uint32_t>& splits,
                                               std::vector<Part>* out) const {
  std::vector<Part> stack = {part};
  while (!stack.empty()) {
    const Part top = stack.back();
    stack.pop_back();
    const bool unused = top.id >= 0 && TypeOf(top.id) == Type::kUnused;
    auto split = unused ? splits.find(top.id) : splits.end();
    if (split == splits.end()) {
      out->push_back(top);
      continue;
    }
    const uint32_t left = split->second;
    const uint32_t right = top.length - left;
    stack.push_back({top.begin + left, right, PieceId(text.substr(top.begin + left, right))});
    stack.push_back({top.begin, left, PieceId(text.substr(top.begin, left))});
  }
}

std::vector<SentencePieceTokenizer::Part> SentencePieceTokenizer::CutUnigram(
    std::string_view text) const {
  struct Best {
    TokenId id = -1;
    float score = 0;
    int64_t begin = -1;  // -1: not reached yet
  };
  std::vector<Best> best(text.size() + 1);
  const float unknown_score = score_min_ - kUnknownPenalty;
  // Sums in single precision, as the library has done since 0.2: ties between segmentations hang on
  // it.
  for (size_t begin = 0; begin < text.size();) {
    const float until_here = best[begin].score;
    const size_t char_length = DecodeUtf8(text.substr(begin)).length;
    const auto offer = [&](size_t end, TokenId id, double score) {
      Best& target = best[end];
      const float sum = static_cast<float>(score) + until_here;
      if (target.begin >= 0 && sum <= target.score) return;
      target = {id, static_cast<float>(sum), static_cast<int64_t>(begin)};
    };
    bool has_char = false;
    int64_t node = 0;
    for (size_t end = begin; end < text.size();) {
      node = trie_.Step(node, text[end]);
      if (node == ByteTrie::kNone) break;
      ++end;
      const TokenId id = trie_.ValueAt(node);
      if (id < 0 || TypeOf(id) == Type::kUnused) continue;
      const double length = static_cast<double>(static_cast<float>(end - begin) * score_max_);
      offer(end, id,
            TypeOf(id) == Type::kUserDefined ? length - 0.1
                                             : model_.pieces[static_cast<size_t>(id)].score);
      has_char = has_char || end - begin == char_length;
    }
    if (!has_char) offer(begin + char_length, -1, unknown_score);
    begin += char_length;
  }
  std::vector<Part> parts;
  for (size_t end = text.size(); end > 0;) {
    const Best& step = best[end];
    const uint32_t begin = static_cast<uint32_t>(step.begin);
    parts.push_back({begin, static_cast<uint32_t>(end - begin), step.id});
    end = begin;
  }
  std::reverse(parts.begin(), parts.end());
  return parts;
}

void SentencePieceTokenizer::EncodeText(std::string_view text, BpeScratch* scratch,
                                        std::vector<TokenId>* out) const {
  const std::string normalized = Normalize(text);
  const std::vector<Part> parts = model_.kind == SentencePieceModel::Kind::kBpe
                                      ? CutBpe(normalized, scratch)
                                      : CutUnigram(normalized);
  bool after_unknown = false;
  for (const Part& part : parts) {
    if (part.id >= 0) {
      out->push_back(part.id);
    } else if (model_.byte_fallback) {
      for (uint32_t i = 0; i < part.length; ++i) {
        out->push_back(byte_ids_[static_cast<uint8_t>(normalized[part.begin + i])]);
      }
    } else if (!after_unknown) {
      out->push_back(model_.unk_id);
    }
    after_unknown = part.id < 0 && !model_.byte_fallback;
  }
}

absl::StatusOr<std::vector<TokenId>> SentencePieceTokenizer::Encode(
    std::string_view text, const EncodeOptions& options) const {
  OCTET_RETURN_IF_ERROR(CheckEncodeText(text));
  std::vector<TokenId> out;
  if (options.add_bos && settings_.bos_id.has_value()) out.push_back(*settings_.bos_id);
  std::vector<TextSegment> segments;
  matcher_.Split(text, options.parse_special, &segments);
  BpeScratch scratch;
  for (const TextSegment& segment : segments) {
    if (segment.id.has_value()) {
      out.push_back(*segment.id);
    } else {
      EncodeText(segment.text, &scratch, &out);
    }
  }
  return out;
}

std::string SentencePieceTokenizer::Serialize() const {
  const nlohmann::json json = {{kSerializedKey, kSerializedVersion},
                               {"kind", "sentencepiece"},
                               {"settings", SettingsToJson(settings_)},
                               {"sentencepiece", SentencePieceModelToJson(model_)},
                               {"added_tokens", AddedTokensToJson(added_)}};
  return json.dump();
}

}  // namespace octet
