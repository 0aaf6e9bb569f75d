// SentencePiece's precompiled normalisation rules: a double-array trie from character sequences to
// their replacements.
#ifndef OCTET_MODEL_TOKENIZER_CHARSMAP_H_
#define OCTET_MODEL_TOKENIZER_CHARSMAP_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace octet {

// Immutable and thread-safe.
class Charsmap {
 public:
  struct Match {
    size_t length;  // bytes of the text
    std::string_view replacement;
  };

  // blob: little-endian u32 size of the trie, the trie (u32 units), then replacements that end in
  // NUL. Empty: no rules. INVALID_ARGUMENT: sizes do not fit, or a unit or a replacement leads out
  // of the blob; checked for every unit here, so that a look-up needs no checks.
  static absl::StatusOr<Charsmap> Parse(std::string_view blob);

  // The longest rule that text begins with.
  std::optional<Match> Longest(std::string_view text) const;

 private:
  std::vector<uint32_t> units_;
  std::string replacements_;
};

}  // namespace octet

#endif  // OCTET_MODEL_TOKENIZER_CHARSMAP_H_
