// Devices in host memory, for tests where there is no GPU: memory that belongs to a device, streams
// that carry out what is on them in the background, in order, and graphs. It keeps to what a real
// device asks of its callers: a kernel that reaches for memory of the host, of another device or
// past an allocation ends the device with "illegal address", as does all that follows.
#ifndef OCTET_KERNELS_FAKE_GPU_FAKE_DEVICE_H_
#define OCTET_KERNELS_FAKE_GPU_FAKE_DEVICE_H_

#include <cstddef>
#include <cstdint>
#include <functional>

#include "kernels/cuda/cuda_api.h"
#include "kernels/kernels.h"

namespace octet::fake_gpu {

// Of cudaError, value for value.
inline constexpr int kInvalidValue = 1;
inline constexpr int kOutOfMemory = 2;
inline constexpr int kInvalidDevice = 101;
inline constexpr int kIllegalAddress = 700;
inline constexpr int kCaptureUnsupported = 900;

const char* ErrorText(int error);

// What a kernel runs with: one thread.
class Kernel {
 public:
  Kernel(int device, Arena* arena);
  // Whether [data, data + count) belongs to the device. False from then on.
  template <typename T>
  bool Reaches(const T* data, size_t count) {
    reaches_ = reaches_ && (count == 0 || Owns(data, count * sizeof(T)));
    return reaches_;
  }
  bool reaches() const { return reaches_; }
  const ExecContext& ctx() const { return ctx_; }

 private:
  bool Owns(const void* data, size_t bytes) const;
  const int device_;
  ExecContext ctx_;
  bool reaches_ = true;
};

// Puts work on a stream (null: the one that every device has). `work` checks what it reaches before
// it touches it. Returns the error of the device, if it has one.
int Launch(cuda::Stream stream, std::function<void(Kernel&)> work);
// As Launch for work that may wait, for a peer; not captured into graphs.
int LaunchWaiting(cuda::Stream stream, std::function<void()> work);
// Whether [data, data + bytes) belongs to the stream's device.
bool StreamReaches(cuda::Stream stream, const void* data, size_t bytes);

// The functions of runtime.cu.
void AddRuntime(cuda::CudaApi* api);
// All others.
void AddKernels(cuda::CudaApi* api);

}  // namespace octet::fake_gpu

#endif  // OCTET_KERNELS_FAKE_GPU_FAKE_DEVICE_H_
