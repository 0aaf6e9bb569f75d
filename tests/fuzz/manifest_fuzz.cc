// manifest.json: any bytes give an error or a manifest that is written back the same. The digest
// over the contents stops most mutations, so the configuration inside is also read on its own.
// Links: octet_model_package
#include <cstddef>
#include <cstdint>
#include <string>

#include "core/check.h"
#include "model/hf_config.h"
#include "model/json.h"
#include "model/manifest.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  // What is no JSON is refused before anything else: once is enough.
  const auto json = octet::ParseJsonBounded(bytes, 1u << 20);
  if (!json.ok()) return 0;
  const auto manifest = octet::ParseManifest(absl::string_view(bytes.data(), size), "fuzz");
  if (manifest.ok()) {
    const std::string text = octet::ManifestToJson(*manifest);
    const auto back = octet::ParseManifest(text, "fuzz");
    OCTET_CHECK(back.ok());
    OCTET_CHECK(octet::ManifestToJson(*back) == text);
  }
  const nlohmann::json* config = octet::JsonFind(*json, "config");
  if (config == nullptr || !config->is_object()) return 0;
  const auto parsed = octet::ModelConfigFromJson(*config, "fuzz");
  if (parsed.ok()) OCTET_CHECK(octet::ValidateModelConfig(*parsed, "fuzz").ok());
  return 0;
}
