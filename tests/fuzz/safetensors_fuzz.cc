// A safetensors header: any bytes give an error or tensors inside the file.
// Links: octet_model_files
#include <cstddef>
#include <cstdint>

#include "core/check.h"
#include "model/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view bytes(reinterpret_cast<const char*>(data), size);
  const auto header = octet::ParseSafetensors(bytes, "fuzz");
  if (!header.ok()) return 0;
  uint64_t total = header->data_begin;
  for (const auto& [name, entry] : header->tensors) {
    OCTET_CHECK(entry.begin <= size && entry.bytes <= size - entry.begin);
    total += entry.bytes;
  }
  OCTET_CHECK(total == size);
  return 0;
}
