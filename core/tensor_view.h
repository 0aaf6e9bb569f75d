// A typed, shaped window on memory that someone else owns. Carries its device, so that a kernel can
// refuse memory it cannot reach.
#ifndef OCTET_CORE_TENSOR_VIEW_H_
#define OCTET_CORE_TENSOR_VIEW_H_

#include <cstddef>
#include <cstdint>

namespace octet {

enum class DeviceKind : uint8_t { kCpu, kCuda };

struct Device {
  DeviceKind kind = DeviceKind::kCpu;
  int index = 0;
  friend constexpr bool operator==(Device, Device) = default;
};

enum class DType : uint8_t { kF32, kF16, kBF16, kI8, kU8, kI32 };

constexpr size_t DTypeBytes(DType t) {
  switch (t) {
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kF16:
    case DType::kBF16:
      return 2;
    case DType::kI8:
    case DType::kU8:
      return 1;
  }
  return 0;
}

// Row-major matrix [rows, cols]; consecutive rows are `stride` elements apart (stride ≥ cols). A
// vector has rows = 1. T is const-qualified for read-only views. The view never owns and never
// frees.
template <typename T>
struct MatrixView {
  T* data = nullptr;
  size_t rows = 0;
  size_t cols = 0;
  size_t stride = 0;
  Device device;

  constexpr MatrixView() = default;
  constexpr MatrixView(T* d, size_t r, size_t c) : data(d), rows(r), cols(c), stride(c) {}
  constexpr MatrixView(T* d, size_t r, size_t c, size_t s) : data(d), rows(r), cols(c), stride(s) {}
  // A writable view converts to a read-only one.
  constexpr operator MatrixView<const T>() const {  // NOLINT(google-explicit-constructor)
    MatrixView<const T> v(data, rows, cols, stride);
    v.device = device;
    return v;
  }
  constexpr T* row(size_t r) const { return data + r * stride; }
  constexpr MatrixView Rows(size_t begin, size_t count) const {
    MatrixView v(data + begin * stride, count, cols, stride);
    v.device = device;
    return v;
  }
};

using TensorF32 = MatrixView<float>;
using ConstTensorF32 = MatrixView<const float>;

}  // namespace octet

#endif  // OCTET_CORE_TENSOR_VIEW_H_
