#include "router/cuda_model.h"

#include <vector>

#include "core/status_macros.h"
#include "kernels/cuda_library.h"
#include "kernels/cuda_upload.h"
#include "kernels/kernels.h"

namespace octet {
namespace {

// Brings matrices and vectors into memory of the model.
class Uploader {
 public:
  Uploader(const cuda::CudaApi& api, CudaModel* model) : api_(api), matrices_(api), model_(model) {}

  absl::Status Copy(const PackedWeights& w, cuda::Matrix* out) {
    OCTET_ASSIGN_OR_RETURN(const size_t bytes, matrices_.Bytes(w, ExpertNumerics::kExact));
    OCTET_ASSIGN_OR_RETURN(const auto memory, AllocateCuda(api_, bytes, "memory for a model"));
    OCTET_RETURN_IF_ERROR(matrices_.Copy(w, ExpertNumerics::kExact, memory.get()));
    *out = {w.format, w.n, w.k, memory.get()};
    model_->memory.push_back(memory);
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
  CudaUploader matrices_;
  CudaModel* const model_;
};

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

// Each layer's table of all experts.
absl::Status UploadExperts(const cuda::CudaApi& api, Uploader& uploader,
                           absl::Span<const MappedExpert> experts, ExpertNumerics numerics,
                           CudaModel* model) {
  std::vector<DeviceExpert> placed;
  for (const MappedExpert& expert : experts) {
    OCTET_ASSIGN_OR_RETURN(placed.emplace_back(),
                           UploadExpert(api, model->device, expert.layers, numerics));
    model->memory.push_back(placed.back().memory);
  }
  for (size_t i = 0; i < model->layers.size(); ++i) {
    CudaLayerWeights& layer = model->layers[i];
    std::vector<cuda::ExpertMatrices> table;
    for (const DeviceExpert& expert : placed) table.push_back(MatricesOf(expert.layers[i]));
    layer.expert = table[0];
    OCTET_RETURN_IF_ERROR(uploader.Copy(table.data(), table.size(), &layer.experts));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<CudaModel>> UploadModel(const cuda::CudaApi& api, int device,
                                                       const ModelConfig& config,
                                                       const RouterWeights& weights,
                                                       absl::Span<const MappedExpert> experts,
                                                       ExpertNumerics numerics, size_t positions) {
  auto model = std::make_unique<CudaModel>();
  OCTET_RETURN_IF_ERROR(CudaStatus(api, api.set_device(device), "choosing the device"));
  model->device = device;
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
  }
  if (!experts.empty()) {
    OCTET_RETURN_IF_ERROR(UploadExperts(api, uploader, experts, numerics, model.get()));
  }
  const size_t entries = positions * config.head_dim / 2;
  std::vector<float> cosines(entries), sines(entries);
  FillRopeTable(config.rope_theta, config.head_dim, positions, cosines.data(), sines.data());
  OCTET_RETURN_IF_ERROR(uploader.Copy(cosines.data(), entries, &model->rope_cos));
  OCTET_RETURN_IF_ERROR(uploader.Copy(sines.data(), entries, &model->rope_sin));
  return model;
}

}  // namespace octet
