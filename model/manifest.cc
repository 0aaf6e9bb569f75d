#include "model/manifest.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/limits.h"
#include "core/numerics_version.h"
#include "core/sha256.h"
#include "core/status_macros.h"
#include "model/hf_config.h"
#include "model/json.h"

namespace octet {
namespace {

using Json = nlohmann::json;

constexpr char kFormatName[] = "octet-package";
constexpr char kDeviceProfile[] = "cpu";

std::string_view StdView(absl::string_view text) { return {text.data(), text.size()}; }

absl::Status Bad(absl::string_view where, absl::string_view field, const Json* value,
                 absl::string_view allowed) {
  return absl::InvalidArgumentError(
      absl::StrCat(where, ": field \"", field, "\" is ",
                   value == nullptr ? "missing" : JsonForError(*value), ", allowed is ", allowed));
}

struct LayerField {
  const char* key;
  WeightFormat ManifestLayer::*format;
};
constexpr LayerField kAttentionFields[] = {{"q", &ManifestLayer::q},
                                           {"k", &ManifestLayer::k},
                                           {"v", &ManifestLayer::v},
                                           {"o", &ManifestLayer::o}};
constexpr LayerField kExpertFields[] = {
    {"gate", &ManifestLayer::gate}, {"up", &ManifestLayer::up}, {"down", &ManifestLayer::down}};

template <size_t N>
Json LayersJson(const std::vector<ManifestLayer>& layers, const LayerField (&fields)[N]) {
  Json out = Json::array();
  for (const ManifestLayer& layer : layers) {
    Json entry = Json::object();
    for (const LayerField& field : fields) entry[field.key] = WeightFormatName(layer.*field.format);
    out.push_back(std::move(entry));
  }
  return out;
}

absl::StatusOr<WeightFormat> ParseFormat(const Json& object, const char* key,
                                         absl::string_view where) {
  OCTET_ASSIGN_OR_RETURN(const std::string name, JsonString(object, key, StdView(where)));
  auto format = WeightFormatFromName(absl::string_view(name).substr(0, 80));
  if (!format.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, ": field \"", key, "\": ", format.status().message()));
  }
  return format;
}

