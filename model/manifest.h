// manifest.json of a package: what the model is, how each weight is encoded, and the digest of
// every file.
#ifndef OCTET_MODEL_MANIFEST_H_
#define OCTET_MODEL_MANIFEST_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/model_config.h"
#include "core/weight_format.h"
#include "core/wire_format.h"

namespace octet {

inline constexpr uint32_t kPackageVersion = 1;

struct ManifestBlob {
  std::string digest;  // 64 lower-case hexadecimal characters: tree SHA-256, and its file name
  uint64_t bytes = 0;
};

struct ManifestLayer {
  WeightFormat q, k, v, o;
  WeightFormat gate, up, down;  // of every expert; gate and up are equal
};

struct Manifest {
  std::string name;
  ModelConfig config;
  ReplyDType reply = ReplyDType::kF32;
  WeightFormat embedding;
  WeightFormat head;  // equal to embedding where tied
  std::vector<ManifestLayer> layers;
  ManifestBlob router;
  std::vector<ManifestBlob> experts;  // [expert]; equal experts have the same blob
  // SHA-256 of tokenizer.json; empty where the package has none.
  std::string tokenizer_sha256;
};

// SHA-256 over configuration, formats, blob digests, numerics version and device profile, in
// hexadecimal: what decides every bit of a result.
std::string ComputeDigest(const Manifest& manifest);
// 16 hexadecimal characters that follow from the compute digest and the tokenizer.
std::string ModelVersion(const Manifest& manifest);

std::string ManifestToJson(const Manifest& manifest);
// Checks everything that can be checked without the blobs; text may be hostile. INVALID_ARGUMENT
// names `where` and the field; FAILED_PRECONDITION: made by another version; DATA_LOSS: the compute
// digest does not match the contents.
absl::StatusOr<Manifest> ParseManifest(absl::string_view text, absl::string_view where);

}  // namespace octet

#endif  // OCTET_MODEL_MANIFEST_H_
