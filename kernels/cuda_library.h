// The CUDA plugin, opened at run time: a program built without CUDA runs where there is none.
#ifndef OCTET_KERNELS_CUDA_LIBRARY_H_
#define OCTET_KERNELS_CUDA_LIBRARY_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/cuda/cuda_api.h"

namespace octet {

// Opens liboctet_cuda.so, once for the process: the file that OCTET_CUDA_LIBRARY names, else the
// one beside the program or in ../lib or build/kernels of it, else the loader's path. NOT_FOUND
// where there is none or it cannot be loaded (with the loader's reason), FAILED_PRECONDITION where
// it is of another build, UNAVAILABLE where it finds no device. Thread-safe; never closed.
absl::StatusOr<const cuda::CudaApi*> OpenCudaApi();

// OK for 0; else INTERNAL, or RESOURCE_EXHAUSTED for want of memory, with `what` and CUDA's text.
absl::Status CudaStatus(const cuda::CudaApi& api, int error, absl::string_view what);

}  // namespace octet

#endif  // OCTET_KERNELS_CUDA_LIBRARY_H_
