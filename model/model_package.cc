#include "model/model_package.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <system_error>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "core/limits.h"
#include "core/mutex.h"
#include "core/sha256.h"
#include "core/status_macros.h"
#include "model/file_digest.h"
#include "model/manifest.h"
#include "model/mapped_file.h"
#include "model/package_cache.h"
#include "model/safetensors.h"
#include "model/source.h"

namespace octet {

struct ModelPackage::Blobs {
  Blobs(Manifest m, std::optional<CacheEntry> entry)
      : manifest(std::move(m)), cache_entry(std::move(entry)) {}

  const Manifest manifest;
  const std::optional<CacheEntry> cache_entry;  // set where the package can be made again
  // Mappings whose digest was checked, by digest, as long as somebody uses them: equal experts are
  // mapped and checked once.
  mutable Mutex mu;
  mutable absl::flat_hash_map<std::string, std::weak_ptr<const MappedFile>> checked
      OCTET_GUARDED_BY(mu);
};

namespace {

// The tensors of one mapped blob, handed out with every size checked.
class BlobReader {
 public:
  // `checked` is a mapping of this blob whose digest is known to be right, or null.
  static absl::StatusOr<BlobReader> Open(const std::string& path, const ManifestBlob& blob,
                                         std::shared_ptr<const MappedFile> checked, int threads) {
    BlobReader reader;
    reader.file_ = std::move(checked);
    if (reader.file_ == nullptr) {
      OCTET_ASSIGN_OR_RETURN(reader.file_, MapAndCheck(path, blob, threads));
    }
    OCTET_ASSIGN_OR_RETURN(reader.header_, ParseSafetensors(reader.file_->bytes(), path));
    return reader;
  }

  absl::StatusOr<PackedWeights> Matrix(const std::string& name, const WeightFormat& format,
                                       std::pair<size_t, size_t> shape) const {
    OCTET_RETURN_IF_ERROR(CheckInputs(format, shape.second));
    PackedWeights weights;
    weights.format = format;
    weights.n = shape.first;
    weights.k = shape.second;
    OCTET_ASSIGN_OR_RETURN(weights.data,
                           Find(name, "U8", PackedBytes(format, shape.first, shape.second)));
    return weights;
  }

  absl::StatusOr<const float*> Vector(const std::string& name, size_t count) const {
    const uint64_t padded = (count + 15) / 16 * 16;
    OCTET_ASSIGN_OR_RETURN(const uint8_t* data, Find(name, "F32", padded * sizeof(float)));
    return reinterpret_cast<const float*>(data);
  }

  const std::shared_ptr<const MappedFile>& file() const { return file_; }

 private:
  BlobReader() = default;

  static absl::StatusOr<std::shared_ptr<const MappedFile>> MapAndCheck(const std::string& path,
                                                                       const ManifestBlob& blob,
                                                                       int threads) {
    OCTET_ASSIGN_OR_RETURN(auto file, MappedFile::Open(path));
    file->AdviseWillNeed();
    if (file->size() != blob.bytes ||
        DigestHex(ParallelTreeSha256(file->data(), file->size(), threads)) != blob.digest) {
      return absl::DataLossError(
          absl::StrCat(path, " does not match its digest in manifest.json: the file is damaged"));
    }
    return file;
  }

  absl::StatusOr<const uint8_t*> Find(const std::string& name, absl::string_view dtype,
                                      uint64_t bytes) const {
    const auto it = header_.tensors.find(name);
    if (it == header_.tensors.end()) {
      return absl::DataLossError(absl::StrCat(file_->path(), ": tensor \"", name, "\" is missing"));
    }
    const SafetensorsEntry& entry = it->second;
    if (entry.dtype != dtype || entry.bytes != bytes || entry.begin % 64 != 0) {
      return absl::DataLossError(absl::StrCat(file_->path(), ": tensor \"", name, "\" is ",
                                              entry.bytes, " bytes of ", entry.dtype, " at ",
                                              entry.begin, ", expected are ", bytes, " bytes of ",
                                              dtype, " on a 64-byte boundary"));
    }
    return file_->data() + entry.begin;
  }

