#include <utility>
#include <vector>

#include "core/check.h"
#include "kernels/dispatch.h"
#include "kernels/kernels.h"
#include "kernels/matmul_fast.h"
#include "kernels/panel_layout.h"
#include "kernels/parallel.h"
#include "kernels/prepared_rows.h"
#include "kernels/reference/reference.h"
#include "kernels/w4x.h"

namespace octet {
namespace {

void CheckQuantized(const PackedWeights& w, const QuantizedRows& x, TensorF32 y) {
  OCTET_CHECK(w.format.is_integer());
  OCTET_CHECK(x.group == ActivationGroup(w.format, w.k) && x.padded_k == PaddedK(w.format, w.k));
  OCTET_CHECK(y.cols == w.n && y.rows == x.rows);
}

// Rows a thread must have before quantising or preparing them in parallel pays.
size_t RowGrain(size_t k) { return 65536 / (k + 1) + 1; }

// Row r quantised into buffers of padded_k bytes and its scales.
void QuantizeOne(const KernelTable* table, const float* x, size_t k, const QuantizedRows& out,
                 size_t r) {
  const auto quantize = table != nullptr ? table->quantize_row : reference::QuantizeRow;
  quantize(x, k, out.padded_k, out.group, out.q + r * out.padded_k,
           out.scales + r * (out.padded_k / out.group));
}

}  // namespace

QuantizedRows AllocQuantizedRows(const ExecContext& ctx, const WeightFormat& format, size_t rows,
                                 size_t k) {
  OCTET_CHECK(format.is_integer());
  OCTET_CHECK(ctx.arena != nullptr);
  QuantizedRows out;
  out.rows = rows;
  out.padded_k = PaddedK(format, k);
  out.group = ActivationGroup(format, k);
  out.q = ctx.arena->Alloc<int8_t>(rows * out.padded_k);
  out.scales = ctx.arena->Alloc<float>(rows * (out.padded_k / out.group));
  return out;
}

void QuantizeRows(const ExecContext& ctx, ConstTensorF32 x, const QuantizedRows& out) {
  OCTET_CHECK_EQ(x.rows, out.rows);
  OCTET_CHECK(out.group > 0 && out.padded_k % out.group == 0 && x.cols <= out.padded_k);
  const KernelTable* table = out.group % kUnit == 0 ? FastKernels(ctx.level) : nullptr;
  ParallelRange(ctx, x.rows, RowGrain(x.cols), [&](size_t begin, size_t end, int) {
    for (size_t r = begin; r < end; ++r) QuantizeOne(table, x.row(r), x.cols, out, r);
  });
}

void MatMulFloat(const ExecContext& ctx, const PackedWeights& w, ConstTensorF32 x, TensorF32 y) {
  OCTET_CHECK(!w.format.is_integer());
  OCTET_CHECK(x.cols == w.k && y.cols == w.n && y.rows == x.rows);
  if (x.rows == 0) return;
  const KernelTable* table = FastKernels(ctx.level);
  if (table == nullptr) {
    ParallelRange(ctx, w.n, 32, [&](size_t begin, size_t end, int) {
      reference::MatMulFloat(w, x, begin, end, y);
    });
    return;
  }
  Scratch scratch(ctx);
  const float** rows = scratch.Alloc<const float*>(x.rows);
  for (size_t r = 0; r < x.rows; ++r) rows[r] = x.row(r);
  FastMatMulFloat(ctx, *table, w, rows, y);
}

void MatMulInt(const ExecContext& ctx, const PackedWeights& w, const QuantizedRows& x,
               TensorF32 y) {
  MultiplyInt(ctx, w, x, y, nullptr);
}

void MultiplyInt(const ExecContext& ctx, const PackedWeights& w, const QuantizedRows& x,
                 TensorF32 y, ProductCheck* check) {
  CheckQuantized(w, x, y);
  if (x.rows == 0) return;
  const KernelTable* table = FastKernels(ctx.level);
  if (table == nullptr) {
    const auto multiply = IsW4x(w.format) ? reference::MatMulW4x : reference::MatMulInt;
    ParallelRange(ctx, w.n, 32, [&](size_t begin, size_t end, int) {
      std::vector<uint32_t> sums(check == nullptr ? 0 : x.rows);
      multiply(w, x, begin, end, y, absl::MakeSpan(sums));
      if (check != nullptr) check->Add(0, x.rows, sums.data());
    });
    return;
  }
  if (IsW4x(w.format)) return FastMatMulW4x(ctx, *table, w, x, y, check);
  Scratch scratch(ctx);
  const FastInt fast(*table, w);
  const PreparedRows rows(scratch, fast, x.group, x.rows);
  const size_t groups = x.padded_k / x.group;
  ParallelRange(ctx, rows.tiles(), RowGrain(x.padded_k) / kTileRows + 1,
                [&](size_t begin, size_t end, int) {
                  for (size_t t = begin; t < end; ++t) {
                    rows.Fill(*table, t, [&](size_t r) {
                      return std::pair<const int8_t*, const float*>(x.q + r * x.padded_k,
                                                                    x.scales + r * groups);
                    });
                  }
                });
  FastMatMulInt(ctx, fast, rows, y, check);
}

void MatMul(const ExecContext& ctx, const PackedWeights& w, ConstTensorF32 x, TensorF32 y) {
  if (!w.format.is_integer()) {
    MatMulFloat(ctx, w, x, y);
    return;
  }
  OCTET_CHECK_EQ(x.cols, w.k);
  if (x.rows == 0) return;
  Scratch scratch(ctx);
  const KernelTable* table = FastKernels(ctx.level);
  const bool separately = table == nullptr || IsW4x(w.format);
  const size_t buffers = separately ? x.rows : static_cast<size_t>(PoolThreads(ctx));
  QuantizedRows q = AllocQuantizedRows(ctx, w.format, buffers, x.cols);
  if (separately) {
    QuantizeRows(ctx, x, q);
    MatMulInt(ctx, w, q, y);
    return;
  }
  CheckQuantized(w, q, TensorF32(y.data, buffers, y.cols, y.stride));
  OCTET_CHECK_EQ(y.rows, x.rows);
  const FastInt fast(*table, w);
  const PreparedRows rows(scratch, fast, q.group, x.rows);
  const size_t groups = q.padded_k / q.group;
  // Each thread quantises into a row of its own and lays it out from there.
  ParallelRange(ctx, rows.tiles(), RowGrain(x.cols) / kTileRows + 1,
                [&](size_t begin, size_t end, int thread) {
                  const size_t own = static_cast<size_t>(thread);
                  for (size_t t = begin; t < end; ++t) {
                    rows.Fill(*table, t, [&](size_t r) {
                      QuantizeOne(table, x.row(r), x.cols, q, own);
                      return std::pair<const int8_t*, const float*>(q.q + own * q.padded_k,
                                                                    q.scales + own * groups);
                    });
                  }
                });
  FastMatMulInt(ctx, fast, rows, y, nullptr);
}

}  // namespace octet
