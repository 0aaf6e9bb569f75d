// The pre-tokenizers that GGUF's tokenizer.ggml.pre names.
#ifndef OCTET_MODEL_TOKENIZER_GGUF_PRE_H_
#define OCTET_MODEL_TOKENIZER_GGUF_PRE_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace octet {

struct GgufPre {
  std::vector<std::string> patterns;  // each cuts the pieces that the one before made
  bool ignore_merges = false;
  bool add_bos = false;  // where the file does not say
};

// Empty is "default". UNIMPLEMENTED names a pre that is not known.
absl::StatusOr<GgufPre> FindGgufPre(std::string_view pre);

}  // namespace octet

#endif  // OCTET_MODEL_TOKENIZER_GGUF_PRE_H_
