// A packed model's weights on a CUDA device.
#ifndef OCTET_ROUTER_CUDA_MODEL_H_
#define OCTET_ROUTER_CUDA_MODEL_H_

#include <cstddef>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/model_config.h"
#include "model/model_package.h"
#include "router/cuda_step.h"

namespace octet {

// Copies the router's weights, and those of all experts where `experts` has them (else `experts` is
// empty, and a package's formats say what travels), to `device`, which becomes the current one.
// Blocks. UNIMPLEMENTED where a device does not compute such experts with these numerics,
// RESOURCE_EXHAUSTED where memory is short.
absl::StatusOr<std::unique_ptr<CudaModel>> UploadModel(const cuda::CudaApi& api, int device,
                                                       const ModelConfig& config,
                                                       const RouterWeights& weights,
                                                       absl::Span<const MappedExpert> experts,
                                                       ExpertNumerics numerics, size_t positions);

}  // namespace octet

#endif  // OCTET_ROUTER_CUDA_MODEL_H_
