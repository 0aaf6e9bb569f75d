// The CUDA plugin, opened at run time: a program built without CUDA runs where there is none.
#ifndef OCTET_KERNELS_CUDA_LIBRARY_H_
#define OCTET_KERNELS_CUDA_LIBRARY_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/cuda/cuda_api.h"

namespace octet {

// Where something is to be computed.
struct DeviceChoice {
  enum class Kind : uint8_t { kCpu, kCuda, kAuto } kind = Kind::kCpu;
  int index = 0;  // of kCuda
};
// "cpu", "cuda", "cuda:N", or "auto": a CUDA device where one can be used, else the CPU.
// INVALID_ARGUMENT for other names.
absl::StatusOr<DeviceChoice> DeviceFromName(absl::string_view name);

// The same where no CPU will do: "auto" is the first device. INVALID_ARGUMENT for "cpu".
absl::StatusOr<DeviceChoice> OnlyCuda(DeviceChoice choice);

// Opens liboctet_cuda.so, once for the process: the file that OCTET_CUDA_LIBRARY names, else the
// one beside the program, in ../lib, or in the kernels folder of its build tree, else on the
// loader's path. NOT_FOUND where there is none or it cannot be loaded (with the loader's reason),
// FAILED_PRECONDITION where it is of another build, UNAVAILABLE where it finds no device.
// Thread-safe; never closed.
absl::StatusOr<const cuda::CudaApi*> OpenCudaApi();

// OK where device `index` can run the plugin's kernels; INVALID_ARGUMENT where there is none of
// this number, FAILED_PRECONDITION where it is of another generation.
absl::Status CheckCudaDevice(const cuda::CudaApi& api, int index);

// OK for 0; else INTERNAL, or RESOURCE_EXHAUSTED for want of memory, with `what` and CUDA's text.
absl::Status CudaStatus(const cuda::CudaApi& api, int error, absl::string_view what);

}  // namespace octet

#endif  // OCTET_KERNELS_CUDA_LIBRARY_H_
