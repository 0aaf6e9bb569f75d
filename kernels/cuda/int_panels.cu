// Integer formats without a tiled layout (minima, two-level scales, 5 and 6 bits), on the host's
// panels: right for every format, fast for none.
#include "kernels/cuda/int_kernels.h"

namespace octet::cuda {
namespace {

constexpr uint32_t kRows = 16;

// Block (panel, expert, row tile): 16 outputs x 16 rows, one thread each.
__global__ void __launch_bounds__(kPanelOutputs* kRows)
    PanelProductKernel(MatrixSet w, PanelLayout layout, EntryMap map, QuantRows x, float* y,
                       size_t y_stride) {
  const uint32_t expert = blockIdx.y;
  const uint32_t lane = threadIdx.x % kPanelOutputs;
  const uint32_t entry = map.begin(expert) + blockIdx.z * kRows + threadIdx.x / kPanelOutputs;
  const uint32_t output = blockIdx.x * static_cast<uint32_t>(kPanelOutputs) + lane;
  if (entry >= map.end(expert) || output >= w.single.n) return;
  const WeightFormat& f = w.single.format;
  const uint8_t* panel = w.data(expert) + blockIdx.x * layout.bytes;
  const size_t row = map.row(entry);
  const int8_t* q = x.q + row * x.padded_k;
  const float* scales = x.scales + row * x.groups;
  const uint32_t activation_group = x.padded_k / x.groups;
  float acc = 0.0f;
  for (uint32_t group = 0; group * f.group < layout.padded_k; ++group) {
    int dot = 0, sum = 0;
    for (uint32_t k = group * f.group; k < (group + 1) * f.group; ++k) {
      dot += PanelCode(f, layout, panel, k, lane) * q[k];
      sum += q[k];
    }
    const GroupScale scale = PanelScale(f, layout, panel, group, lane);
    const float a_scale = scales[group * f.group / activation_group];
    acc = __fmaf_rn(static_cast<float>(dot), __fmul_rn(scale.scale, a_scale), acc);
    if (f.minimum) {
      acc = __fmaf_rn(static_cast<float>(sum), __fmul_rn(scale.minimum, a_scale), acc);
    }
  }
  y[entry * y_stride + output] = acc;
}

}  // namespace

int PanelProduct(cudaStream_t stream, const MatrixSet& w, uint32_t experts, const EntryMap& map,
                 uint32_t rows_max, const QuantRows& x, float* y, size_t y_stride) {
  const PanelLayout layout = MakePanelLayout(w.single.format, w.single.k);
  const dim3 grid(CeilDiv(w.single.n, kPanelOutputs), experts, CeilDiv(rows_max, kRows));
  PanelProductKernel<<<grid, kPanelOutputs * kRows, 0, stream>>>(w, layout, map, x, y, y_stride);
  return LaunchError();
}

}  // namespace octet::cuda