template <size_t N>
absl::Status ParseLayers(const Json& object, const LayerField (&fields)[N], absl::string_view where,
                         std::vector<ManifestLayer>* layers) {
  const Json* list = JsonFind(object, "layers");
  if (list == nullptr || !list->is_array() || list->size() != layers->size()) {
    return Bad(where, "layers", list, absl::StrCat("an array of ", layers->size()));
  }
  for (size_t i = 0; i < layers->size(); ++i) {
    const std::string layer_where = absl::StrCat(where, ": layer ", i);
    for (const LayerField& field : fields) {
      OCTET_ASSIGN_OR_RETURN((*layers)[i].*field.format,
                             ParseFormat((*list)[i], field.key, layer_where));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ParseDigest(const Json& object, const char* key,
                                        absl::string_view where) {
  const Json* value = JsonFind(object, key);
  Digest ignored;
  if (value == nullptr || !value->is_string() ||
      !DigestFromHex(value->get_ref<const std::string&>(), &ignored) ||
      value->get_ref<const std::string&>() != DigestHex(ignored)) {
    return Bad(where, key, value, "64 lower-case hexadecimal characters");
  }
  return value->get<std::string>();
}

Json BlobJson(const ManifestBlob& blob) { return {{"digest", blob.digest}, {"bytes", blob.bytes}}; }

absl::StatusOr<ManifestBlob> ParseBlob(const Json& object, absl::string_view where) {
  ManifestBlob blob;
  OCTET_ASSIGN_OR_RETURN(blob.digest, ParseDigest(object, "digest", where));
  OCTET_ASSIGN_OR_RETURN(const int64_t bytes,
                         JsonInt(object, "bytes", StdView(where), 1, int64_t{1} << 48));
  blob.bytes = static_cast<uint64_t>(bytes);
  return blob;
}

const char* ReplyName(ReplyDType reply) { return reply == ReplyDType::kBF16 ? "bf16" : "f32"; }

// The parts that decide results, in the form they have in the manifest.
Json Identity(const Manifest& manifest) {
  Json experts = Json::array();
  for (const ManifestBlob& blob : manifest.experts) experts.push_back(BlobJson(blob));
  return {
      {"config", ModelConfigToJson(manifest.config)},
      {"numerics_version", kNumericsVersion},
      {"device_profile", kDeviceProfile},
      {"reply", ReplyName(manifest.reply)},
      {"router",
       {{"blob", BlobJson(manifest.router)},
        {"embedding", WeightFormatName(manifest.embedding)},
        {"head", WeightFormatName(manifest.head)},
        {"layers", LayersJson(manifest.layers, kAttentionFields)}}},
      {"experts", {{"blobs", experts}, {"layers", LayersJson(manifest.layers, kExpertFields)}}}};
}

absl::Status CheckVersions(const Json& json, absl::string_view where) {
  const std::string_view w = StdView(where);
  OCTET_ASSIGN_OR_RETURN(const std::string format, JsonString(json, "format", w));
  if (absl::string_view(format) != kFormatName) {
    return Bad(where, "format", JsonFind(json, "format"), absl::StrCat("\"", kFormatName, "\""));
  }
  const std::pair<const char*, uint32_t> versions[] = {{"version", kPackageVersion},
                                                       {"numerics_version", kNumericsVersion}};
  for (const auto& [key, supported] : versions) {
    OCTET_ASSIGN_OR_RETURN(const int64_t version, JsonInt(json, key, w, 0, UINT32_MAX));
    if (version != supported) {
      return absl::FailedPreconditionError(absl::StrCat(where, ": ", key, " is ", version,
                                                        ", this program reads ", supported,
                                                        "; pack the model again from its source"));
    }
  }
  return absl::OkStatus();
}

absl::Status ParseRouter(const Json& json, absl::string_view where, Manifest* manifest) {
  const Json* router = JsonFind(json, "router");
  if (router == nullptr || !router->is_object()) return Bad(where, "router", router, "an object");
  const std::string router_where = absl::StrCat(where, ": router");
  OCTET_ASSIGN_OR_RETURN(manifest->embedding, ParseFormat(*router, "embedding", router_where));
  OCTET_ASSIGN_OR_RETURN(manifest->head, ParseFormat(*router, "head", router_where));
  if (manifest->config.tied_embeddings && manifest->head != manifest->embedding) {
    return Bad(router_where, "head", JsonFind(*router, "head"),
               "the embedding's format, to which it is tied");
  }
  OCTET_RETURN_IF_ERROR(ParseLayers(*router, kAttentionFields, router_where, &manifest->layers));
  const Json* blob = JsonFind(*router, "blob");
  if (blob == nullptr || !blob->is_object()) return Bad(router_where, "blob", blob, "an object");
  OCTET_ASSIGN_OR_RETURN(manifest->router, ParseBlob(*blob, router_where));
  return absl::OkStatus();
}

absl::Status ParseExperts(const Json& json, absl::string_view where, Manifest* manifest) {
  const Json* experts = JsonFind(json, "experts");
  if (experts == nullptr || !experts->is_object()) {
    return Bad(where, "experts", experts, "an object");
  }
  const std::string experts_where = absl::StrCat(where, ": experts");
  OCTET_RETURN_IF_ERROR(ParseLayers(*experts, kExpertFields, experts_where, &manifest->layers));
  for (size_t i = 0; i < manifest->layers.size(); ++i) {
    if (manifest->layers[i].gate != manifest->layers[i].up) {
      return absl::InvalidArgumentError(
          absl::StrCat(experts_where, ": layer ", i, ": gate and up differ in format"));
    }
  }
  const Json* blobs = JsonFind(*experts, "blobs");
  if (blobs == nullptr || !blobs->is_array() || blobs->size() != manifest->config.experts) {
    return Bad(experts_where, "blobs", blobs,
               absl::StrCat("an array of ", manifest->config.experts));
  }
  for (size_t i = 0; i < blobs->size(); ++i) {
    OCTET_ASSIGN_OR_RETURN(ManifestBlob blob,
                           ParseBlob((*blobs)[i], absl::StrCat(experts_where, ": expert ", i)));
    manifest->experts.push_back(std::move(blob));
  }
  return absl::OkStatus();
}

}  // namespace

std::string ComputeDigest(const Manifest& manifest) {
  return DigestHex(Sha256(Identity(manifest).dump()));
}

std::string ModelVersion(const Manifest& manifest) {
  return DigestHex(Sha256(absl::StrCat(ComputeDigest(manifest), "/", manifest.tokenizer_sha256)))
      .substr(0, 16);
}

std::string ManifestToJson(const Manifest& manifest) {
  Json json = Identity(manifest);
  json["format"] = kFormatName;
  json["version"] = kPackageVersion;
  json["name"] = manifest.name;
  json["compute_digest"] = ComputeDigest(manifest);
  json["model_version"] = ModelVersion(manifest);
  json["tokenizer"] = manifest.tokenizer_sha256.empty()
                          ? Json()
                          : Json{{"file", "tokenizer.json"}, {"sha256", manifest.tokenizer_sha256}};
  return absl::StrCat(json.dump(1, ' ', true, Json::error_handler_t::replace), "\n");
}

absl::StatusOr<Manifest> ParseManifest(absl::string_view text, absl::string_view where) {
  const auto parsed = ParseJsonBounded(StdView(text), kManifestBytesMax);
  if (!parsed.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(where, ": ", parsed.status().message()));
  }
  const Json& json = *parsed;
  if (!json.is_object()) return Bad(where, "", &json, "an object");
  OCTET_RETURN_IF_ERROR(CheckVersions(json, where));
  Manifest manifest;
  OCTET_ASSIGN_OR_RETURN(manifest.name, JsonString(json, "name", StdView(where)));
  if (manifest.name.size() > kNameBytesMax) {
    return Bad(where, "name", JsonFind(json, "name"),
               absl::StrCat("at most ", kNameBytesMax, " bytes"));
  }
  const Json* config = JsonFind(json, "config");
  if (config == nullptr || !config->is_object()) return Bad(where, "config", config, "an object");
  OCTET_ASSIGN_OR_RETURN(manifest.config,
                         ModelConfigFromJson(*config, absl::StrCat(where, ": config")));
  OCTET_ASSIGN_OR_RETURN(const std::string reply, JsonString(json, "reply", StdView(where)));
  if (reply != "f32" && reply != "bf16") {
    return Bad(where, "reply", JsonFind(json, "reply"), "\"f32\" or \"bf16\"");
  }
  manifest.reply = reply == "bf16" ? ReplyDType::kBF16 : ReplyDType::kF32;
  manifest.layers.resize(manifest.config.layers);
  OCTET_RETURN_IF_ERROR(ParseRouter(json, where, &manifest));
  OCTET_RETURN_IF_ERROR(ParseExperts(json, where, &manifest));
  if (const Json* tokenizer = JsonFind(json, "tokenizer"); tokenizer != nullptr) {
    OCTET_ASSIGN_OR_RETURN(manifest.tokenizer_sha256,
                           ParseDigest(*tokenizer, "sha256", absl::StrCat(where, ": tokenizer")));
  }
  OCTET_ASSIGN_OR_RETURN(const std::string digest, ParseDigest(json, "compute_digest", where));
  if (digest != ComputeDigest(manifest)) {
    return absl::DataLossError(
        absl::StrCat(where, ": compute_digest does not match the contents; the file is damaged"));
  }
  return manifest;
}

}  // namespace octet
