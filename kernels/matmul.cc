#include "core/check.h"
#include "kernels/kernels.h"
#include "kernels/panel_layout.h"
#include "kernels/parallel.h"
#include "kernels/reference/reference.h"

namespace octet {

QuantizedRows AllocQuantizedRows(const ExecContext& ctx, const WeightFormat& format, size_t rows,
                                 size_t k) {
  OCTET_CHECK(format.is_integer());
  OCTET_CHECK(ctx.arena != nullptr);
  QuantizedRows out;
  out.rows = rows;
  out.padded_k = PaddedK(format, k);
  out.group = format.activation_group;
  out.q = ctx.arena->Alloc<int8_t>(rows * out.padded_k);
  out.scales = ctx.arena->Alloc<float>(rows * (out.padded_k / out.group));
  return out;
}

void QuantizeRows(const ExecContext& ctx, ConstTensorF32 x, const QuantizedRows& out) {
  OCTET_CHECK_EQ(x.rows, out.rows);
  OCTET_CHECK(out.group > 0 && out.padded_k % out.group == 0 && x.cols <= out.padded_k);
  ParallelRange(ctx, x.rows, 16384 / (x.cols + 1) + 1, [&](size_t begin, size_t end, int) {
    for (size_t r = begin; r < end; ++r) {
      reference::QuantizeRow(x.row(r), x.cols, out.padded_k, out.group, out.q + r * out.padded_k,
                             out.scales + r * (out.padded_k / out.group));
    }
  });
}

void MatMulFloat(const ExecContext& ctx, const PackedWeights& w, ConstTensorF32 x, TensorF32 y) {
  OCTET_CHECK(!w.format.is_integer());
  OCTET_CHECK(x.cols == w.k && y.cols == w.n && y.rows == x.rows);
  ParallelRange(ctx, w.n, 32, [&](size_t begin, size_t end, int) {
    reference::MatMulFloat(w, x, begin, end, y);
  });
}

void MatMulInt(const ExecContext& ctx, const PackedWeights& w, const QuantizedRows& x,
               TensorF32 y) {
  OCTET_CHECK(w.format.is_integer());
  OCTET_CHECK(x.group == w.format.activation_group && x.padded_k == PaddedK(w.format, w.k));
  OCTET_CHECK(y.cols == w.n && y.rows == x.rows);
  ParallelRange(ctx, w.n, 32,
                [&](size_t begin, size_t end, int) { reference::MatMulInt(w, x, begin, end, y); });
}

void MatMul(const ExecContext& ctx, const PackedWeights& w, ConstTensorF32 x, TensorF32 y) {
  if (!w.format.is_integer()) {
    MatMulFloat(ctx, w, x, y);
    return;
  }
  OCTET_CHECK_EQ(x.cols, w.k);
  Scratch scratch(ctx);
  const QuantizedRows q = AllocQuantizedRows(ctx, w.format, x.rows, x.cols);
  QuantizeRows(ctx, x, q);
  MatMulInt(ctx, w, q, y);
}

}  // namespace octet
