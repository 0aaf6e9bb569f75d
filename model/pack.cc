#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/log.h"
#include "core/sha256.h"
#include "core/status_macros.h"
#include "model/blob_writer.h"
#include "model/manifest.h"
#include "model/mapped_file.h"
#include "model/model_package.h"
#include "model/pack_options.h"
#include "model/source.h"

namespace octet {
namespace {

namespace fs = std::filesystem;

// A directory beside the destination that disappears unless it is kept.
class ScratchDirectory {
 public:
  static absl::StatusOr<ScratchDirectory> Create(const std::string& destination) {
    std::string path = absl::StrCat(destination, ".partial-XXXXXX");
    if (mkdtemp(path.data()) == nullptr) return FileError(errno, "cannot create", path);
    return ScratchDirectory(std::move(path));
  }
  ScratchDirectory(ScratchDirectory&& other) noexcept : path_(std::exchange(other.path_, "")) {}
  ScratchDirectory& operator=(ScratchDirectory&&) = delete;
  ~ScratchDirectory() {
    std::error_code ignored;
    if (!path_.empty()) fs::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }

  absl::Status MoveTo(const std::string& destination) {
    // mkdtemp's 0700 would keep other users from reading the package.
    std::error_code ignored;
    fs::permissions(path_, fs::perms(0755), ignored);
    if (rename(path_.c_str(), destination.c_str()) != 0) {
      return FileError(errno, "cannot create", destination);
    }
    path_.clear();
    return absl::OkStatus();
  }

