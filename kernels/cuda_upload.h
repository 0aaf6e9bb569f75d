// Memory of a CUDA device, and weights in it, in the layout that its kernels read.
#ifndef OCTET_KERNELS_CUDA_UPLOAD_H_
#define OCTET_KERNELS_CUDA_UPLOAD_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/expert_numerics.h"
#include "kernels/cuda/cuda_api.h"
#include "kernels/kernels.h"

namespace octet {

// On the current device, freed there by its last owner. RESOURCE_EXHAUSTED names `what` the memory
// is for.
absl::StatusOr<std::shared_ptr<uint8_t>> AllocateCuda(const cuda::CudaApi& api, size_t bytes,
                                                      absl::string_view what);

// Copies matrices to the current device one by one. Belongs to one thread.
class CudaUploader {
 public:
  // `api` outlives it.
  explicit CudaUploader(const cuda::CudaApi& api) : api_(api) {}

  // What `w` takes there. UNIMPLEMENTED where no kernel reads it.
  absl::StatusOr<size_t> Bytes(const PackedWeights& w, ExpertNumerics numerics) const;
  // Writes that many to `to`. Blocks.
  absl::Status Copy(const PackedWeights& w, ExpertNumerics numerics, uint8_t* to);

 private:
  const cuda::CudaApi& api_;
  // Packed matrices on their way; grown to the largest.
  std::shared_ptr<uint8_t> packed_;
  size_t packed_bytes_ = 0;
};

// Weights of one expert, every layer, on a device. `memory` owns what they point to.
struct DeviceExpert {
  std::vector<ExpertWeights> layers;
  uint64_t bytes = 0;
  std::shared_ptr<const void> memory;
};

// OK where a device computes experts of these weights with these bits: integer formats, or bf16.
// UNIMPLEMENTED names the format that it does not.
absl::Status CudaComputes(const ExpertWeights& weights, ExpertNumerics numerics);

// Copies an expert's host weights to `device`, which becomes the current one. Blocks. Fails as
// CudaComputes, and with RESOURCE_EXHAUSTED where its memory is full.
absl::StatusOr<DeviceExpert> UploadExpert(const cuda::CudaApi& api, int device,
                                          absl::Span<const ExpertWeights> layers,
                                          ExpertNumerics numerics);

// Of weights on a device, as its kernels take them.
cuda::Matrix MatrixOf(const PackedWeights& w);
cuda::ExpertMatrices MatricesOf(const ExpertWeights& w);

}  // namespace octet

#endif  // OCTET_KERNELS_CUDA_UPLOAD_H_
