#include "expert_worker/cuda_worker.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/limits.h"
#include "core/log.h"
#include "core/status_macros.h"
#include "kernels/cuda_library.h"

namespace octet {
namespace {

absl::Status CheckModel(const WorkerModel& model) {
  if (model.numerics != ExpertNumerics::kExact) return absl::OkStatus();  // the package checked
  for (size_t layer = 0; layer < model.formats.size(); ++layer) {
    if (model.formats[layer].is_integer()) continue;
    return absl::UnimplementedError(
        absl::StrCat("layer ", layer, " of model ", model.name,
                     " has float experts, which a CUDA device does not compute with the host's "
                     "bits; integer ones it does (octet pack --experts int4)"));
  }
  return absl::OkStatus();
}

// Of the packed sizes: a device's layouts take about as much.
absl::Status CheckRoom(const CudaExperts& cuda, const WorkerModel& model, uint64_t memory_bytes) {
  uint64_t needed = model.expert_bytes * model.experts;
  if (memory_bytes != 0) needed = std::min(needed, memory_bytes);
  const uint64_t free_bytes = cuda.FreeBytes();
  if (free_bytes >= needed + kCudaReserveBytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      "the experts may take ", needed, " bytes, the device has ", free_bytes, " unused, of which ",
      kCudaReserveBytes, " stay free (--device cuda uses it nevertheless)"));
}

absl::StatusOr<std::shared_ptr<CudaExperts>> Open(int device, const WorkerModel& model) {
  OCTET_RETURN_IF_ERROR(CheckModel(model));
  OCTET_ASSIGN_OR_RETURN(std::unique_ptr<CudaExperts> cuda,
                         CudaExperts::Create(device, kDispatchRowsMax, model.numerics));
  return std::shared_ptr<CudaExperts>(std::move(cuda));
}

}  // namespace

absl::StatusOr<std::shared_ptr<CudaExperts>> OpenComputeDevice(absl::string_view name,
                                                               const WorkerModel& model,
                                                               uint64_t memory_bytes) {
  OCTET_ASSIGN_OR_RETURN(DeviceChoice choice, DeviceFromName(name));
  if (model.numerics != ExpertNumerics::kExact) {
    OCTET_ASSIGN_OR_RETURN(choice, OnlyCuda(choice));
  }
  if (choice.kind == DeviceChoice::Kind::kCpu) return std::shared_ptr<CudaExperts>();
  auto cuda = Open(choice.index, model);
  if (cuda.ok() && choice.kind == DeviceChoice::Kind::kAuto) {
    const absl::Status room = CheckRoom(**cuda, model, memory_bytes);
    if (!room.ok()) cuda = room;
  }
  if (cuda.ok() || choice.kind == DeviceChoice::Kind::kCuda) return cuda;
  // A build without the plugin is not worth a word.
  if (!absl::IsNotFound(cuda.status())) {
    LogInfo("experts are computed on the CPU: ", cuda.status().message());
  }
  return std::shared_ptr<CudaExperts>();
}

WorkerModel CudaWorkerModel(WorkerModel model, std::shared_ptr<CudaExperts> cuda) {
  model.load = [host = std::move(model.load),
                cuda = std::move(cuda)](ExpertId id) -> absl::StatusOr<MappedExpert> {
    OCTET_ASSIGN_OR_RETURN(const MappedExpert mapped, host(id));
    OCTET_ASSIGN_OR_RETURN(DeviceExpert placed, cuda->Upload(mapped.layers));
    MappedExpert on_device;
    on_device.layers = std::move(placed.layers);
    on_device.bytes = placed.bytes;
    on_device.memory = std::move(placed.memory);
    return on_device;
  };
  return model;
}

ComputeLayerFn CudaCompute(std::shared_ptr<CudaExperts> cuda,
                           std::function<void(const absl::Status&)> on_failed) {
  return [cuda = std::move(cuda), on_failed = std::move(on_failed),
          rows = std::vector<DeviceExpertRows>()](
             LayerId layer, absl::Span<const ComputePart> parts) mutable -> absl::Status {
    rows.clear();
    for (const ComputePart& part : parts) {
      if (layer.value() >= part.expert->layers.size()) {
        return absl::NotFoundError(absl::StrCat("layer ", layer.value(), ": the expert has ",
                                                part.expert->layers.size(), " layers"));
      }
      rows.push_back(
          {&part.expert->layers[layer.value()], part.input, part.rows, part.out, part.on_device});
    }
    const absl::Status status = cuda->Run(rows);
    if (absl::IsInternal(status) && on_failed) on_failed(status);
    return status;
  };
}

}  // namespace octet