 private:
  explicit ScratchDirectory(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

// Everything that goes into a package, decided before anything is written.
struct PackPlan {
  Manifest manifest;
  std::vector<BlobTensor> router;
  std::map<uint32_t, std::vector<BlobTensor>> experts;  // by original expert
  std::vector<uint32_t> original_expert;                // [expert]
};

class Planner {
 public:
  Planner(ModelSource* source, const ResolvedPackOptions& options)
      : source_(source), options_(options), config_(source->config()) {}

  absl::StatusOr<PackPlan> Run() {
    plan_.manifest.config = config_;
    plan_.manifest.reply = options_.reply;
    plan_.manifest.layers.resize(config_.layers);
    OCTET_RETURN_IF_ERROR(PlanRouter());
    for (uint32_t expert = 0; expert < config_.experts; ++expert) {
      const uint32_t original = source_->OriginalExpert(expert);
      plan_.original_expert.push_back(original);
      if (!plan_.experts.contains(original)) OCTET_RETURN_IF_ERROR(PlanExpert(original));
    }
    OCTET_RETURN_IF_ERROR(source_->CheckNothingUnused());
    return std::move(plan_);
  }

 private:
  static BlobTensor Vector(std::string name, SourceMatrix matrix) {
    BlobTensor tensor{std::move(name), std::move(matrix), WeightFormat(), true};
    return tensor;
  }

  absl::Status AddVector(std::string name, WeightRole role, uint32_t layer) {
    OCTET_ASSIGN_OR_RETURN(SourceMatrix matrix, source_->Matrix(role, layer, 0));
    plan_.router.push_back(Vector(std::move(name), std::move(matrix)));
    return absl::OkStatus();
  }

  // A router's matrix in the format that `target` says, or its own; returns that format.
  absl::StatusOr<WeightFormat> AddMatrix(std::string name, WeightRole role, uint32_t layer,
                                         const std::optional<WeightFormat>& target) {
    OCTET_ASSIGN_OR_RETURN(SourceMatrix matrix, source_->Matrix(role, layer, 0));
    const WeightFormat format = target.value_or(matrix.format);
    plan_.router.push_back({std::move(name), std::move(matrix), format, false});
    return format;
  }

  absl::Status PlanRouter() {
    OCTET_ASSIGN_OR_RETURN(plan_.manifest.embedding,
                           AddMatrix("embedding", WeightRole::kEmbedding, 0, options_.attention));
    plan_.manifest.head = plan_.manifest.embedding;
    if (!config_.tied_embeddings) {
      OCTET_ASSIGN_OR_RETURN(plan_.manifest.head,
                             AddMatrix("head", WeightRole::kHead, 0, options_.attention));
    }
    OCTET_RETURN_IF_ERROR(AddVector("final_norm", WeightRole::kFinalNorm, 0));
    for (uint32_t layer = 0; layer < config_.layers; ++layer) {
      OCTET_RETURN_IF_ERROR(PlanRouterLayer(layer));
    }
    return absl::OkStatus();
  }

  absl::Status PlanRouterLayer(uint32_t layer) {
    const std::string prefix = absl::StrCat("layers.", layer, ".");
    ManifestLayer& formats = plan_.manifest.layers[layer];
    OCTET_RETURN_IF_ERROR(AddVector(prefix + "attention_norm", WeightRole::kAttentionNorm, layer));
    OCTET_ASSIGN_OR_RETURN(formats.q,
                           AddMatrix(prefix + "q", WeightRole::kQ, layer, options_.attention));
    OCTET_ASSIGN_OR_RETURN(formats.k,
                           AddMatrix(prefix + "k", WeightRole::kK, layer, options_.attention));
    OCTET_ASSIGN_OR_RETURN(formats.v,
                           AddMatrix(prefix + "v", WeightRole::kV, layer, options_.attention));
    OCTET_ASSIGN_OR_RETURN(formats.o,
                           AddMatrix(prefix + "o", WeightRole::kO, layer, options_.attention));
    OCTET_RETURN_IF_ERROR(AddVector(prefix + "ffn_norm", WeightRole::kFfnNorm, layer));
    std::vector<std::pair<const char*, WeightRole>> gates;
    if (config_.gate == GateKind::kLinear) gates = {{"gate", WeightRole::kGate}};
    if (config_.gate == GateKind::kAttention) {
      gates = {{"gate_q", WeightRole::kGateQ},
               {"gate_k", WeightRole::kGateK},
               {"gate_v", WeightRole::kGateV}};
    }
    const WeightFormat f32;
    for (const auto& [name, role] : gates) {
      OCTET_RETURN_IF_ERROR(AddMatrix(absl::StrCat(prefix, name), role, layer, f32).status());
    }
    return absl::OkStatus();
  }

  absl::Status PlanExpert(uint32_t expert) {
    std::vector<BlobTensor>& tensors = plan_.experts[expert];
    const struct {
      const char* name;
      WeightRole role;
      WeightFormat ManifestLayer::*format;
    } kParts[] = {{"gate", WeightRole::kExpertGate, &ManifestLayer::gate},
                  {"up", WeightRole::kExpertUp, &ManifestLayer::up},
                  {"down", WeightRole::kExpertDown, &ManifestLayer::down}};
    for (uint32_t layer = 0; layer < config_.layers; ++layer) {
      ManifestLayer& formats = plan_.manifest.layers[layer];
      for (const auto& part : kParts) {
        OCTET_ASSIGN_OR_RETURN(SourceMatrix matrix, source_->Matrix(part.role, layer, expert));
        const WeightFormat format = options_.experts.value_or(matrix.format);
        if (plan_.experts.size() == 1) formats.*part.format = format;
        if (formats.*part.format != format) {
          return Differ(matrix.name, format, absl::StrCat("expert 0's ", part.name),
                        formats.*part.format);
        }
        tensors.push_back(
            {absl::StrCat("layers.", layer, ".", part.name), std::move(matrix), format, false});
      }
      if (formats.gate != formats.up) {
        return Differ(tensors[tensors.size() - 2].matrix.name, formats.up,
                      tensors[tensors.size() - 3].matrix.name, formats.gate);
      }
    }
    return absl::OkStatus();
  }

  static absl::Status Differ(absl::string_view name, const WeightFormat& format,
                             absl::string_view other, const WeightFormat& other_format) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor \"", name, "\" is ", WeightFormatName(format), " but ", other,
                     " of that layer is ", WeightFormatName(other_format),
                     "; they must share a format: choose one with --experts, e.g. int8"));
  }

