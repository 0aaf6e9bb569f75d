// Devices, memory, streams and graphs, and the table itself.
#include <cuda_runtime.h>

#include <cstring>

#include "kernels/cuda/launch.h"

namespace octet::cuda {
namespace {

// Errors of these calls are answered here: a later launch must not find them as its own.
int Answered(cudaError_t error) {
  if (error != cudaSuccess) (void)cudaGetLastError();
  return error;
}

const char* ErrorText(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

int GetDeviceProperties(int device, DeviceProperties* out) {
  cudaDeviceProp p;
  if (const cudaError_t error = cudaGetDeviceProperties(&p, device); error != cudaSuccess) {
    return Answered(error);
  }
  std::strncpy(out->name, p.name, sizeof(out->name) - 1);
  out->name[sizeof(out->name) - 1] = '\0';
  out->compute_major = p.major;
  out->compute_minor = p.minor;
  out->multiprocessors = p.multiProcessorCount;
  out->memory_bytes = p.totalGlobalMem;
  out->l2_bytes = static_cast<uint64_t>(p.l2CacheSize);
  return 0;
}

int MemoryFree(uint64_t* bytes) {
  size_t free_bytes = 0, total = 0;
  const cudaError_t error = cudaMemGetInfo(&free_bytes, &total);
  *bytes = free_bytes;
  return Answered(error);
}

int CreateStream(Stream* out) {
  cudaStream_t stream = nullptr;
  const cudaError_t error = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  *out = stream;
  return Answered(error);
}

int EndCapture(Stream stream, Graph* out) {
  cudaGraph_t graph = nullptr;
  cudaError_t error = cudaStreamEndCapture(StreamOf(stream), &graph);
  if (error != cudaSuccess) return Answered(error);
  cudaGraphExec_t executable = nullptr;
  error = cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  *out = executable;
  return Answered(error);
}

int CreateEvent(void** out) {
  cudaEvent_t event = nullptr;
  const cudaError_t error = cudaEventCreate(&event);
  *out = event;
  return Answered(error);
}

int ElapsedMs(void* from, void* to, float* out) {
  const auto end = static_cast<cudaEvent_t>(to);
  if (const cudaError_t error = cudaEventSynchronize(end); error != cudaSuccess) return error;
  return cudaEventElapsedTime(out, static_cast<cudaEvent_t>(from), end);
}

}  // namespace

void AddRuntime(CudaApi* api) {
  api->version = kCudaApiVersion;
  api->error_text = ErrorText;
  api->device_count = [](int* count) -> int { return Answered(cudaGetDeviceCount(count)); };
  api->set_device = [](int device) -> int { return Answered(cudaSetDevice(device)); };
  api->device_properties = GetDeviceProperties;
  api->memory_free = MemoryFree;
  api->allocate = [](size_t bytes, void** out) -> int { return Answered(cudaMalloc(out, bytes)); };
  api->release = [](void* memory) { cudaFree(memory); };
  api->allocate_host = [](size_t bytes, void** out) -> int {
    return Answered(cudaMallocHost(out, bytes));
  };
  api->release_host = [](void* memory) { cudaFreeHost(memory); };
  api->create_stream = CreateStream;
  api->destroy_stream = [](Stream stream) { cudaStreamDestroy(StreamOf(stream)); };
  api->synchronize = [](Stream stream) -> int { return cudaStreamSynchronize(StreamOf(stream)); };
  api->copy = [](Stream stream, void* to, const void* from, size_t bytes) -> int {
    return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, StreamOf(stream));
  };
  api->fill = [](Stream stream, void* to, uint8_t byte, size_t bytes) -> int {
    return cudaMemsetAsync(to, byte, bytes, StreamOf(stream));
  };
  api->begin_capture = [](Stream stream) -> int {
    return Answered(cudaStreamBeginCapture(StreamOf(stream), cudaStreamCaptureModeThreadLocal));
  };
  api->end_capture = EndCapture;
  api->launch_graph = [](Stream stream, Graph graph) -> int {
    return cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), StreamOf(stream));
  };
  api->destroy_graph = [](Graph graph) {
    cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph));
  };
  api->create_event = CreateEvent;
  api->destroy_event = [](void* event) { cudaEventDestroy(static_cast<cudaEvent_t>(event)); };
  api->record_event = [](Stream stream, void* event) -> int {
    return cudaEventRecord(static_cast<cudaEvent_t>(event), StreamOf(stream));
  };
  api->elapsed_ms = ElapsedMs;
}

CudaApi MakeApi() {
  CudaApi table{};
  AddRuntime(&table);
  AddIntProducts(&table);
  AddBf16Experts(&table);
  AddRowKernels(&table);
  AddAttention(&table);
  AddFusedKernels(&table);
  return table;
}

}  // namespace octet::cuda

extern "C" __attribute__((visibility("default"))) const octet::cuda::CudaApi* octet_get_cuda_api(
    uint32_t version, size_t bytes) {
  if (version != octet::cuda::kCudaApiVersion || bytes != sizeof(octet::cuda::CudaApi)) {
    return nullptr;
  }
  static const octet::cuda::CudaApi api = octet::cuda::MakeApi();
  return &api;
}
