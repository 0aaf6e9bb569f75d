// config.json: any bytes give an error or a configuration within bounds that a manifest can hold.
// Links: octet_model_files
#include <cstddef>
#include <cstdint>

#include "core/check.h"
#include "model/hf_config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view bytes(reinterpret_cast<const char*>(data), size);
  const auto config = octet::ParseHfConfig(bytes, "fuzz");
  if (!config.ok()) return 0;
  const nlohmann::json json = octet::ModelConfigToJson(*config);
  const auto back = octet::ModelConfigFromJson(json, "fuzz");
  OCTET_CHECK(back.ok());
  OCTET_CHECK(octet::ModelConfigToJson(*back) == json);
  return 0;
}
