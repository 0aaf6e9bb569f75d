// Experts in the memory of a CUDA device, computed there: rows come from the host and return to it,
// or lie on the device and stay there. The bits are those of kernels.h's ExpertFfn, or where a
// device was made for them those of Hopper's tensor cores (ExpertNumerics).
#ifndef OCTET_KERNELS_CUDA_EXPERTS_H_
#define OCTET_KERNELS_CUDA_EXPERTS_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/expert_numerics.h"
#include "kernels/cuda/cuda_api.h"
#include "kernels/cuda_upload.h"
#include "kernels/kernels.h"

namespace octet {

// Rows for one expert of a call, and where their results go, row after row.
struct DeviceExpertRows {
  const ExpertWeights* weights = nullptr;  // of a DeviceExpert
  const ExpertInput* input = nullptr;      // dense
  absl::Span<const uint32_t> rows;         // of `input`; on the host
  TensorF32 out;                           // [rows.size(), hidden], dense where on the device
  bool on_device = false;                  // where `input` and `out` lie
};

// Where the parts of a call's input lie, on the host and on the device alike.
struct CudaExpertsInput {
  // Rows of `row_bytes`, and scales of `scale_bytes` for each, which may be 0.
  CudaExpertsInput(size_t experts, size_t entries, size_t row_bytes, size_t scale_bytes);
  size_t table, offsets, indices, sources, scales, rows;
  size_t bytes = 0;
};

// Upload is thread-safe; Run belongs to one thread at a time.
class CudaExperts {
 public:
  // As OpenCudaApi; INVALID_ARGUMENT where there is no device of this number. At most `rows_max`
  // rows pass through one Run.
  static absl::StatusOr<std::unique_ptr<CudaExperts>> Create(
      int device, size_t rows_max, ExpertNumerics numerics = ExpertNumerics::kExact);
  ~CudaExperts();
  CudaExperts(const CudaExperts&) = delete;
  CudaExperts& operator=(const CudaExperts&) = delete;

  // As UploadExpert, with the numerics that Run computes with.
  absl::StatusOr<DeviceExpert> Upload(absl::Span<const ExpertWeights> layers) const;
  // Computes experts of one layer, whose shapes and formats are equal. Parts of the same expert
  // that stand next to each other read its weights once. Rows on the device are not copied where
  // all are of one input and their results follow one another. Blocks.
  absl::Status Run(absl::Span<const DeviceExpertRows> parts);

  int device() const { return device_; }
  // Memory of the device that nobody uses now; 0 where it does not say.
  uint64_t FreeBytes() const;
  // "NVIDIA H200, 139.8 GiB".
  std::string Description() const;

 private:
  CudaExperts(const cuda::CudaApi& api, int device, size_t rows_max, ExpertNumerics numerics);
  void Fill(absl::Span<const DeviceExpertRows> parts, bool in_place,
            const CudaExpertsInput& layout);
  // Puts rows that lie on the device in the order of the entries.
  int GatherOnDevice(absl::Span<const DeviceExpertRows> parts, const CudaExpertsInput& layout);
  // Results from the order of the entries to where they belong.
  int ScatterOnDevice(absl::Span<const DeviceExpertRows> parts, const float* results);
  absl::Status Reserve(size_t in_bytes, size_t out_bytes, size_t scratch_bytes);

  const cuda::CudaApi& api_;
  const int device_;
  const size_t rows_max_;
  const ExpertNumerics numerics_;
  cuda::Stream stream_ = nullptr;
  // Grown to the high-water mark.
  struct Buffer {
    void* data = nullptr;
    size_t bytes = 0;
  };
  Buffer host_in_, host_out_;  // page-locked
  Buffer device_in_, device_out_, scratch_;
};

}  // namespace octet

#endif  // OCTET_KERNELS_CUDA_EXPERTS_H_
