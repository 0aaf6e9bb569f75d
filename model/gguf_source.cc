#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/check.h"
#include "core/status_macros.h"
#include "model/gguf.h"
#include "model/hf_config.h"
#include "model/source.h"

namespace octet {
namespace {

class GgufSource : public ModelSource {
 public:
  GgufSource(ModelConfig config, std::unique_ptr<GgufReader> reader)
      : config_(std::move(config)), reader_(std::move(reader)) {}

  const ModelConfig& config() const override { return config_; }
  std::string kind() const override { return "gguf"; }
  absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer() const override;
  absl::StatusOr<SourceMatrix> Matrix(WeightRole role, uint32_t layer, uint32_t expert) override;
  absl::Status CheckNothingUnused() const override;

 private:
  absl::StatusOr<SourceMatrix> ExpertMatrix(WeightRole role, uint32_t layer, uint32_t expert);
  // Matrix number `slice` of a tensor whose dims, fastest first, must be `dims`.
  absl::StatusOr<SourceMatrix> Resolve(const std::string& name, const std::vector<uint64_t>& dims,
                                       uint64_t slice);

  const ModelConfig config_;
  const std::unique_ptr<GgufReader> reader_;
  absl::flat_hash_set<std::string> used_;
};

// Name of a weight that is no expert's, without ".weight".
std::string TensorName(WeightRole role, uint32_t layer) {
  const auto block = [layer](const char* name) { return absl::StrCat("blk.", layer, ".", name); };
  switch (role) {
    case WeightRole::kEmbedding:
      return "token_embd";
    case WeightRole::kHead:
      return "output";
    case WeightRole::kFinalNorm:
      return "output_norm";
    case WeightRole::kAttentionNorm:
      return block("attn_norm");
    case WeightRole::kFfnNorm:
      return block("ffn_norm");
    case WeightRole::kQ:
      return block("attn_q");
    case WeightRole::kK:
      return block("attn_k");
    case WeightRole::kV:
      return block("attn_v");
    case WeightRole::kO:
      return block("attn_output");
    case WeightRole::kGate:
      return block("ffn_gate_inp");
    case WeightRole::kExpertGate:
      return block("ffn_gate");
    case WeightRole::kExpertUp:
      return block("ffn_up");
    case WeightRole::kExpertDown:
      return block("ffn_down");
    case WeightRole::kGateQ:
    case WeightRole::kGateK:
    case WeightRole::kGateV:
      break;  // GGUF has no such gate, and GgufModelConfig never asks for one
  }
  OCTET_CHECK(false);
}

absl::StatusOr<SourceMatrix> GgufSource::Resolve(const std::string& name,
                                                 const std::vector<uint64_t>& dims,
                                                 uint64_t slice) {
  const GgufTensor* tensor = reader_->Find(name);
  if (tensor == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat(reader_->path(), ": tensor \"", name, "\" is missing"));
  }
  if (tensor->dims != dims) {
    return absl::InvalidArgumentError(
        absl::StrCat(reader_->path(), ": tensor \"", name, "\" has dimensions {",
                     absl::StrJoin(tensor->dims, ", "), "}, the metadata asks for {",
                     absl::StrJoin(dims, ", "), "}"));
  }
  used_.insert(name);
  uint64_t rows = 1;
  for (size_t i = 1; i < tensor->dims.size(); ++i) rows *= tensor->dims[i];
  SourceMatrix matrix;
  matrix.name = name;
  matrix.format = tensor->format;
  matrix.n = dims.size() > 1 ? dims[1] : 1;
  matrix.k = dims[0];
  matrix.row_bytes = tensor->bytes / rows;
  matrix.data = reader_->Data(*tensor) + slice * matrix.n * matrix.row_bytes;
  return matrix;
}

absl::StatusOr<SourceMatrix> GgufSource::ExpertMatrix(WeightRole role, uint32_t layer,
                                                      uint32_t expert) {
  const std::string name = TensorName(role, layer);
  const auto [n, k] = WeightShape(config_, role);
  if (config_.gate == GateKind::kNone) return Resolve(absl::StrCat(name, ".weight"), {k, n}, 0);
  const std::string legacy = absl::StrCat(name, ".", expert, ".weight");
  if (reader_->Find(legacy) != nullptr) return Resolve(legacy, {k, n}, 0);
  return Resolve(absl::StrCat(name, "_exps.weight"), {k, n, config_.experts}, expert);
}

absl::StatusOr<SourceMatrix> GgufSource::Matrix(WeightRole role, uint32_t layer, uint32_t expert) {
  switch (role) {
    case WeightRole::kExpertGate:
    case WeightRole::kExpertUp:
    case WeightRole::kExpertDown:
      return ExpertMatrix(role, layer, expert);
    case WeightRole::kFinalNorm:
    case WeightRole::kAttentionNorm:
    case WeightRole::kFfnNorm:
      return Resolve(absl::StrCat(TensorName(role, layer), ".weight"), {config_.hidden}, 0);
    default:
      break;
  }
  const auto [n, k] = WeightShape(config_, role);
  OCTET_ASSIGN_OR_RETURN(SourceMatrix matrix,
                         Resolve(absl::StrCat(TensorName(role, layer), ".weight"), {k, n}, 0));
  if (role == WeightRole::kQ) matrix.interleaved_heads = config_.heads;
  if (role == WeightRole::kK) matrix.interleaved_heads = config_.kv_heads;
  return matrix;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> GgufSource::LoadTokenizer() const {
  OCTET_ASSIGN_OR_RETURN(const GgufTokenizerData data,
                         GgufTokenizer(reader_->header(), reader_->path()));
  if (data.model.empty()) {
    return absl::NotFoundError(absl::StrCat(reader_->path(), " has no tokenizer"));
  }
  return TokenizerFromGguf(data);
}

absl::Status GgufSource::CheckNothingUnused() const {
  for (const auto& [name, tensor] : reader_->header().tensors) {
    if (!used_.contains(name)) {
      return absl::InvalidArgumentError(
          absl::StrCat(reader_->path(), ": tensor \"", name,
                       "\" is no part of the architecture \"llama\" as Octet computes it"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<ModelSource>> OpenGgufSource(absl::string_view path) {
  OCTET_ASSIGN_OR_RETURN(auto reader, GgufReader::Open(path));
  OCTET_ASSIGN_OR_RETURN(ModelConfig config, GgufModelConfig(reader->header(), path));
  return std::unique_ptr<ModelSource>(new GgufSource(std::move(config), std::move(reader)));
}

}  // namespace octet
