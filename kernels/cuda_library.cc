#include "kernels/cuda_library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "core/status_macros.h"

namespace octet {
namespace {

constexpr char kLibraryName[] = "liboctet_cuda.so";

std::vector<std::string> Candidates() {
  if (const char* named = std::getenv("OCTET_CUDA_LIBRARY"); named != nullptr && *named != '\0') {
    return {named};
  }
  std::vector<std::string> paths;
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  if (!error) {
    const std::filesystem::path folder = program.parent_path();
    for (const char* where : {".", "../lib", "kernels", "../kernels", "../../kernels"}) {
      const std::filesystem::path path = folder / where / kLibraryName;
      if (std::filesystem::exists(path, error)) paths.push_back(path.string());
    }
  }
  paths.emplace_back(kLibraryName);
  return paths;
}

absl::StatusOr<const cuda::CudaApi*> Open() {
  const std::string path = Candidates().front();
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    return absl::NotFoundError(absl::StrCat("the CUDA plugin cannot be loaded: ", dlerror()));
  }
  const auto get = reinterpret_cast<cuda::GetCudaApi>(dlsym(library, cuda::kGetCudaApiName));
  const cuda::CudaApi* api =
      get != nullptr ? get(cuda::kCudaApiVersion, sizeof(cuda::CudaApi)) : nullptr;
  if (api == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat(path, " is not of this build"));
  }
  int devices = 0;
  const int error = api->device_count(&devices);
  if (error != 0 || devices == 0) {
    return absl::UnavailableError(absl::StrCat(path, " finds no CUDA device",
                                               error != 0 ? ": " : "",
                                               error != 0 ? api->error_text(error) : ""));
  }
  return api;
}

}  // namespace

absl::StatusOr<DeviceChoice> DeviceFromName(absl::string_view name) {
  using Kind = DeviceChoice::Kind;
  if (name == "cpu") return DeviceChoice{Kind::kCpu, 0};
  if (name == "auto") return DeviceChoice{Kind::kAuto, 0};
  if (name == "cuda") return DeviceChoice{Kind::kCuda, 0};
  absl::string_view number = name;
  int index = 0;
  if (absl::ConsumePrefix(&number, "cuda:") && absl::SimpleAtoi(number, &index) && index >= 0) {
    return DeviceChoice{Kind::kCuda, index};
  }
  return absl::InvalidArgumentError(
      absl::StrCat("device: \"", name, "\", allowed are auto, cpu, cuda and cuda:N"));
}

absl::StatusOr<DeviceChoice> OnlyCuda(DeviceChoice choice) {
  if (choice.kind == DeviceChoice::Kind::kCpu) {
    return absl::InvalidArgumentError(
        "device: cpu, with --numerics hopper-bf16 allowed are auto, cuda and cuda:N");
  }
  choice.kind = DeviceChoice::Kind::kCuda;
  return choice;
}

absl::StatusOr<const cuda::CudaApi*> OpenCudaApi() {
  static const absl::StatusOr<const cuda::CudaApi*> api = Open();
  return api;
}

absl::Status CheckCudaDevice(const cuda::CudaApi& api, int index) {
  int devices = 0;
  OCTET_RETURN_IF_ERROR(CudaStatus(api, api.device_count(&devices), "counting devices"));
  if (index < 0 || index >= devices) {
    return absl::InvalidArgumentError(
        absl::StrCat("device: cuda:", index, ", there are ", devices, ", counted from 0"));
  }
  cuda::DeviceProperties device{};
  OCTET_RETURN_IF_ERROR(
      CudaStatus(api, api.device_properties(index, &device), "looking at a device"));
  // The kernels are built for Hopper's own instructions, which no other generation has.
  if (device.compute_major == 9 && device.compute_minor == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "device: cuda:", index, " (", device.name, ") has compute capability ", device.compute_major,
      ".", device.compute_minor, ", the kernels need 9.0 (H100, H200)"));
}

absl::Status CudaStatus(const cuda::CudaApi& api, int error, absl::string_view what) {
  if (error == 0) return absl::OkStatus();
  constexpr int kOutOfMemory = 2;  // cudaErrorMemoryAllocation
  const std::string text = absl::StrCat(what, ": ", api.error_text(error));
  return error == kOutOfMemory ? absl::ResourceExhaustedError(text) : absl::InternalError(text);
}

}  // namespace octet
