#include "model/tokenizer/tokenizer.h"

#include "model/tokenizer/utf8.h"

namespace octet {

const std::string& Tokenizer::TokenBytes(TokenId id) const {
  static const std::string* const kNone = new std::string();
  if (id < 0 || static_cast<size_t>(id) >= bytes_.size()) return *kNone;
  return bytes_[static_cast<size_t>(id)];
}

std::optional<TokenId> Tokenizer::IdOf(std::string_view piece) const {
  auto it = ids_.find(absl::string_view(piece.data(), piece.size()));
  if (it == ids_.end()) return std::nullopt;
  return it->second;
}

bool Tokenizer::is_special(TokenId id) const {
  return id >= 0 && static_cast<size_t>(id) < special_.size() &&
         special_[static_cast<size_t>(id)] != 0;
}

std::string Tokenizer::Decode(absl::Span<const TokenId> ids, bool skip_special) const {
  StreamDecoder decoder(this, skip_special);
  std::string text;
  for (const TokenId id : ids) text += decoder.Append(id);
  text += decoder.Flush();
  return text;
}

std::string StreamDecoder::Append(TokenId id) {
  if (skip_special_ && tokenizer_->is_special(id)) return {};
  std::string_view bytes = tokenizer_->TokenBytes(id);
  if (drop_space_ && !bytes.empty()) {
    if (bytes.front() == ' ') bytes.remove_prefix(1);
    drop_space_ = false;
  }
  pending_ += bytes;
  std::string out;
  std::string_view rest = pending_;
  while (!rest.empty()) {
    const Utf8Char c = DecodeUtf8(rest);
    if (c.kind == Utf8Char::Kind::kIncomplete) break;
    out += c.kind == Utf8Char::Kind::kValid ? rest.substr(0, c.length) : kReplacementChar;
    rest.remove_prefix(c.length);
  }
  pending_.erase(0, pending_.size() - rest.size());
  return out;
}

std::string StreamDecoder::Flush() {
  if (pending_.empty()) return {};
  pending_.clear();
  return std::string(kReplacementChar);
}

}  // namespace octet