  std::shared_ptr<const MappedFile> file_;
  SafetensorsHeader header_;
};

absl::Status MapRouterLayer(const BlobReader& blob, const Manifest& manifest, uint32_t layer,
                            RouterLayerWeights* out) {
  const ModelConfig& config = manifest.config;
  const ManifestLayer& formats = manifest.layers[layer];
  const std::string prefix = absl::StrCat("layers.", layer, ".");
  const auto matrix = [&](const char* name, const WeightFormat& format, WeightRole role) {
    return blob.Matrix(prefix + name, format, WeightShape(config, role));
  };
  OCTET_ASSIGN_OR_RETURN(out->attention_norm,
                         blob.Vector(prefix + "attention_norm", config.hidden));
  OCTET_ASSIGN_OR_RETURN(out->q, matrix("q", formats.q, WeightRole::kQ));
  OCTET_ASSIGN_OR_RETURN(out->k, matrix("k", formats.k, WeightRole::kK));
  OCTET_ASSIGN_OR_RETURN(out->v, matrix("v", formats.v, WeightRole::kV));
  OCTET_ASSIGN_OR_RETURN(out->o, matrix("o", formats.o, WeightRole::kO));
  OCTET_ASSIGN_OR_RETURN(out->ffn_norm, blob.Vector(prefix + "ffn_norm", config.hidden));
  const WeightFormat f32;
  if (config.gate == GateKind::kLinear) {
    OCTET_ASSIGN_OR_RETURN(out->gate, matrix("gate", f32, WeightRole::kGate));
  }
  if (config.gate == GateKind::kAttention) {
    OCTET_ASSIGN_OR_RETURN(out->gate_q, matrix("gate_q", f32, WeightRole::kGateQ));
    OCTET_ASSIGN_OR_RETURN(out->gate_k, matrix("gate_k", f32, WeightRole::kGateK));
    OCTET_ASSIGN_OR_RETURN(out->gate_v, matrix("gate_v", f32, WeightRole::kGateV));
  }
  return absl::OkStatus();
}

// Tensor cores take tiles of 64 by 64.
constexpr uint32_t kHopperTile = 64;

absl::Status CheckHopperBf16(const Manifest& manifest) {
  const ModelConfig& config = manifest.config;
  if (config.hidden % kHopperTile != 0 || config.intermediate % kHopperTile != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("numerics: hopper-bf16 needs experts of multiples of ", kHopperTile,
                     ", these are ", config.hidden, " by ", config.intermediate));
  }
  for (size_t layer = 0; layer < manifest.layers.size(); ++layer) {
    const ManifestLayer& formats = manifest.layers[layer];
    for (const WeightFormat& format : {formats.gate, formats.up, formats.down}) {
      if (format.kind == WeightKind::kBF16) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("numerics: hopper-bf16 needs experts in bf16, those of layer ", layer,
                       " are in ", WeightFormatName(format), " (octet pack --experts bf16)"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

// Fills a package, the only maker of them, and opens its blobs.
class PackageLoader {
 public:
  // Opens a blob; one that is damaged and belongs to the cache is made again, once.
  static absl::StatusOr<BlobReader> OpenBlob(const ModelPackage& package, const ManifestBlob& blob,
                                             int threads) {
    const ModelPackage::Blobs& blobs = *package.blobs_;
    const std::string path = BlobPath(package.directory_, blob);
    // Held while checking, so that two threads do not check one blob at once.
    MutexLock lock(blobs.mu);
    std::weak_ptr<const MappedFile>& checked = blobs.checked[blob.digest];
    auto reader = BlobReader::Open(path, blob, checked.lock(), threads);
    if (!reader.ok() && blobs.cache_entry.has_value()) {
      OCTET_RETURN_IF_ERROR(RepairCacheEntry(*blobs.cache_entry));
      reader = BlobReader::Open(path, blob, nullptr, threads);
    }
    if (reader.ok()) checked = reader->file();
    return reader;
  }

  static absl::StatusOr<std::shared_ptr<const ModelPackage>> Load(
      const std::string& directory, std::optional<CacheEntry> cache_entry,
      ExpertNumerics numerics) {
    OCTET_ASSIGN_OR_RETURN(LoadedManifest loaded, LoadManifest(directory));
    std::shared_ptr<ModelPackage> package(new ModelPackage());
    const Manifest& manifest = loaded.manifest;
    package->config_ = manifest.config;
    package->name_ = manifest.name;
    package->model_version_ = ModelVersion(manifest);
    package->compute_digest_ = ComputeDigest(manifest);
    package->numerics_ = numerics;
    if (numerics == ExpertNumerics::kHopperBf16) {
      OCTET_RETURN_IF_ERROR(CheckHopperBf16(manifest));
      package->compute_digest_ =
          DigestHex(Sha256(absl::StrCat(package->compute_digest_, " hopper-bf16 1")));
    }
    package->directory_ = directory;
    package->manifest_json_ = std::move(loaded.text);
    for (const ManifestLayer& layer : manifest.layers) {
      WireFormat wire;
      wire.hidden = manifest.config.hidden;
      wire.activation_group =
          static_cast<uint32_t>(ActivationGroup(layer.gate, manifest.config.hidden));
      wire.reply = manifest.reply;
      package->wire_formats_.push_back(wire);
    }
    for (const ManifestBlob& blob : manifest.experts) {
      package->expert_bytes_ = std::max(package->expert_bytes_, blob.bytes);
    }
    package->blobs_ = std::make_shared<const ModelPackage::Blobs>(std::move(loaded.manifest),
                                                                  std::move(cache_entry));
    return std::shared_ptr<const ModelPackage>(std::move(package));
  }
};

absl::StatusOr<std::shared_ptr<const ModelPackage>> ModelPackage::Open(absl::string_view path,
                                                                       const OpenOptions& options,
                                                                       ProgressFn progress) {
  const std::string name(path);
  std::error_code error;
  if (std::filesystem::exists(name + "/manifest.json", error)) {
    return PackageLoader::Load(name, std::nullopt, options.numerics);
  }
  OCTET_ASSIGN_OR_RETURN(CacheEntry entry,
                         FindCacheEntry(path, options.cache_directory, options.pack));
  OCTET_RETURN_IF_ERROR(FillCacheEntry(entry, progress));
  const std::string directory = entry.directory;
  return PackageLoader::Load(directory, std::move(entry), options.numerics);
}

absl::StatusOr<std::unique_ptr<Tokenizer>> ModelPackage::LoadTokenizer() const {
  const std::string& expected = blobs_->manifest.tokenizer_sha256;
  if (expected.empty()) {
    return absl::NotFoundError(absl::StrCat(
        directory_, " has no tokenizer, because its source had none: use token ids instead"));
  }
  const std::string path = absl::StrCat(directory_, "/tokenizer.json");
  OCTET_ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(path, kTokenizerBytesMax));
  if (DigestHex(Sha256(text)) != expected) {
    return absl::DataLossError(
        absl::StrCat(path, " does not match its digest in manifest.json: the file is damaged"));
  }
  return DeserializeTokenizer(text);
}

absl::StatusOr<RouterWeights> ModelPackage::MapRouter(int threads) const {
  const Manifest& manifest = blobs_->manifest;
  OCTET_ASSIGN_OR_RETURN(const BlobReader blob,
                         PackageLoader::OpenBlob(*this, manifest.router, threads));
  RouterWeights weights;
  OCTET_ASSIGN_OR_RETURN(
      weights.embedding,
      blob.Matrix("embedding", manifest.embedding, WeightShape(config_, WeightRole::kEmbedding)));
  weights.head = weights.embedding;
  if (!config_.tied_embeddings) {
    OCTET_ASSIGN_OR_RETURN(
        weights.head, blob.Matrix("head", manifest.head, WeightShape(config_, WeightRole::kHead)));
  }
  OCTET_ASSIGN_OR_RETURN(weights.final_norm, blob.Vector("final_norm", config_.hidden));
  weights.layers.resize(config_.layers);
  for (uint32_t layer = 0; layer < config_.layers; ++layer) {
    OCTET_RETURN_IF_ERROR(MapRouterLayer(blob, manifest, layer, &weights.layers[layer]));
  }
  weights.mapping = blob.file();
  return weights;
}

absl::StatusOr<MappedExpert> ModelPackage::MapExpert(ExpertId expert, int threads) const {
  const Manifest& manifest = blobs_->manifest;
  if (expert.value() >= manifest.experts.size()) {
    return absl::InvalidArgumentError(absl::StrCat("expert ", expert.value(), " of a model with ",
                                                   manifest.experts.size(), " experts"));
  }
  const ManifestBlob& entry = manifest.experts[expert.value()];
  OCTET_ASSIGN_OR_RETURN(const BlobReader blob, PackageLoader::OpenBlob(*this, entry, threads));
  MappedExpert mapped;
  mapped.layers.resize(config_.layers);
  for (uint32_t layer = 0; layer < config_.layers; ++layer) {
    const std::string prefix = absl::StrCat("layers.", layer, ".");
    const ManifestLayer& formats = manifest.layers[layer];
    ExpertWeights& out = mapped.layers[layer];
    const auto shape_in = WeightShape(config_, WeightRole::kExpertGate);
    const auto shape_out = WeightShape(config_, WeightRole::kExpertDown);
    OCTET_ASSIGN_OR_RETURN(out.gate, blob.Matrix(prefix + "gate", formats.gate, shape_in));
    OCTET_ASSIGN_OR_RETURN(out.up, blob.Matrix(prefix + "up", formats.up, shape_in));
    OCTET_ASSIGN_OR_RETURN(out.down, blob.Matrix(prefix + "down", formats.down, shape_out));
  }
  mapped.bytes = entry.bytes;
  mapped.memory = blob.file();
  mapped.file = blob.file()->bytes();
  mapped.digest = entry.digest;
  return mapped;
}

}  // namespace octet
