// A GGUF header: any bytes give an error or tensors inside the file; then its configuration and
// tokenizer keys, right or wrong, end in a value or an error.
// Links: octet_model_files
#include <cstddef>
#include <cstdint>

#include "core/check.h"
#include "model/gguf.h"
#include "model/hf_config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view bytes(reinterpret_cast<const char*>(data), size);
  const auto header = octet::ParseGguf(bytes, "fuzz");
  if (!header.ok()) return 0;
  for (const auto& [name, tensor] : header->tensors) {
    OCTET_CHECK(tensor.begin <= size && tensor.bytes <= size - tensor.begin);
  }
  const auto config = octet::GgufModelConfig(*header, "fuzz");
  if (config.ok()) OCTET_CHECK(octet::ValidateModelConfig(*config, "fuzz").ok());
  const auto tokenizer = octet::GgufTokenizer(*header, "fuzz");
  OCTET_CHECK(tokenizer.ok() || !tokenizer.status().message().empty());
  return 0;
}
