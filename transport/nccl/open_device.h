// A device of this process for links and servers over NCCL: the CUDA plugin, NCCL, and the device's
// thread, opened together.
#ifndef OCTET_TRANSPORT_NCCL_OPEN_DEVICE_H_
#define OCTET_TRANSPORT_NCCL_OPEN_DEVICE_H_

#include <memory>

#include "absl/status/statusor.h"
#include "transport/nccl/device_thread.h"

namespace octet {

// The result keeps all that it needs. Fails as OpenCudaApi and OpenNccl do, and with the device's
// own error where it cannot be used.
absl::StatusOr<std::shared_ptr<NcclDeviceThread>> OpenNcclDevice(int device);

}  // namespace octet

#endif  // OCTET_TRANSPORT_NCCL_OPEN_DEVICE_H_
