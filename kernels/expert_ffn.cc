#include <cstring>

#include "core/check.h"
#include "kernels/kernels.h"
#include "kernels/parallel.h"
#include "kernels/reference/reference.h"

namespace octet {
namespace {

// gate·x and up·x for the chosen rows, which are copied together first.
void GateUpInt(const ExecContext& ctx, const ExpertWeights& w, const QuantizedRows& x,
               absl::Span<const uint32_t> row_indices, TensorF32 gate, TensorF32 up) {
  QuantizedRows rows = x;
  rows.rows = row_indices.size();
  const size_t groups = x.padded_k / x.group;
  rows.q = ctx.arena->Alloc<int8_t>(rows.rows * x.padded_k);
  rows.scales = ctx.arena->Alloc<float>(rows.rows * groups);
  for (size_t i = 0; i < rows.rows; ++i) {
    const size_t r = row_indices[i];
    std::memcpy(rows.q + i * x.padded_k, x.q + r * x.padded_k, x.padded_k);
    std::memcpy(rows.scales + i * groups, x.scales + r * groups, groups * sizeof(float));
  }
  MatMulInt(ctx, w.gate, rows, gate);
  MatMulInt(ctx, w.up, rows, up);
}

void GateUpFloat(const ExecContext& ctx, const ExpertWeights& w, ConstTensorF32 x,
                 absl::Span<const uint32_t> row_indices, TensorF32 gate, TensorF32 up) {
  float* copy = ctx.arena->Alloc<float>(row_indices.size() * x.cols);
  for (size_t i = 0; i < row_indices.size(); ++i) {
    std::memcpy(copy + i * x.cols, x.row(row_indices[i]), x.cols * sizeof(float));
  }
  const ConstTensorF32 rows(copy, row_indices.size(), x.cols);
  MatMulFloat(ctx, w.gate, rows, gate);
  MatMulFloat(ctx, w.up, rows, up);
}

void CheckShapes(const ExpertWeights& w, const ExpertInput& x, size_t rows, TensorF32 y) {
  OCTET_CHECK(w.gate.n == w.up.n && w.gate.k == w.up.k && w.gate.format == w.up.format);
  OCTET_CHECK(w.down.k == w.gate.n && w.down.n == w.gate.k);
  OCTET_CHECK(y.rows == rows && y.cols == w.down.n);
  OCTET_CHECK(w.gate.format.is_integer() == (x.q.q != nullptr));
  OCTET_CHECK((x.q.q != nullptr) != (x.f32.data != nullptr));
  if (x.q.q != nullptr) {
    OCTET_CHECK(x.q.group == w.gate.format.activation_group &&
                x.q.padded_k == PaddedK(w.gate.format, w.gate.k));
  } else {
    OCTET_CHECK_EQ(x.f32.cols, w.gate.k);
  }
}

}  // namespace

void ExpertFfn(const ExecContext& ctx, const ExpertWeights& weights, const ExpertInput& x,
               absl::Span<const uint32_t> row_indices, TensorF32 y) {
  const size_t rows = row_indices.size();
  CheckShapes(weights, x, rows, y);
  for (const uint32_t r : row_indices) {
    OCTET_CHECK_LT(r, x.q.q != nullptr ? x.q.rows : x.f32.rows);
  }
  if (rows == 0) return;
  Scratch scratch(ctx);
  const size_t middle = weights.gate.n;
  const TensorF32 gate(scratch.Alloc<float>(rows * middle), rows, middle, middle);
  const TensorF32 up(scratch.Alloc<float>(rows * middle), rows, middle, middle);
  if (x.q.q != nullptr) {
    GateUpInt(ctx, weights, x.q, row_indices, gate, up);
  } else {
    GateUpFloat(ctx, weights, x.f32, row_indices, gate, up);
  }
  ParallelRange(ctx, rows, 8192 / (middle + 1) + 1, [&](size_t begin, size_t end, int) {
    for (size_t r = begin; r < end; ++r) {
      reference::SiluMul(gate.row(r), up.row(r), middle, gate.row(r));
    }
  });
  MatMul(ctx, weights.down, gate, y);
}

}  // namespace octet
