// A worker whose experts lie and are computed on a CUDA device. Rows and replies pass through the
// host, and the bits are the host's: such a worker stands beside others, and takes their place.
#ifndef OCTET_EXPERT_WORKER_CUDA_WORKER_H_
#define OCTET_EXPERT_WORKER_CUDA_WORKER_H_

#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "expert_worker/worker_loop.h"
#include "expert_worker/worker_model.h"
#include "kernels/cuda_experts.h"

namespace octet {

// "cpu": null. "cuda" or "cuda:N": that device, or why not. "auto": the first device where there is
// one that serves this model, else null, and the reason in the log. INVALID_ARGUMENT for other
// names.
absl::StatusOr<std::shared_ptr<CudaExperts>> OpenComputeDevice(absl::string_view name,
                                                               const WorkerModel& model);

// The same model, its experts copied to the device once they are mapped and verified.
WorkerModel CudaWorkerModel(WorkerModel model, std::shared_ptr<CudaExperts> cuda);

ComputeLayerFn CudaCompute(std::shared_ptr<CudaExperts> cuda);

}  // namespace octet

#endif  // OCTET_EXPERT_WORKER_CUDA_WORKER_H_
