// Checks that the tokenizers share.
#ifndef OCTET_MODEL_TOKENIZER_TOKENIZER_CHECKS_H_
#define OCTET_MODEL_TOKENIZER_TOKENIZER_CHECKS_H_

#include <string_view>

#include "absl/status/status.h"
#include "model/tokenizer/tokenizer.h"

namespace octet {

// INVALID_ARGUMENT: longer than kEncodeBytesMax or not UTF-8 (the offset is named).
absl::Status CheckEncodeText(std::string_view text);

// INVALID_ARGUMENT names the id that is not in [0, vocab_size), or the template that is too long or
// not UTF-8.
absl::Status CheckTokenizerSettings(const TokenizerSettings& settings, uint32_t vocab_size);

}  // namespace octet

#endif  // OCTET_MODEL_TOKENIZER_TOKENIZER_CHECKS_H_
