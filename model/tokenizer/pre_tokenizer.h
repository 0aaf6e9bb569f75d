// The pre-tokenizers of a tokenizer.json: where text is cut before the model merges inside each
// piece.
#ifndef OCTET_MODEL_TOKENIZER_PRE_TOKENIZER_H_
#define OCTET_MODEL_TOKENIZER_PRE_TOKENIZER_H_

#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace octet {

// A compiled pattern in the dialect of tokenizer.json (Oniguruma), as far as PCRE2 reads it alike.
// Immutable and thread-safe.
class SplitRegex {
 public:
  // INVALID_ARGUMENT or UNIMPLEMENTED names the pattern and what is wrong with it.
  static absl::StatusOr<std::shared_ptr<const SplitRegex>> Compile(std::string_view pattern);
  ~SplitRegex();
  SplitRegex(const SplitRegex&) = delete;
  SplitRegex& operator=(const SplitRegex&) = delete;

  struct Span {
    size_t begin;
    size_t end;
  };
  // All matches from left to right, not overlapping; text is UTF-8. RESOURCE_EXHAUSTED: a match
  // needed more than kRegexMatchLimit steps or kRegexHeapKibMax of memory.
  absl::Status FindAll(std::string_view text, std::vector<Span>* matches) const;

 private:
  struct Impl;
  explicit SplitRegex(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Pieces of a text. Views point into the text that was split or into `storage`.
struct PreTokens {
  std::vector<std::string_view> pieces;
  std::deque<std::string> storage;
};

// Immutable and thread-safe.
class PreTokenizer {
 public:
  // json as in tokenizer.json: ByteLevel, Split, Digits, Metaspace, Sequence of these, or null.
  // UNIMPLEMENTED names any other type.
  static absl::StatusOr<PreTokenizer> Parse(const nlohmann::json& json);
  // A chain of patterns whose matches become pieces, as GGUF's tokenizer.ggml.pre stands for.
  static nlohmann::json JsonOfPatterns(const std::vector<std::string>& patterns);

  // Pieces of text in order, none empty. at_start: text is the beginning of what the user gave.
  absl::Status Split(std::string_view text, bool at_start, PreTokens* out) const;

  // Pieces are written in bytes (there is a ByteLevel step).
  bool byte_level() const { return byte_level_; }
  // What Parse was given.
  const nlohmann::json& ToJson() const { return json_; }

 private:
  enum class Behavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };
  enum class Prefix { kNever, kFirst, kAlways };
  struct Step {
    std::shared_ptr<const SplitRegex> regex;  // nullptr: no split
    std::string literal;                      // in place of regex
    Behavior behavior = Behavior::kIsolated;
    bool invert = false;
    std::string space;  // Metaspace: what replaces ' '
    Prefix prefix = Prefix::kNever;
    std::string prefix_text;  // put before a piece that does not start with it
  };

  absl::Status ParseInto(const nlohmann::json& json);
  static absl::Status ParseSplit(const nlohmann::json& json, Step* step);
  static absl::Status ParseMetaspace(const nlohmann::json& json, Step* step);
  static void Rewrite(const Step& step, bool at_start, PreTokens* tokens);
  static absl::Status Cut(const Step& step, std::string_view piece,
                          std::vector<std::string_view>* out);

  std::vector<Step> steps_;
  bool byte_level_ = false;
  nlohmann::json json_;
};

}  // namespace octet

#endif  // OCTET_MODEL_TOKENIZER_PRE_TOKENIZER_H_
