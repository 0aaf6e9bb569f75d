// Pieces of a Hugging Face directory that the loader puts together.
#ifndef OCTET_MODEL_TOKENIZER_HF_FILES_H_
#define OCTET_MODEL_TOKENIZER_HF_FILES_H_

#include "absl/status/statusor.h"
#include "model/tokenizer/bpe_tokenizer.h"
#include "nlohmann/json.hpp"

namespace octet {

// root: a parsed tokenizer.json. Errors as TokenizerFromHfJson.
absl::StatusOr<BpeSpec> BpeSpecFromHfJson(const nlohmann::json& root);

}  // namespace octet

#endif  // OCTET_MODEL_TOKENIZER_HF_FILES_H_
