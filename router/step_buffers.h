// Memory of one step's activations, made once at start: the step loop allocates nothing.
#ifndef OCTET_ROUTER_STEP_BUFFERS_H_
#define OCTET_ROUTER_STEP_BUFFERS_H_

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "core/batch.h"
#include "core/check.h"
#include "core/model_config.h"
#include "core/tensor_view.h"
#include "core/wire_format.h"
#include "kernels/kernels.h"

namespace octet {

// `count` elements, 64-byte aligned, zero at first. Move-only.
template <typename T>
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(size_t count) {
    const size_t bytes = (count * sizeof(T) + 63) / 64 * 64;
    if (bytes == 0) return;
    data_.reset(static_cast<T*>(std::aligned_alloc(64, bytes)));
    OCTET_CHECK(data_ != nullptr) << "out of memory for " << bytes << " bytes of activations";
    __builtin_memset(static_cast<void*>(data_.get()), 0, bytes);
  }
  T* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T, Free> data_;
};

// Rows of floats with room for `rows_max`.
class RowBuffer {
 public:
  RowBuffer(size_t rows_max, size_t cols) : memory_(rows_max * cols), cols_(cols) {}
  TensorF32 rows(size_t count) const { return slice(0, count); }
  TensorF32 slice(size_t begin, size_t count) const {
    return TensorF32(memory_.data() + begin * cols_, count, cols_);
  }

 private:
  AlignedBuffer<float> memory_;
  size_t cols_;
};

// Most parts that a step's rows are computed in.
inline constexpr size_t kMicroBatchesMax = 2;

// Consecutive rows of a step that go through the layers together. Views of the StepBuffers that
// made it; the next Slice with the same index ends them.
struct MicroBatch {
  uint32_t index = 0;  // within its step
  size_t rows = 0;
  absl::Span<const uint32_t> positions;
  TensorF32 x, normed, q, k, v, attended, projected;
  int8_t* wire_q = nullptr;
  float* wire_scales = nullptr;
  uint32_t* experts = nullptr;
  float* expert_weights = nullptr;
  std::vector<SequenceRows> sequences;  // rows counted from the first of this part
  std::vector<const float*> replies;    // [rows * top_k], filled by Combine
};

// Written by the layers in the order of the fields. One step at a time.
struct StepBuffers {
  StepBuffers(const ModelConfig& config, const std::vector<WireFormat>& wire_formats,
              size_t rows_max, size_t sequences_max);

  // Part `index` of `batch`: rows [begin, end). A sequence may lie in several parts.
  MicroBatch* Slice(const Batch& batch, uint32_t index, size_t begin, size_t end);

  RowBuffer x;          // residual stream, [rows, hidden]
  RowBuffer normed;     // [rows, hidden]
  RowBuffer q;          // [rows, heads * head_dim]
  RowBuffer k;          // [rows, kv_heads * head_dim]
  RowBuffer v;          // [rows, kv_heads * head_dim]
  RowBuffer attended;   // [rows, heads * head_dim]
  RowBuffer projected;  // [rows, hidden]
  AlignedBuffer<int8_t> wire_q;
  AlignedBuffer<float> wire_scales;
  AlignedBuffer<uint32_t> experts;      // [rows, top_k]
  AlignedBuffer<float> expert_weights;  // [rows, top_k]
  size_t top_k;
  size_t wire_row_bytes = 0;   // of wire_q, of the widest layer
  size_t wire_row_scales = 0;  // of wire_scales
  MicroBatch parts[kMicroBatchesMax];
};

}  // namespace octet

#endif  // OCTET_ROUTER_STEP_BUFFERS_H_
