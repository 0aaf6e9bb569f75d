// Threaded drivers of the fast products. Internal to kernels/.
#ifndef OCTET_KERNELS_MATMUL_FAST_H_
#define OCTET_KERNELS_MATMUL_FAST_H_

#include "kernels/dispatch.h"
#include "kernels/kernels.h"
#include "kernels/prepared_rows.h"
#include "kernels/product_check.h"

namespace octet {

// y = x Wᵀ for prepared rows. `check`, here and below, may be null.
void FastMatMulInt(const ExecContext& ctx, const FastInt& fast, const PreparedRows& x, TensorF32 y,
                   ProductCheck* check);
// MatMulInt (kernels.h).
void MultiplyInt(const ExecContext& ctx, const PackedWeights& w, const QuantizedRows& x,
                 TensorF32 y, ProductCheck* check);
// y = x Wᵀ; row r of x starts at x[r].
void FastMatMulFloat(const ExecContext& ctx, const KernelTable& table, const PackedWeights& w,
                     const float* const* x, TensorF32 y);

// Copies `out` [panels][rows][16] to rows [row, ...) and columns [16 first, ...) of y, without the
// padding past its end. Row by row, so that what is written lies together.
void CopyPanels(const float* out, size_t first, size_t panels, size_t row, size_t rows,
                TensorF32 y);

// Panels a thread must have before a second one is worth its wake-up.
size_t PanelGrain(size_t panel_bytes, size_t k, size_t rows);

}  // namespace octet

#endif  // OCTET_KERNELS_MATMUL_FAST_H_
