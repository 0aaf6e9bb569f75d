#include "kernels/cuda_upload.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "core/status_macros.h"
#include "kernels/cuda_library.h"

namespace octet {
namespace {

// Where a matrix may begin within memory that several share.
constexpr size_t kMatrixAlignment = 256;

size_t AlignUp(size_t bytes) {
  return (bytes + kMatrixAlignment - 1) / kMatrixAlignment * kMatrixAlignment;
}

}  // namespace

absl::StatusOr<std::shared_ptr<uint8_t>> AllocateCuda(const cuda::CudaApi& api, size_t bytes,
                                                      absl::string_view what) {
  void* memory = nullptr;
  OCTET_RETURN_IF_ERROR(CudaStatus(api, api.allocate(std::max<size_t>(bytes, 1), &memory), what));
  return std::shared_ptr<uint8_t>(static_cast<uint8_t*>(memory),
                                  [&api](uint8_t* p) { api.release(p); });
}

absl::StatusOr<size_t> CudaUploader::Bytes(const PackedWeights& w, ExpertNumerics numerics) const {
  // As they stood in their source: tensor cores take them from there.
  if (numerics == ExpertNumerics::kHopperBf16) return w.n * w.k * sizeof(uint16_t);
  const size_t bytes = api_.matrix_bytes(w.format, w.n, w.k);
  if (bytes > 0) return bytes;
  return absl::UnimplementedError(
      absl::StrCat("no kernel for weights in ", WeightFormatName(w.format), " on CUDA"));
}

absl::Status CudaUploader::Copy(const PackedWeights& w, ExpertNumerics numerics, uint8_t* to) {
  int error = 0;
  if (numerics == ExpertNumerics::kHopperBf16) {
    std::vector<uint16_t> rows(w.n * w.k);
    UnpackBf16(w, rows.data());
    error = api_.copy(nullptr, to, rows.data(), rows.size() * sizeof(uint16_t));
    if (error == 0) error = api_.synchronize(nullptr);
    return CudaStatus(api_, error, "loading weights");
  }
  const size_t packed = PackedBytes(w.format, w.n, w.k);
  if (packed > packed_bytes_) {
    packed_.reset();
    packed_bytes_ = 0;
    OCTET_ASSIGN_OR_RETURN(packed_, AllocateCuda(api_, packed, "memory to load weights"));
    packed_bytes_ = packed;
  }
  error = api_.copy(nullptr, packed_.get(), w.data, packed);
  if (error == 0) error = api_.tile_matrix(nullptr, w.format, w.n, w.k, packed_.get(), to);
  // The next matrix comes through the same memory.
  if (error == 0) error = api_.synchronize(nullptr);
  return CudaStatus(api_, error, "loading weights");
}

absl::Status CudaComputes(const ExpertWeights& weights, ExpertNumerics numerics) {
  const bool exact = numerics == ExpertNumerics::kExact;
  for (const PackedWeights* w : {&weights.gate, &weights.up, &weights.down}) {
    if (exact ? w->format.is_integer() : w->format.kind == WeightKind::kBF16) continue;
    return absl::UnimplementedError(
        exact ? absl::StrCat("experts in ", WeightFormatName(w->format),
                             " are not computed on a CUDA device, whose bits would differ from the "
                             "host's; integer formats are (octet pack --experts int4)")
              : absl::StrCat("experts in ", WeightFormatName(w->format),
                             " have no hopper-bf16 numerics; those in bf16 have"));
  }
  return absl::OkStatus();
}

absl::StatusOr<DeviceExpert> UploadExpert(const cuda::CudaApi& api, int device,
                                          absl::Span<const ExpertWeights> layers,
                                          ExpertNumerics numerics) {
  OCTET_RETURN_IF_ERROR(CudaStatus(api, api.set_device(device), "choosing the device"));
  CudaUploader uploader(api);
  DeviceExpert out;
  std::vector<size_t> begins;
  for (const ExpertWeights& layer : layers) {
    OCTET_RETURN_IF_ERROR(CudaComputes(layer, numerics));
    for (const PackedWeights* w : {&layer.gate, &layer.up, &layer.down}) {
      OCTET_ASSIGN_OR_RETURN(const size_t bytes, uploader.Bytes(*w, numerics));
      begins.push_back(out.bytes);
      out.bytes += AlignUp(bytes);
    }
  }
  OCTET_ASSIGN_OR_RETURN(const auto memory, AllocateCuda(api, out.bytes, "memory for an expert"));
  out.memory = memory;
  auto begin = begins.begin();
  for (const ExpertWeights& layer : layers) {
    ExpertWeights& placed = out.layers.emplace_back(layer);
    for (PackedWeights* w : {&placed.gate, &placed.up, &placed.down}) {
      uint8_t* const to = memory.get() + *begin++;
      OCTET_RETURN_IF_ERROR(uploader.Copy(*w, numerics, to));
      w->data = to;
      w->device = {DeviceKind::kCuda, device};
    }
  }
  return out;
}

cuda::Matrix MatrixOf(const PackedWeights& w) { return {w.format, w.n, w.k, w.data}; }

cuda::ExpertMatrices MatricesOf(const ExpertWeights& w) {
  return {MatrixOf(w.gate), MatrixOf(w.up), MatrixOf(w.down)};
}

}  // namespace octet
