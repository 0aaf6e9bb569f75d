// The w4x formats: w = float(factor * (code - 8)) * scale with a scale per output and an integer
// factor per group, activations with one scale per row. A product is one integer sum over all of K,
// converted once, so its order is free. Internal to kernels/.
#ifndef OCTET_KERNELS_W4X_H_
#define OCTET_KERNELS_W4X_H_

#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"
#include "kernels/dispatch.h"
#include "kernels/kernels.h"
#include "kernels/panel_layout.h"
#include "kernels/product_check.h"

namespace octet {

inline bool IsW4x(const WeightFormat& format) { return format.scale == ScaleEncoding::kF32xI4; }

// Quantises one output of k finite weights into lane `lane` of a zeroed panel.
void PackW4xRow(const WeightFormat& format, const float* w, size_t k, const PanelLayout& layout,
                size_t lane, uint8_t* panel);

// y = x Wᵀ with a level's kernels. `check` may be null.
void FastMatMulW4x(const ExecContext& ctx, const KernelTable& table, const PackedWeights& w,
                   const QuantizedRows& x, TensorF32 y, ProductCheck* check);

// ExpertFfn (kernels.h) where all three matrices are w4x. With checks (may be null): false where a
// product does not fit.
bool FastFfnW4x(const ExecContext& ctx, const KernelTable& table, const ExpertWeights& w,
                const QuantizedRows& x, absl::Span<const uint32_t> row_indices, TensorF32 y,
                ExpertChecks* checks);

}  // namespace octet

#endif  // OCTET_KERNELS_W4X_H_
