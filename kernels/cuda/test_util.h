// Helpers of the device's tests and benchmarks: memory, copies, and a reason where nothing can run.
#ifndef OCTET_KERNELS_CUDA_TEST_UTIL_H_
#define OCTET_KERNELS_CUDA_TEST_UTIL_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "core/check.h"
#include "kernels/cuda_library.h"
#include "kernels/packed_weights.h"

namespace octet::cuda::test {

// The plugin of this process; CHECKs that it opens.
inline const CudaApi& Api() {
  static const absl::StatusOr<const CudaApi*> api = OpenCudaApi();
  OCTET_CHECK(api.ok()) << api.status().ToString();
  return **api;
}

inline void Ok(int error) { OCTET_CHECK(error == 0) << Api().error_text(error); }

// Device memory of `count` elements. Filled with 0xff bytes (NaN as floats) unless it starts as a
// copy.
template <typename T>
class DeviceArray {
 public:
  DeviceArray() = default;
  explicit DeviceArray(size_t count) : count_(count) {
    Allocate();
    Ok(Api().fill(nullptr, data_, 0xff, count * sizeof(T)));
    Ok(Api().synchronize(nullptr));
  }
  explicit DeviceArray(const std::vector<T>& host) : count_(host.size()) {
    Allocate();
    Set(host.data(), host.size());
  }
  DeviceArray(const T* host, size_t count) : count_(count) {
    Allocate();
    Set(host, count);
  }
  DeviceArray(DeviceArray&& other) noexcept { *this = std::move(other); }
  DeviceArray& operator=(DeviceArray&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(count_, other.count_);
    return *this;
  }
  ~DeviceArray() {
    if (data_ != nullptr) Api().release(data_);
  }

  T* data() const { return static_cast<T*>(data_); }
  size_t size() const { return count_; }
  void Set(const T* host, size_t count) {
    OCTET_CHECK_LE(count, count_);
    Ok(Api().copy(nullptr, data_, host, count * sizeof(T)));
    Ok(Api().synchronize(nullptr));
  }
  std::vector<T> Get() const {
    std::vector<T> host(count_);
    Ok(Api().copy(nullptr, host.data(), data_, count_ * sizeof(T)));
    Ok(Api().synchronize(nullptr));
    return host;
  }

 private:
  void Allocate() { Ok(Api().allocate(count_ * sizeof(T) + 256, &data_)); }

  void* data_ = nullptr;
  size_t count_ = 0;
};

// A packed matrix of the host in the device's layout.
class DeviceMatrix {
 public:
  explicit DeviceMatrix(const PackedWeights& w) : memory_(Bytes(w)) {
    const DeviceArray<uint8_t> packed(w.data, PackedBytes(w.format, w.n, w.k));
    Ok(Api().tile_matrix(nullptr, w.format, w.n, w.k, packed.data(), memory_.data()));
    Ok(Api().synchronize(nullptr));
    matrix = {w.format, w.n, w.k, memory_.data()};
  }
  Matrix matrix;

 private:
  static size_t Bytes(const PackedWeights& w) {
    const size_t bytes = Api().matrix_bytes(w.format, w.n, w.k);
    OCTET_CHECK(bytes > 0);
    return bytes;
  }
  DeviceArray<uint8_t> memory_;
};

}  // namespace octet::cuda::test

// In the body of a test: ends it with a reason where there is no device.
#define OCTET_NEEDS_CUDA()                                                          \
  do {                                                                              \
    if (const auto opened = ::octet::OpenCudaApi(); !opened.ok()) {                 \
      GTEST_SKIP() << "not run: CUDA device (" << opened.status().message() << ")"; \
    }                                                                               \
  } while (false)

#endif  // OCTET_KERNELS_CUDA_TEST_UTIL_H_
