// Tokens that are found in the text before the model sees it: control tokens and what a model's
// publisher added to the vocabulary.
#ifndef OCTET_MODEL_TOKENIZER_ADDED_TOKENS_H_
#define OCTET_MODEL_TOKENIZER_ADDED_TOKENS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "core/ids.h"
#include "model/tokenizer/byte_trie.h"
#include "nlohmann/json.hpp"

namespace octet {

// Fields as in Hugging Face's tokenizer.json.
struct AddedToken {
  TokenId id = 0;
  std::string content;
  bool special = false;
  bool single_word = false;  // only between characters that are not \w
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // and after it
  bool normalized = false;   // searched in the normalised text
};

struct TextSegment {
  std::string_view text;
  std::optional<TokenId> id;  // an added token; empty: ordinary text
};

// Finds the leftmost longest of a set of tokens. Immutable after the last Add; then thread-safe.
class AddedTokenMatcher {
 public:
  // content: what to look for, not empty (the normalised spelling for normalized tokens).
  void Add(const AddedToken& token, std::string_view content);
  bool empty() const { return tokens_.empty(); }

  // Appends the segments of text in order; none is empty. parse_special false: special tokens are
  // ordinary text. O(text × longest token).
  void Split(std::string_view text, bool parse_special, std::vector<TextSegment>* out) const;

 private:
  std::vector<AddedToken> tokens_;
  ByteTrie trie_;  // content → index in tokens_
};

// An array of objects as in tokenizer.json; ids < kVocabMax, contents UTF-8 and not empty.
absl::StatusOr<std::vector<AddedToken>> ParseAddedTokens(const nlohmann::json& array,
                                                         std::string_view where);
nlohmann::json AddedTokensToJson(const std::vector<AddedToken>& tokens);

}  // namespace octet

#endif  // OCTET_MODEL_TOKENIZER_ADDED_TOKENS_H_
