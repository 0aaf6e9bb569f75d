// Cuts a template's source into text and the tokens of its tags.
#ifndef OCTET_MODEL_CHAT_TEMPLATE_LEXER_H_
#define OCTET_MODEL_CHAT_TEMPLATE_LEXER_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace octet::chat_template_internal {

struct Token {
  enum class Kind : uint8_t {
    kText,         // outside of tags, white space already trimmed
    kBlockBegin,   // {%
    kBlockEnd,     // %}
    kOutputBegin,  // {{
    kOutputEnd,    // }}
    kName,
    kInt,
    kFloat,
    kString,  // text: the value
    kOperator,
    kEnd,
  };
  Kind kind = Kind::kEnd;
  std::string text;
  uint32_t line = 0;
};

// With trim_blocks and lstrip_blocks: a newline after a block tag and blanks before one on its line
// are no text; "-" at a tag's edge takes all white space there, "+" keeps it. Comments and {% raw
// %} are resolved here. The last token is kEnd.
absl::StatusOr<std::vector<Token>> Lex(std::string_view source);

}  // namespace octet::chat_template_internal

#endif  // OCTET_MODEL_CHAT_TEMPLATE_LEXER_H_