  ModelSource* const source_;
  const ResolvedPackOptions& options_;
  const ModelConfig config_;
  PackPlan plan_;
};

uint64_t TotalBytes(const PackPlan& plan) {
  uint64_t total = 0;
  for (const BlobTensor& tensor : plan.router) total += BlobTensorBytes(tensor);
  for (const auto& [expert, tensors] : plan.experts) {
    for (const BlobTensor& tensor : tensors) total += BlobTensorBytes(tensor);
  }
  return total;
}

absl::Status WriteBlobs(PackPlan* plan, const std::string& directory, ProgressFn progress) {
  const uint64_t total = TotalBytes(*plan);
  uint64_t done = 0;
  const auto on_bytes = [&](uint64_t bytes) { progress("packing", done += bytes, total); };
  OCTET_ASSIGN_OR_RETURN(plan->manifest.router, WriteBlob(plan->router, directory, on_bytes));
  std::map<uint32_t, ManifestBlob> blobs;
  for (const auto& [expert, tensors] : plan->experts) {
    OCTET_ASSIGN_OR_RETURN(blobs[expert], WriteBlob(tensors, directory, on_bytes));
  }
  for (const uint32_t original : plan->original_expert) {
    plan->manifest.experts.push_back(blobs[original]);
  }
  return absl::OkStatus();
}

// Adds the tokenizer and what it knows about the end of a text.
absl::Status WriteTokenizer(const ModelSource& source, const std::string& directory,
                            Manifest* manifest) {
  const auto tokenizer = source.LoadTokenizer();
  if (absl::IsNotFound(tokenizer.status())) {
    LogWarning("the model brings no tokenizer: only token ids will work with the package");
    return absl::OkStatus();
  }
  OCTET_RETURN_IF_ERROR(tokenizer.status());
  ModelConfig& config = manifest->config;
  if ((*tokenizer)->vocab_size() > config.vocab) {
    LogWarning("the tokenizer has ", (*tokenizer)->vocab_size(), " ids, the embedding only ",
               config.vocab, " rows");
  }
  const TokenId bos = (*tokenizer)->bos_id().value_or(-1);
  if (config.bos_id < 0 && bos < static_cast<TokenId>(config.vocab)) config.bos_id = bos;
  std::vector<TokenId> eos = config.eos_ids;
  for (const TokenId id : (*tokenizer)->eos_ids()) {
    if (id < static_cast<TokenId>(config.vocab)) eos.push_back(id);
  }
  std::sort(eos.begin(), eos.end());
  eos.erase(std::unique(eos.begin(), eos.end()), eos.end());
  config.eos_ids = std::move(eos);
  const std::string text = (*tokenizer)->Serialize();
  manifest->tokenizer_sha256 = DigestHex(Sha256(text));
  return WriteSmallFile(absl::StrCat(directory, "/tokenizer.json"), text);
}

// "smollm2" of "/models/smollm2.gguf".
std::string NameOf(absl::string_view source) {
  std::error_code ignored;
  const fs::path path = fs::weakly_canonical(std::string(source), ignored);
  std::string name = path.filename().string();
  if (absl::EndsWith(name, ".gguf")) name.resize(name.size() - 5);
  return name.substr(0, 128);
}

absl::StatusOr<std::string> PrepareDestination(absl::string_view destination) {
  std::string path(destination);
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  std::error_code error;
  if (path.empty()) return absl::InvalidArgumentError("the destination of packing has no name");
  if (fs::exists(path, error)) {
    return absl::AlreadyExistsError(absl::StrCat(path, " exists already"));
  }
  const fs::path parent = fs::path(path).parent_path();
  if (!parent.empty()) fs::create_directories(parent, error);
  if (error) return FileError(error.value(), "cannot create", parent.string());
  return path;
}

}  // namespace

absl::Status PackModel(absl::string_view source, absl::string_view destination,
                       const PackOptions& options, ProgressFn progress) {
  OCTET_ASSIGN_OR_RETURN(auto model, OpenModelSource(source));
  OCTET_ASSIGN_OR_RETURN(const ResolvedPackOptions resolved,
                         ResolvePackOptions(options, model->kind()));
  if (resolved.upcycle != 0) {
    OCTET_ASSIGN_OR_RETURN(
        model, UpcycleSource(std::move(model), resolved.upcycle, resolved.upcycle_seed));
  }
  OCTET_ASSIGN_OR_RETURN(PackPlan plan, Planner(model.get(), resolved).Run());
  OCTET_ASSIGN_OR_RETURN(const std::string path, PrepareDestination(destination));
  OCTET_ASSIGN_OR_RETURN(ScratchDirectory scratch, ScratchDirectory::Create(path));
  const std::string blobs = absl::StrCat(scratch.path(), "/blobs");
  std::error_code error;
  if (!fs::create_directory(blobs, error)) return FileError(error.value(), "cannot create", blobs);
  plan.manifest.name = NameOf(source);
  OCTET_RETURN_IF_ERROR(WriteTokenizer(*model, scratch.path(), &plan.manifest));
  OCTET_RETURN_IF_ERROR(WriteBlobs(&plan, blobs, progress));
  OCTET_RETURN_IF_ERROR(WriteSmallFile(absl::StrCat(scratch.path(), "/manifest.json"),
                                       ManifestToJson(plan.manifest)));
  OCTET_RETURN_IF_ERROR(SyncDirectory(blobs));
  OCTET_RETURN_IF_ERROR(SyncDirectory(scratch.path()));
  return scratch.MoveTo(path);
}

}  // namespace octet
