// Goldens of tests/golden/tokenizer (make.py there), for the tests of this folder.
#ifndef OCTET_MODEL_TOKENIZER_GOLDEN_TEST_UTIL_H_
#define OCTET_MODEL_TOKENIZER_GOLDEN_TEST_UTIL_H_

#include <memory>
#include <string>
#include <vector>

#include "core/ids.h"
#include "model/tokenizer/tokenizer.h"

namespace octet {

// Content of a file there. Stops the process when there is none.
std::string ReadGolden(const std::string& source_dir, const std::string& name);

// corpus.json.
std::vector<std::string> GoldenCorpus(const std::string& source_dir);

// One row for each string of the corpus.
std::vector<std::vector<TokenId>> GoldenIds(const std::string& source_dir, const std::string& name);

// A tokenizer from "x.model", "smollm2.json" (our own schema) or "x.json" (Hugging Face).
absl::StatusOr<std::unique_ptr<Tokenizer>> GoldenTokenizer(const std::string& source_dir,
                                                           const std::string& name);

}  // namespace octet

#endif  // OCTET_MODEL_TOKENIZER_GOLDEN_TEST_UTIL_H_
