// The forward pass on a CUDA device, with experts on the same device or behind a dispatcher.
#ifndef OCTET_ROUTER_CUDA_TRANSFORMER_H_
#define OCTET_ROUTER_CUDA_TRANSFORMER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "router/cuda_step.h"
#include "router/forward_pass.h"
#include "router/transformer.h"
#include "transport/token_dispatcher.h"

namespace octet {

struct CudaTransformerOptions {
  int device = 0;
  TransformerLimits limits;
  DType kv_dtype = DType::kF16;
  uint64_t kv_cache_bytes = 0;
  // Experts that lie on the device too; empty: the dispatcher takes rows to theirs.
  absl::Span<const MappedExpert> experts;
  // The dispatcher's links take rows from this device and bring f32 replies to it.
  bool rows_stay = false;
  // Hears, on the thread that steps, of a device that failed for good; may be null.
  std::function<void(const absl::Status&)> on_failed;
};

// The same bits as Transformer. Micro-batches are not used: the device's launches overlap.
class CudaTransformer final : public ForwardPass {
 public:
  // Copies the model to the device; its host weights are not needed after. `dispatcher` and what
  // ctx points at outlive the transformer; `dispatcher` may be null where the experts are here.
  // Errors as OpenCudaApi, UploadModel and, for a cache of less than one block, KvCache::Create.
  static absl::StatusOr<std::unique_ptr<CudaTransformer>> Create(
      const TransformerModel& model, TokenDispatcher* dispatcher, const ExecContext& ctx,
      const CudaTransformerOptions& options);
  ~CudaTransformer() override;

  absl::Status Forward(const Batch& batch, size_t micro_batches, MonotonicTime give_up) override;
  absl::StatusOr<ConstTensorF32> Logits(const Batch& batch, size_t begin, size_t count) override;
  WorkerUse TakeWorkerUse() override { return dispatcher_->TakeUse(); }
  const ModelConfig& config() const override { return config_; }
  size_t logit_rows_max() const override { return limits_.logit_rows_max; }
  const ExecContext& context() const override { return ctx_; }

  size_t kv_blocks() const { return kv_blocks_; }

 private:
  CudaTransformer(const TransformerModel& model, TokenDispatcher* dispatcher,
                  const ExecContext& ctx, const TransformerLimits& limits);
  absl::Status Allocate(const CudaTransformerOptions& options, const cuda::CudaApi& api);
  absl::Status AllocateHost(const cuda::CudaApi& api);
  absl::Status Compute(const Batch& batch, MonotonicTime give_up);
  // Tells on_failed of a device that failed.
  void Note(const absl::Status& status) const;
  // One layer's experts through the dispatcher.
  absl::Status RemoteExperts(const Batch& batch, LayerId layer, MonotonicTime give_up);
  // The step's rows as they travel; what of them is needed on the host is copied there. Waits.
  absl::StatusOr<WireRows> TakeRows(size_t rows, LayerId layer);
  // Enqueues replies_, and slots_ that say where in it each of reply_rows_ is.
  absl::Status BringReplies(const std::vector<DeviceReply>& on_device);

  const ModelConfig config_;
  const std::vector<WireFormat> wire_formats_;
  TokenDispatcher* const dispatcher_;
  const ExecContext ctx_;
  const TransformerLimits limits_;
  bool local_ = false, rows_stay_ = false;
  size_t kv_blocks_ = 0;
  std::shared_ptr<uint8_t> cache_;
  std::unique_ptr<CudaModel> model_;
  std::unique_ptr<CudaStep> step_;
  std::function<void(const absl::Status&)> on_failed_;

  // Rows on their way to experts elsewhere and back: page-locked, and replies on the device.
  struct HostMemory {
    const cuda::CudaApi* api = nullptr;
    void* data = nullptr;
    ~HostMemory() {
      if (data != nullptr) api->release_host(data);
    }
  };
  HostMemory rows_memory_, replies_memory_;
  int8_t* host_q_ = nullptr;
  float *host_scales_ = nullptr, *host_normed_ = nullptr, *host_weights_ = nullptr;
  uint32_t *host_chosen_ = nullptr, *host_slots_ = nullptr;
  std::shared_ptr<uint8_t> replies_, slots_;
  std::vector<const float*> reply_rows_;
  std::vector<uint32_t> by_address_;  // of reply_rows_
  // What was enqueued reads them until the next wait.
  std::vector<DeviceReply> being_read_;
};

}  // namespace octet

#endif  // OCTET_ROUTER_CUDA_TRANSFORMER_H_
