// Who holds what on several GPUs, and whether it fits: the first half of gpu_plan.h. Pure.
#ifndef OCTET_COORDINATOR_GPU_MEMORY_H_
#define OCTET_COORDINATOR_GPU_MEMORY_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/gpu_plan.h"

namespace octet {

// What each GPU holds; only the memory fields of GpuUse are filled.
struct GpuLayout {
  std::vector<GpuUse> gpus;
  std::vector<std::vector<uint32_t>> expert_gpus;
  // Where it does not fit: the GPU that lacks most, and how much it lacks. 0: it fits.
  uint32_t fullest = 0;
  uint64_t missing_bytes = 0;
};

// GPUs that hold experts.
uint32_t ExpertGpus(const PlanInput& input, bool router_alone);
// FAILED_PRECONDITION where so many replicas have no room beside a router of this kind, whatever
// the memory.
absl::StatusOr<GpuLayout> LayOut(const PlanInput& input, bool router_alone);
// Whether LayOut finds room for one of the kinds of router that are allowed.
bool Fits(const PlanInput& input);
// FAILED_PRECONDITION about `layout`, with the changes that would make the input fit.
absl::Status DoesNotFit(const PlanInput& input, const GpuLayout& layout);

}  // namespace octet

#endif  // OCTET_COORDINATOR_GPU_MEMORY_H_
