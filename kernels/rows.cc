#include <cmath>

#include "core/check.h"
#include "kernels/dispatch.h"
#include "kernels/kernels.h"
#include "kernels/math.h"
#include "kernels/parallel.h"
#include "kernels/reference/reference.h"

namespace octet {
namespace {

// Rows a thread must have before a second one is worth its wake-up.
size_t RowGrain(size_t cols) { return 16384 / (cols + 1) + 1; }

}  // namespace

void CombineExperts(const ExecContext& ctx, ConstTensorF32 x, size_t k, const float* weights,
                    const float* const* replies, TensorF32 y) {
  OCTET_CHECK(x.rows == y.rows && x.cols == y.cols && k >= 1);
  const KernelTable* table = FastKernels(ctx.level);
  const auto combine = table != nullptr ? table->combine : reference::CombineRow;
  ParallelRange(ctx, x.rows, RowGrain(x.cols), [&](size_t begin, size_t end, int) {
    for (size_t r = begin; r < end; ++r) {
      combine(x.row(r), k, weights + r * k, replies + r * k, x.cols, y.row(r));
    }
  });
}

void RmsNorm(const ExecContext& ctx, ConstTensorF32 x, const float* weight, float eps,
             TensorF32 y) {
  OCTET_CHECK(x.rows == y.rows && x.cols == y.cols);
  const KernelTable* table = FastKernels(ctx.level);
  const auto rms_norm = table != nullptr ? table->rms_norm : reference::RmsNormRow;
  ParallelRange(ctx, x.rows, RowGrain(x.cols), [&](size_t begin, size_t end, int) {
    for (size_t r = begin; r < end; ++r) {
      rms_norm(x.row(r), weight, x.cols, eps, y.row(r));
    }
  });
}

void AddRows(const ExecContext& ctx, ConstTensorF32 x, TensorF32 y) {
  OCTET_CHECK(x.rows == y.rows && x.cols == y.cols);
  const KernelTable* table = FastKernels(ctx.level);
  const auto add = table != nullptr ? table->add : reference::AddRow;
  ParallelRange(ctx, x.rows, RowGrain(x.cols), [&](size_t begin, size_t end, int) {
    for (size_t r = begin; r < end; ++r) add(x.row(r), x.cols, y.row(r));
  });
}

void EmbedRows(const ExecContext& ctx, const PackedWeights& table, absl::Span<const TokenId> ids,
               TensorF32 y) {
  OCTET_CHECK(y.rows == ids.size() && y.cols == table.k);
  ParallelRange(ctx, ids.size(), RowGrain(8 * table.k), [&](size_t begin, size_t end, int) {
    for (size_t r = begin; r < end; ++r) {
      OCTET_CHECK(ids[r] >= 0);
      UnpackRow(table, static_cast<size_t>(ids[r]), y.row(r));
    }
  });
}

void FillRopeTable(double theta, size_t head_dim, size_t positions, float* cos_table,
                   float* sin_table) {
  OCTET_CHECK(head_dim % 2 == 0);
  const size_t half = head_dim / 2;
  const double log_theta = LogD(theta);
  for (size_t i = 0; i < half; ++i) {
    const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(head_dim);
    const double frequency = i == 0 ? 1.0 : ExpD(exponent * log_theta);
    for (size_t p = 0; p < positions; ++p) {
      double sine, cosine;
      SinCosD(static_cast<double>(p) * frequency, &sine, &cosine);
      cos_table[p * half + i] = static_cast<float>(cosine);
      sin_table[p * half + i] = static_cast<float>(sine);
    }
  }
}

void ApplyRope(const ExecContext& ctx, const float* cos_table, const float* sin_table,
               size_t head_dim, absl::Span<const uint32_t> positions, TensorF32 x) {
  OCTET_CHECK(head_dim > 0 && head_dim % 2 == 0 && x.cols % head_dim == 0);
  OCTET_CHECK_EQ(positions.size(), x.rows);
  const size_t half = head_dim / 2;
  const KernelTable* table = FastKernels(ctx.level);
  const auto rope = table != nullptr ? table->rope : reference::RopeHead;
  ParallelRange(ctx, x.rows, RowGrain(x.cols), [&](size_t begin, size_t end, int) {
    for (size_t r = begin; r < end; ++r) {
      const float* cos_row = cos_table + positions[r] * half;
      const float* sin_row = sin_table + positions[r] * half;
      for (size_t h = 0; h < x.cols; h += head_dim) {
        rope(cos_row, sin_row, half, x.row(r) + h);
      }
    }
  });
}

}  // namespace octet
