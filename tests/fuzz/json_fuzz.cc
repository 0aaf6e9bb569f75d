// Bounded JSON: any bytes give a value or an error, and a value survives being written and read.
// Links: octet_model_json
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "core/check.h"
#include "model/json.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const auto value = octet::ParseJsonBounded(bytes, 64u << 10);
  if (!value.ok()) return 0;
  OCTET_CHECK(octet::JsonForError(*value).size() < 200);
  const std::string again = value->dump();
  const auto second = octet::ParseJsonBounded(again, 1u << 20);
  OCTET_CHECK(second.ok());
  OCTET_CHECK(second->dump() == again);
  return 0;
}
