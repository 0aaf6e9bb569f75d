// NCCL, opened at run time, beside the CUDA plugin.
#ifndef OCTET_TRANSPORT_NCCL_NCCL_LIBRARY_H_
#define OCTET_TRANSPORT_NCCL_NCCL_LIBRARY_H_

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/cuda/cuda_api.h"
#include "transport/nccl/nccl_api.h"

namespace octet {

// Opens libnccl.so.2, or the file that OCTET_NCCL_LIBRARY names; never closed. `cuda` outlives the
// result. UNIMPLEMENTED where this program was built without nccl.h, NOT_FOUND where there is no
// library, FAILED_PRECONDITION where it is older than 2.18 or lacks a function, which is named.
//
// The way to a peer is NCCL's own choice, by its environment. A router with many workers sets
// CUDA_DEVICE_MAX_CONNECTIONS=32, so that their streams do not wait for each other. For several
// ranks on one device each process needs an NCCL_HOSTID of its own.
absl::StatusOr<std::unique_ptr<NcclApi>> OpenNccl(const cuda::CudaApi& cuda);

}  // namespace octet

#endif  // OCTET_TRANSPORT_NCCL_NCCL_LIBRARY_H_
