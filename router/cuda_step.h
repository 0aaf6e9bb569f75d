// A model on a CUDA device and the kernels of one step over it, enqueued on one stream. The bits
// are those of the same step on the host (docs/numerics.md). Experts lie on the same device, or
// elsewhere: then the caller takes the rows to them and brings their replies.
#ifndef OCTET_ROUTER_CUDA_STEP_H_
#define OCTET_ROUTER_CUDA_STEP_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/batch.h"
#include "core/model_config.h"
#include "core/tensor_view.h"
#include "kernels/cuda/cuda_api.h"

namespace octet {

struct CudaLayerWeights {
  const float* attention_norm = nullptr;
  cuda::Matrix q, k, v, o;
  const float* ffn_norm = nullptr;
  cuda::Matrix gate[3];  // the linear gate's in [0], or q, k, v of an attention gate
  // The experts' rows, as WireFormat says: padded to wire_padded in groups of wire_group, or f32
  // where that is 0.
  size_t wire_padded = 0;
  size_t wire_group = 0;
  // On the device, one an expert, null where the experts are elsewhere. `expert` has their common
  // shape and formats: integer ones, or bf16 row-major (ExpertNumerics).
  const cuda::ExpertMatrices* experts = nullptr;
  cuda::ExpertMatrices expert;
};

// Every pointer is the device's; `memory` owns what they point to.
struct CudaModel {
  int device = 0;
  ModelConfig config;
  cuda::Matrix embedding, head;
  const float* final_norm = nullptr;
  std::vector<CudaLayerWeights> layers;
  const float* rope_cos = nullptr;  // [positions][head_dim / 2]
  const float* rope_sin = nullptr;
  std::vector<std::shared_ptr<const void>> memory;
};

struct CudaStepLimits {
  size_t rows_max = 512;
  size_t sequences_max = 64;
  size_t blocks_max = 0;  // entries of all block tables of a step together
  size_t logit_rows_max = 64;
};

// One thread. Calls enqueue and return, those that wait say so. After an error of the device every
// later call fails with it.
class CudaStep {
 public:
  // Allocates every buffer of a step. `model`, the cache (data of its first layer; layer i lies
  // `layer_bytes` after layer i - 1) and what `api` is from outlive the step.
  static absl::StatusOr<std::unique_ptr<CudaStep>> Create(const cuda::CudaApi& api,
                                                          const CudaModel* model,
                                                          const cuda::Cache& cache,
                                                          size_t layer_bytes,
                                                          const CudaStepLimits& limits);
  ~CudaStep();
  CudaStep(const CudaStep&) = delete;
  CudaStep& operator=(const CudaStep&) = delete;

  // What the calls below compute: its tokens, positions and block tables go to the device. Waits
  // for what was enqueued before.
  absl::Status Begin(const Batch& batch);
  // All layers, experts on this device; a step of single rows runs as a graph once it has been met.
  absl::Status Layers();

  // Layer by layer, for experts elsewhere.
  absl::Status Embed();
  // Attention, norm, gate, and what travels: int8 rows with scales where the experts' gate is of an
  // integer kind, else normed().
  absl::Status AttentionAndGate(size_t layer);
  // x += sum of weights * replies; `replies` on the device, slot s of row r at slots[r * k + s].
  absl::Status Combine(const uint32_t* slots, const float* replies);

  // Logits of rows of this step, [rows.size(), vocab], on the host, until the next call. Waits.
  absl::StatusOr<ConstTensorF32> Logits(absl::Span<const uint32_t> rows);
  // Waits for all that was enqueued.
  absl::Status Wait();
  // Makes the model's device the calling thread's: after anything else on this thread may have
  // chosen another.
  absl::Status UseDevice();

  // On the device, for [rows] of the step.
  const int8_t* wire_q() const { return q_; }
  const float* wire_scales() const { return scales_; }
  const float* normed() const { return normed_; }
  const uint32_t* chosen() const { return chosen_; }
  const float* weights() const { return weights_; }
  cuda::Stream stream() const { return stream_; }
  const cuda::CudaApi& api() const { return api_; }

 private:
  CudaStep(const cuda::CudaApi& api, const CudaModel* model, const cuda::Cache& cache,
           size_t layer_bytes, const CudaStepLimits& limits);
  absl::Status Allocate();
  size_t MoeScratchBytes(const CudaLayerWeights& layer, size_t entries) const;
  template <typename T>
  absl::Status Take(size_t count, T** out);
  int EnqueueLayers();
  int EnqueueEmbed();
  int EnqueueAttention(size_t layer);
  int EnqueueGate(size_t layer);
  int EnqueueExperts(size_t layer);
  // y = W x for rows whose codes are in q_ where the format is integer, else for x.
  int Product(const cuda::Matrix& w, const float* x, size_t rows, float* y);
  // Quantises x for `format`, where that is integer.
  int Quantize(const WeightFormat& format, const float* x, size_t k, size_t rows);
  int Quantize(const float* x, size_t k, size_t rows, size_t padded_k, size_t group);
  // x_ normed, into normed_ and, where `group` is not 0, codes.
  cuda::NormQuantize Norm(const float* weight, size_t padded_k, size_t group) const;
  absl::Status ReserveAttention();
  // Makes a graph of the layers for steps like this one; without, they run as they are enqueued.
  void Record(std::pair<size_t, uint32_t> key);
  cuda::Rows StepRows() const;
  absl::Status Status(int error, absl::string_view what) const;

  const cuda::CudaApi& api_;
  const CudaModel& model_;
  const cuda::Cache cache_;
  const size_t layer_bytes_;
  const CudaStepLimits limits_;
  cuda::Stream stream_ = nullptr;
  std::vector<std::shared_ptr<uint8_t>> memory_;

  // This step's.
  size_t rows_ = 0, sequences_ = 0;
  uint32_t positions_max_ = 0;
  bool added_ = true;  // the last layer's experts are in x_

  // The step's input, the same layout in page-locked memory and on the device.
  uint8_t* host_input_ = nullptr;
  uint8_t* input_ = nullptr;
  size_t row_sequence_at_ = 0, sequences_at_ = 0, blocks_at_ = 0, input_bytes_ = 0;
  float* host_logits_ = nullptr;

  float *x_ = nullptr, *normed_ = nullptr, *query_ = nullptr, *key_ = nullptr, *value_ = nullptr,
        *attended_ = nullptr, *projected_ = nullptr, *scales_ = nullptr, *gate_[3] = {},
        *weights_ = nullptr, *replies_ = nullptr, *logits_ = nullptr, *picked_ = nullptr;
  int8_t* q_ = nullptr;
  uint32_t *chosen_ = nullptr, *offsets_ = nullptr, *sorted_ = nullptr, *slots_ = nullptr;
  uint8_t *scratch_ = nullptr, *moe_scratch_ = nullptr;
  std::shared_ptr<uint8_t> attention_scratch_;
  size_t attention_scratch_bytes_ = 0;
  // By (rows, greatest position rounded up).
  std::map<std::pair<size_t, uint32_t>, cuda::Graph> graphs_;
  bool records_ = true;
};

}  // namespace octet

#endif  // OCTET_ROUTER_CUDA_STEP_H_
