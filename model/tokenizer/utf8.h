// UTF-8 and the few character properties that tokenizers need. Pure functions.
#ifndef OCTET_MODEL_TOKENIZER_UTF8_H_
#define OCTET_MODEL_TOKENIZER_UTF8_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace octet {

struct Utf8Char {
  enum class Kind : uint8_t { kValid, kInvalid, kIncomplete };
  uint32_t code = 0;   // kValid only
  uint8_t length = 0;  // bytes; of the maximal invalid part when not valid
  Kind kind = Kind::kInvalid;
};

// The first character of bytes, which must not be empty. kIncomplete: bytes ends inside a character
// that more bytes could complete. Overlong forms, surrogates and values past U+10FFFF are invalid.
Utf8Char DecodeUtf8(std::string_view bytes);

// Offset of the first byte that belongs to no character; bytes.size() when all is UTF-8.
size_t Utf8ValidLength(std::string_view bytes);

// Appends code, a Unicode scalar value.
void AppendUtf8(uint32_t code, std::string* out);

// Offset of the character that ends at `end` (0 < end <= text.size(); text is UTF-8).
size_t PreviousChar(std::string_view text, size_t end);

// The property White_Space.
bool IsWhiteSpace(uint32_t code);
// A letter, mark, decimal digit or connector: \w of Unicode regular expressions.
bool IsWordChar(uint32_t code);

inline constexpr std::string_view kReplacementChar = "\xEF\xBF\xBD";  // U+FFFD
inline constexpr std::string_view kMetaspace = "\xE2\x96\x81";        // U+2581, "▁"

}  // namespace octet

#endif  // OCTET_MODEL_TOKENIZER_UTF8_H_
