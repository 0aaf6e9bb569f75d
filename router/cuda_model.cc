#include "router/cuda_model.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/status_macros.h"
#include "kernels/cuda_experts.h"
#include "kernels/cuda_library.h"
#include "kernels/kernels.h"

namespace octet {
namespace {

// Brings matrices and vectors to the device through one piece of memory there.
class Uploader {
 public:
  Uploader(const cuda::CudaApi& api, CudaModel* model) : api_(api), model_(model) {}

  absl::Status Copy(const PackedWeights& w, cuda::Matrix* out) {
    const size_t packed = PackedBytes(w.format, w.n, w.k);
    const size_t bytes = api_.matrix_bytes(w.format, w.n, w.k);
    if (bytes == 0) {
      return absl::UnimplementedError(
          absl::StrCat("no kernel for ", WeightFormatName(w.format), " on CUDA"));
    }
    if (packed > packed_bytes_) {
      packed_.reset();
      OCTET_ASSIGN_OR_RETURN(packed_, AllocateCuda(api_, packed, "memory to load a model"));
      packed_bytes_ = packed;
    }
    OCTET_ASSIGN_OR_RETURN(const auto memory, AllocateCuda(api_, bytes, "memory for a model"));
    int error = api_.copy(nullptr, packed_.get(), w.data, packed);
    if (error == 0) {
      error = api_.tile_matrix(nullptr, w.format, w.n, w.k, packed_.get(), memory.get());
    }
    if (error == 0) error = api_.synchronize(nullptr);
    OCTET_RETURN_IF_ERROR(CudaStatus(api_, error, "loading a model"));
    *out = {w.format, w.n, w.k, memory.get()};
    model_->memory.push_back(memory);
    return absl::OkStatus();
  }

  // Row-major, as tensor cores take it.
  absl::Status CopyBf16(const PackedWeights& w, cuda::Matrix* out) {
    std::vector<uint16_t> rows(w.n * w.k);
    UnpackBf16(w, rows.data());
    const uint16_t* placed = nullptr;
    OCTET_RETURN_IF_ERROR(Copy(rows.data(), rows.size(), &placed));
    *out = {w.format, w.n, w.k, reinterpret_cast<const uint8_t*>(placed)};
    return absl::OkStatus();
  }

  template <typename T>
  absl::Status Copy(const T* host, size_t count, const T** out) {
    OCTET_ASSIGN_OR_RETURN(const auto memory,
                           AllocateCuda(api_, count * sizeof(T), "memory for a model"));
    int error = api_.copy(nullptr, memory.get(), host, count * sizeof(T));
    if (error == 0) error = api_.synchronize(nullptr);
    OCTET_RETURN_IF_ERROR(CudaStatus(api_, error, "loading a model"));
    *out = reinterpret_cast<const T*>(memory.get());
    model_->memory.push_back(memory);
    return absl::OkStatus();
  }

 private:
  const cuda::CudaApi& api_;
  CudaModel* const model_;
  std::shared_ptr<uint8_t> packed_;
  size_t packed_bytes_ = 0;
};

absl::Status UploadExperts(Uploader& uploader, absl::Span<const MappedExpert> experts,
                           ExpertNumerics numerics, size_t layer, CudaLayerWeights* out) {
  std::vector<cuda::ExpertMatrices> table;
  for (const MappedExpert& expert : experts) {
    const ExpertWeights& w = expert.layers[layer];
    OCTET_RETURN_IF_ERROR(CudaExperts::Supports(w, numerics));
    const auto copy = [&](const PackedWeights& matrix, cuda::Matrix* to) {
      return numerics == ExpertNumerics::kExact ? uploader.Copy(matrix, to)
                                                : uploader.CopyBf16(matrix, to);
    };
    cuda::ExpertMatrices matrices;
    OCTET_RETURN_IF_ERROR(copy(w.gate, &matrices.gate));
    OCTET_RETURN_IF_ERROR(copy(w.up, &matrices.up));
    OCTET_RETURN_IF_ERROR(copy(w.down, &matrices.down));
    table.push_back(matrices);
  }
  out->expert = table[0];
  return uploader.Copy(table.data(), table.size(), &out->experts);
}

absl::Status UploadLayer(Uploader& uploader, const ModelConfig& config,
                         const RouterLayerWeights& from, CudaLayerWeights* out) {
  OCTET_RETURN_IF_ERROR(uploader.Copy(from.attention_norm, config.hidden, &out->attention_norm));
  OCTET_RETURN_IF_ERROR(uploader.Copy(from.q, &out->q));
  OCTET_RETURN_IF_ERROR(uploader.Copy(from.k, &out->k));
  OCTET_RETURN_IF_ERROR(uploader.Copy(from.v, &out->v));
  OCTET_RETURN_IF_ERROR(uploader.Copy(from.o, &out->o));
  OCTET_RETURN_IF_ERROR(uploader.Copy(from.ffn_norm, config.hidden, &out->ffn_norm));
  if (config.gate == GateKind::kLinear) return uploader.Copy(from.gate, &out->gate[0]);
  if (config.gate == GateKind::kNone) return absl::OkStatus();
  OCTET_RETURN_IF_ERROR(uploader.Copy(from.gate_q, &out->gate[0]));
  OCTET_RETURN_IF_ERROR(uploader.Copy(from.gate_k, &out->gate[1]));
  return uploader.Copy(from.gate_v, &out->gate[2]);
}

}  // namespace

absl::StatusOr<std::unique_ptr<CudaModel>> UploadModel(const cuda::CudaApi& api,
                                                       const ModelConfig& config,
                                                       const RouterWeights& weights,
                                                       absl::Span<const MappedExpert> experts,
                                                       ExpertNumerics numerics, size_t positions) {
  auto model = std::make_unique<CudaModel>();
  model->config = config;
  Uploader uploader(api, model.get());
  OCTET_RETURN_IF_ERROR(uploader.Copy(weights.embedding, &model->embedding));
  if (config.tied_embeddings) {
    model->head = model->embedding;
  } else {
    OCTET_RETURN_IF_ERROR(uploader.Copy(weights.head, &model->head));
  }
  OCTET_RETURN_IF_ERROR(uploader.Copy(weights.final_norm, config.hidden, &model->final_norm));
  model->layers.resize(config.layers);
  for (uint32_t i = 0; i < config.layers; ++i) {
    OCTET_RETURN_IF_ERROR(UploadLayer(uploader, config, weights.layers[i], &model->layers[i]));
    if (experts.empty()) continue;
    OCTET_RETURN_IF_ERROR(UploadExperts(uploader, experts, numerics, i, &model->layers[i]));
  }
  const size_t entries = positions * config.head_dim / 2;
  std::vector<float> cosines(entries), sines(entries);
  FillRopeTable(config.rope_theta, config.head_dim, positions, cosines.data(), sines.data());
  OCTET_RETURN_IF_ERROR(uploader.Copy(cosines.data(), entries, &model->rope_cos));
  OCTET_RETURN_IF_ERROR(uploader.Copy(sines.data(), entries, &model->rope_sin));
  return model;
}

}  // namespace octet
