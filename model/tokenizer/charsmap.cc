#include "model/tokenizer/charsmap.h"

#include <bit>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace octet {
namespace {

// Fields of a unit, as the double-array format packs them.
constexpr uint32_t kValueBit = 1u << 31;
constexpr uint32_t kLabelMask = kValueBit | 0xFF;
constexpr uint32_t kHasLeafBit = 1u << 8;

uint32_t OffsetOf(uint32_t unit) { return (unit >> 10) << ((unit & (1u << 9)) >> 6); }

}  // namespace

absl::StatusOr<Charsmap> Charsmap::Parse(std::string_view blob) {
  static_assert(std::endian::native == std::endian::little);
  Charsmap map;
  if (blob.empty()) return map;
  uint32_t trie_bytes = 0;
  if (blob.size() >= 4) std::memcpy(&trie_bytes, blob.data(), 4);
  if (blob.size() < 4 || trie_bytes > blob.size() - 4 || trie_bytes % 4 != 0 || trie_bytes == 0) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer charsmap of ", blob.size(),
                                                   " bytes cannot hold a trie of ", trie_bytes));
  }
  map.units_.resize(trie_bytes / 4);
  std::memcpy(map.units_.data(), blob.data() + 4, trie_bytes);
  map.replacements_ = blob.substr(4 + trie_bytes);
  if (map.replacements_.empty() || map.replacements_.back() != '\0') {
    return absl::InvalidArgumentError("tokenizer charsmap does not end in NUL");
  }
  const size_t count = map.units_.size();
  for (size_t i = 0; i < count; ++i) {
    const uint32_t unit = map.units_[i];
    // The root is a node, whatever it says: look-ups begin at its children.
    const bool value = i > 0 && (unit & kValueBit) != 0;
    const bool fits = value ? (unit & ~kValueBit) < map.replacements_.size()
                            : ((i ^ OffsetOf(unit)) | 0xFF) < count;
    if (!fits) {
      return absl::InvalidArgumentError(
          absl::StrCat("tokenizer charsmap: unit ", i, " leads out of the trie"));
    }
  }
  return map;
}

std::optional<Charsmap::Match> Charsmap::Longest(std::string_view text) const {
  if (units_.empty()) return std::nullopt;
  std::optional<Match> found;
  size_t node = OffsetOf(units_[0]);
  for (size_t i = 0; i < text.size(); ++i) {
    const uint8_t byte = static_cast<uint8_t>(text[i]);
    node ^= byte;
    const uint32_t unit = units_[node];
    if ((unit & kLabelMask) != byte) break;
    node ^= OffsetOf(unit);
    if ((unit & kHasLeafBit) == 0) continue;
    const uint32_t leaf = units_[node];
    if ((leaf & kValueBit) == 0) continue;
    found = Match{i + 1, std::string_view(replacements_.data() + (leaf & ~kValueBit))};
  }
  return found;
}

}  // namespace octet
