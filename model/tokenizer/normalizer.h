// The normalizers of a tokenizer.json: what happens to text before it is split.
#ifndef OCTET_MODEL_TOKENIZER_NORMALIZER_H_
#define OCTET_MODEL_TOKENIZER_NORMALIZER_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace octet {

// Immutable and thread-safe.
class Normalizer {
 public:
  // json as in tokenizer.json: NFC, NFD, NFKC, NFKD, Prepend, Replace (of a string), Sequence of
  // these, or null. UNIMPLEMENTED names any other type.
  static absl::StatusOr<Normalizer> Parse(const nlohmann::json& json);

  bool identity() const { return steps_.empty(); }

  // text is UTF-8. RESOURCE_EXHAUSTED when a step makes more than 4 × kEncodeBytesMax of it.
  absl::StatusOr<std::string> Apply(std::string_view text) const;

  // A JSON that Parse reads back; null for the identity.
  nlohmann::json ToJson() const;

 private:
  struct Step {
    std::string type;
    std::string pattern;  // Replace
    std::string content;  // Replace, Prepend
  };

  static absl::Status ParseInto(const nlohmann::json& json, std::vector<Step>* steps);
  static absl::StatusOr<std::string> ApplyStep(const Step& step, std::string_view text);

  std::vector<Step> steps_;
};

}  // namespace octet

#endif  // OCTET_MODEL_TOKENIZER_NORMALIZER_H_
