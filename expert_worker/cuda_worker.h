// A worker whose experts lie and are computed on a CUDA device. Rows and replies pass through the
// host, or come over NCCL and stay on the device; the bits are the host's: such a worker stands
// beside others, and takes their place.
#ifndef OCTET_EXPERT_WORKER_CUDA_WORKER_H_
#define OCTET_EXPERT_WORKER_CUDA_WORKER_H_

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "expert_worker/worker_loop.h"
#include "expert_worker/worker_model.h"
#include "kernels/cuda_experts.h"

namespace octet {

// "cpu": null. "cuda" or "cuda:N": that device, or why not. "auto": the first device where there is
// one that serves this model and has room for all its experts, or for `memory_bytes` of them where
// that is not 0; else null, and the reason in the log. INVALID_ARGUMENT for other names. A model
// whose numerics are a GPU's is never left to the CPU: "cpu" is refused, "auto" the first device.
absl::StatusOr<std::shared_ptr<CudaExperts>> OpenComputeDevice(absl::string_view name,
                                                               const WorkerModel& model,
                                                               uint64_t memory_bytes = 0);

// The same model, its experts copied to the device once they are mapped and verified.
WorkerModel CudaWorkerModel(WorkerModel model, std::shared_ptr<CudaExperts> cuda);

// `on_failed`, where set, hears of a device that failed for good: it will not compute again.
ComputeLayerFn CudaCompute(std::shared_ptr<CudaExperts> cuda,
                           std::function<void(const absl::Status&)> on_failed = nullptr);

}  // namespace octet

#endif  // OCTET_EXPERT_WORKER_CUDA_WORKER_H_
