// The arithmetic of docs/numerics.md as plain scalar code: what every other implementation must
// reproduce bit for bit, and what runs at CpuLevel::kScalar. Single-threaded, no scratch memory
// but the stack and std::vector. Shapes and meaning as in kernels.h.
#ifndef OCTET_KERNELS_REFERENCE_REFERENCE_H_
#define OCTET_KERNELS_REFERENCE_REFERENCE_H_

#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"
#include "kernels/kernels.h"

namespace octet::reference {

// Lanes of every reduction over a row.
inline constexpr size_t kLanes = 32;

// The fixed tree that ends a reduction: halves are added until one lane is left. Clobbers `lanes`.
float SumLanes(float (&lanes)[kLanes]);

// One row: k floats to padded_k int8 and padded_k / group scales.
void QuantizeRow(const float* x, size_t k, size_t padded_k, size_t group, int8_t* q, float* scales);

// Outputs [n_begin, n_end) of every row.
void MatMulFloat(const PackedWeights& w, ConstTensorF32 x, size_t n_begin, size_t n_end,
                 TensorF32 y);
// To `sums`, of a number for each row or empty, are added the integers that become outputs, modulo
// 2^32; where n_end is w.n those of the padding after it too.
void MatMulInt(const PackedWeights& w, const QuantizedRows& x, size_t n_begin, size_t n_end,
               TensorF32 y, absl::Span<uint32_t> sums);

// The same for the w4x formats (kernels/w4x.h); MatMulInt refuses them.
void MatMulW4x(const PackedWeights& w, const QuantizedRows& x, size_t n_begin, size_t n_end,
               TensorF32 y, absl::Span<uint32_t> sums);

void SiluMul(const float* gate, const float* up, size_t n, float* out);
// In place: exp(x - max) / sum.
void Softmax(float* x, size_t n);
void RmsNormRow(const float* x, const float* weight, size_t n, float eps, float* y);
// y = x + y.
void AddRow(const float* x, size_t n, float* y);
// One head of one row: pairs (i, i + half) with cos_row and sin_row of its position.
void RopeHead(const float* cos_row, const float* sin_row, size_t half, float* x);
// y = x + (w0 y0, then fma in slot order).
void CombineRow(const float* x, size_t k, const float* weights, const float* const* replies,
                size_t n, float* y);

// One head of one row at `position`: q and out are head_dim long.
void AttendHead(const KvLayer& cache, absl::Span<const BlockId> blocks, size_t kv_head,
                uint32_t position, uint32_t window, const float* q, float* out);

// Greatest number of x, -inf where there is none: NaN is never greater.
float Max(const float* x, size_t n);
// Sum over lanes of exp(x[i] - max).
float SumExp(const float* x, size_t n, float max);

}  // namespace octet::reference

#endif  // OCTET_KERNELS_REFERENCE_REFERENCE_H_
