#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/check.h"
#include "core/limits.h"
#include "core/status_macros.h"
#include "model/hf_config.h"
#include "model/mapped_file.h"
#include "model/safetensors.h"
#include "model/source.h"

namespace octet {
namespace {

// A place where a weight may be: a whole tensor, or, with `slices`, rows of a tensor [slices, rows,
// k] that belong to one expert.
struct Candidate {
  std::string name;
  uint64_t slices = 0;
  uint64_t slice = 0;
  uint64_t slice_rows = 0;  // rows of a slice; more than the weight's where two share it
  uint64_t row_begin = 0;
};

std::string Shape(const std::vector<uint64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

class HfSource : public ModelSource {
 public:
  HfSource(std::string directory, ModelConfig config, std::unique_ptr<SafetensorsReader> reader)
      : directory_(std::move(directory)), config_(std::move(config)), reader_(std::move(reader)) {}

  const ModelConfig& config() const override { return config_; }
  std::string kind() const override { return "hf"; }
  absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer() const override {
    return LoadTokenizerFromDirectory(directory_);
  }
  absl::StatusOr<SourceMatrix> Matrix(WeightRole role, uint32_t layer, uint32_t expert) override;
  absl::Status CheckNothingUnused() const override;

 private:
  std::vector<Candidate> Candidates(WeightRole role, uint32_t layer, uint32_t expert) const;
  std::vector<Candidate> ExpertCandidates(WeightRole role, const std::string& prefix,
                                          uint32_t expert) const;
  absl::StatusOr<SourceMatrix> Resolve(WeightRole role, const Candidate& candidate,
                                       const SafetensorsTensor& tensor) const;

  const std::string directory_;
  const ModelConfig config_;
  const std::unique_ptr<SafetensorsReader> reader_;
  absl::flat_hash_set<std::string> used_;
};

std::vector<Candidate> HfSource::ExpertCandidates(WeightRole role, const std::string& prefix,
                                                  uint32_t expert) const {
  const bool gate = role == WeightRole::kExpertGate;
  const bool up = role == WeightRole::kExpertUp;
  if (config_.gate == GateKind::kNone) {
    return {{absl::StrCat(prefix, "mlp.", gate ? "gate" : (up ? "up" : "down"), "_proj.weight")}};
  }
  const std::string single = absl::StrCat(prefix, "block_sparse_moe.experts.", expert, ".",
                                          gate ? "w1" : (up ? "w3" : "w2"), ".weight");
  const uint64_t intermediate = config_.intermediate;
  if (gate || up) {
    return {{single},
            {absl::StrCat(prefix, "mlp.experts.gate_up_proj"), config_.experts, expert,
             2 * intermediate, gate ? 0 : intermediate}};
  }
  return {
      {single},
      {absl::StrCat(prefix, "mlp.experts.down_proj"), config_.experts, expert, config_.hidden, 0}};
}

std::vector<Candidate> HfSource::Candidates(WeightRole role, uint32_t layer,
                                            uint32_t expert) const {
  const std::string prefix = absl::StrCat("model.layers.", layer, ".");
  const auto gate = [&](const char* name) {
    return std::vector<Candidate>{{absl::StrCat(prefix, "block_sparse_moe.gate.", name, "weight")},
                                  {absl::StrCat(prefix, "mlp.gate.", name, "weight")}};
  };
  const auto attention = [&](const char* name) {
    return std::vector<Candidate>{{absl::StrCat(prefix, "self_attn.", name, "_proj.weight")}};
  };
  switch (role) {
    case WeightRole::kEmbedding:
      return {{"model.embed_tokens.weight"}};
    case WeightRole::kHead:
      return {{"lm_head.weight"}};
    case WeightRole::kFinalNorm:
      return {{"model.norm.weight"}};
    case WeightRole::kAttentionNorm:
      return {{absl::StrCat(prefix, "input_layernorm.weight")}};
    case WeightRole::kFfnNorm:
      return {{absl::StrCat(prefix, "post_attention_layernorm.weight")}};
    case WeightRole::kQ:
      return attention("q");
    case WeightRole::kK:
      return attention("k");
    case WeightRole::kV:
      return attention("v");
    case WeightRole::kO:
      return attention("o");
    case WeightRole::kGate:
      return gate("");
    case WeightRole::kGateQ:
      return gate("query.");
    case WeightRole::kGateK:
      return gate("key.");
    case WeightRole::kGateV:
      return gate("value.");
    case WeightRole::kExpertGate:
    case WeightRole::kExpertUp:
    case WeightRole::kExpertDown:
      return ExpertCandidates(role, prefix, expert);
  }
  OCTET_CHECK(false);
}

absl::StatusOr<SourceMatrix> HfSource::Resolve(WeightRole role, const Candidate& candidate,
                                               const SafetensorsTensor& tensor) const {
  const auto [n, k] = WeightShape(config_, role);
  std::vector<uint64_t> expected = {n, k};
  if (candidate.slices != 0) expected = {candidate.slices, candidate.slice_rows, k};
  const bool vector = role == WeightRole::kFinalNorm || role == WeightRole::kAttentionNorm ||
                      role == WeightRole::kFfnNorm;
  if (vector) expected = {k};
  if (tensor.shape != expected) {
    return absl::InvalidArgumentError(absl::StrCat(directory_, ": tensor \"", candidate.name,
                                                   "\" has shape ", Shape(tensor.shape),
                                                   ", config.json asks for ", Shape(expected)));
  }
  SourceMatrix matrix;
  matrix.name = candidate.name;
  const char* format = tensor.dtype == "F32"    ? "f32"
                       : tensor.dtype == "F16"  ? "f16"
                       : tensor.dtype == "BF16" ? "bf16"
                                                : nullptr;
  if (format == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(directory_, ": tensor \"", candidate.name,
                                                   "\" has dtype ", tensor.dtype,
                                                   ", allowed are F32, F16 and BF16"));
  }
  OCTET_ASSIGN_OR_RETURN(matrix.format, WeightFormatFromName(format));
  matrix.n = n;
  matrix.k = k;
  matrix.row_bytes = k * (matrix.format.bits / 8);
  matrix.data = tensor.data +
                (candidate.slice * candidate.slice_rows + candidate.row_begin) * matrix.row_bytes;
  return matrix;
}

absl::StatusOr<SourceMatrix> HfSource::Matrix(WeightRole role, uint32_t layer, uint32_t expert) {
  const std::vector<Candidate> candidates = Candidates(role, layer, expert);
  for (const Candidate& candidate : candidates) {
    const SafetensorsTensor* tensor = reader_->Find(candidate.name);
    if (tensor == nullptr) continue;
    used_.insert(candidate.name);
    return Resolve(role, candidate, *tensor);
  }
  return absl::InvalidArgumentError(absl::StrCat(
      directory_, ": tensor \"", candidates[0].name, "\" is missing",
      candidates.size() > 1 ? absl::StrCat(" (as is \"", candidates[1].name, "\")") : ""));
}

absl::Status HfSource::CheckNothingUnused() const {
  for (const auto& [name, tensor] : reader_->tensors()) {
    const bool harmless = absl::EndsWith(name, "rotary_emb.inv_freq") ||
                          (config_.tied_embeddings && name == "lm_head.weight");
    if (!used_.contains(name) && !harmless) {
      return absl::InvalidArgumentError(
          absl::StrCat(directory_, ": tensor \"", name, "\" is no part of the architecture \"",
                       config_.architecture, "\" that config.json describes"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<ModelSource>> OpenHfSource(absl::string_view directory) {
  const std::string config_path = absl::StrCat(directory, "/config.json");
  const auto text = ReadSmallFile(config_path, kConfigBytesMax);
  if (absl::IsNotFound(text.status())) {
    return absl::InvalidArgumentError(
        absl::StrCat(directory,
                     " has neither manifest.json (a packed model) nor config.json (a "
                     "Hugging Face model)"));
  }
  OCTET_RETURN_IF_ERROR(text.status());
  OCTET_ASSIGN_OR_RETURN(ModelConfig config, ParseHfConfig(*text, config_path));
  OCTET_ASSIGN_OR_RETURN(auto reader, SafetensorsReader::Open(directory));
  return std::unique_ptr<ModelSource>(
      new HfSource(std::string(directory), std::move(config), std::move(reader)));
}

}  // namespace octet
