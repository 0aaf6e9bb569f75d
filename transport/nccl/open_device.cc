#include "transport/nccl/open_device.h"

#include "core/clock.h"
#include "core/status_macros.h"
#include "kernels/cuda_library.h"
#include "transport/nccl/nccl_library.h"

namespace octet {
namespace {

struct Opened {
  SystemClock clock;
  std::unique_ptr<NcclApi> api;
  std::shared_ptr<NcclDeviceThread> thread;  // ends first
};

}  // namespace

absl::StatusOr<std::shared_ptr<NcclDeviceThread>> OpenNcclDevice(int device) {
  auto opened = std::make_shared<Opened>();
  OCTET_ASSIGN_OR_RETURN(const cuda::CudaApi* const cuda, OpenCudaApi());
  OCTET_ASSIGN_OR_RETURN(opened->api, OpenNccl(*cuda));
  NcclDeviceOptions options;
  options.device = device;
  OCTET_ASSIGN_OR_RETURN(opened->thread,
                         NcclDeviceThread::Start(opened->api.get(), options, &opened->clock));
  return std::shared_ptr<NcclDeviceThread>(opened, opened->thread.get());
}

}  // namespace octet
