// Which kernel serves an integer product, and the FFN of experts put together.
#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/int_kernels.h"
#include "kernels/cuda/int_skinny_calls.h"
#include "kernels/cuda/row_kernels.h"

namespace octet::cuda {
namespace {

// Rows of one matrix from which the wide kernels, which compute 128 at a time, are faster.
constexpr uint32_t kWideRowsMin = 65;

size_t AlignUp(size_t bytes) { return (bytes + 255) / 256 * 256; }

bool IsTiled(const WeightFormat& format) { return LayoutOf(format) == Layout::kTiled; }
bool IsW4x(const WeightFormat& format) { return format.scale == ScaleEncoding::kF32xI4; }

QuantRows RowsFor(const WeightFormat& format, size_t k, const int8_t* q, const float* scales) {
  const size_t padded = PaddedK(format, k);
  return {q, scales, static_cast<uint32_t>(padded),
          static_cast<uint32_t>(padded / ActivationGroup(format, k))};
}

SkinnyCall MakeSkinny(cudaStream_t stream, const Matrix& m, uint32_t experts, const EntryMap& map,
                      uint32_t rows_max, uint32_t entries_max, const QuantRows& x, bool early) {
  SkinnyShape shape;
  shape.layout = MakeTiledLayout(m.format, m.k);
  shape.n = static_cast<uint32_t>(m.n);
  shape.panels = CeilDiv(m.n, kTileOutputs);
  shape.chunks = static_cast<uint32_t>(shape.layout.chunks);
  shape.weight_groups = static_cast<uint32_t>(PaddedK(m.format, m.k) / m.format.group);
  return {stream, experts, rows_max, entries_max, shape, map, x, early};
}

int SkinnyProduct(const SkinnyCall& c, const WeightFormat& f, const SkinnyTargets& w) {
  if (IsW4x(f)) return SkinnyProductW4x(f.group, c, w);
  return f.bits == 4 ? SkinnyProductInt4(f.group, c, w) : SkinnyProductInt8(f.group, c, w);
}

SkinnyTargets TargetOf(const MatrixSet& w, float* y, size_t y_stride) {
  SkinnyTargets out;
  out.set = w;
  out.n[0] = static_cast<uint32_t>(w.single.n);
  out.y[0] = y;
  out.y_stride[0] = y_stride;
  return out;
}

int SkinnyGateUp(const SkinnyCall& c, const MatrixSet& gate, const MatrixSet& up,
                 const MiddleOut& out) {
  const WeightFormat& f = gate.single.format;
  if (IsW4x(f)) return SkinnyGateUpW4x(f.group, c, gate, up, out);
  return f.bits == 4 ? SkinnyGateUpInt4(f.group, c, gate, up, out)
                     : SkinnyGateUpInt8(f.group, c, gate, up, out);
}

// ---- One matrix ----

bool IsWide(const WeightFormat& format, size_t rows) {
  return rows >= kWideRowsMin && IsTiled(format) && WideSupports(format);
}

size_t MatMulScratchBytes(const WeightFormat& format, size_t k, size_t rows) {
  return IsWide(format, rows) ? WideImageBytes(format, 1, rows, k) : 0;
}

int MatMulInt(Stream stream, const Matrix& w, const int8_t* q, const float* scales, size_t rows,
              void* scratch, float* y, size_t y_stride) {
  if (rows == 0) return 0;
  const cudaStream_t s = StreamOf(stream);
  const QuantRows x = RowsFor(w.format, w.k, q, scales);
  EntryMap map;
  map.count = static_cast<uint32_t>(rows);
  MatrixSet set;
  set.single = w;
  if (IsWide(w.format, rows)) {
    return WideProduct(s, set, 1, map, map.count, x, static_cast<uint8_t*>(scratch), y, y_stride);
  }
  if (IsTiled(w.format)) {
    return SkinnyProduct(MakeSkinny(s, w, 1, map, map.count, map.count, x, true), w.format,
                         TargetOf(set, y, y_stride));
  }
  return PanelProduct(s, set, 1, map, map.count, x, y, y_stride);
}

// Skinny products of matrices of one format share a launch; else they come one by one.
int MatMulIntMany(Stream stream, const MatMulTarget* targets, size_t count, const int8_t* q,
                  const float* scales, size_t rows, void* scratch) {
  if (rows == 0) return 0;
  const Matrix& first = targets[0].w;
  bool together = count > 1 && count <= SkinnyTargets::kMax && IsTiled(first.format) &&
                  !IsWide(first.format, rows);
  size_t widest = first.n;
  for (size_t i = 1; i < count; ++i) {
    together = together && targets[i].w.format == first.format && targets[i].w.k == first.k;
    if (targets[i].w.n > widest) widest = targets[i].w.n;
  }
  if (!together) {
    for (size_t i = 0; i < count; ++i) {
      const MatMulTarget& t = targets[i];
      const int error = MatMulInt(stream, t.w, q, scales, rows, scratch, t.y, t.y_stride);
      if (error != 0) return error;
    }
    return 0;
  }
  EntryMap map;
  map.count = static_cast<uint32_t>(rows);
  SkinnyTargets all;
  all.count = static_cast<uint32_t>(count);
  for (size_t i = 0; i < count; ++i) {
    all.data[i] = targets[i].w.data;
    all.n[i] = static_cast<uint32_t>(targets[i].w.n);
    all.y[i] = targets[i].y;
    all.y_stride[i] = targets[i].y_stride;
  }
  Matrix shape = first;
  shape.n = widest;
  const QuantRows x = RowsFor(first.format, first.k, q, scales);
  const SkinnyCall call =
      MakeSkinny(StreamOf(stream), shape, all.count, map, map.count, map.count, x, true);
  return SkinnyProduct(call, first.format, all);
}

// ---- Experts ----

// Parts of the scratch memory, in the order in which they lie; what a path does not use is empty.
struct MoeScratch {
  size_t image, middle_image, gate, up, q, scales;
  size_t bytes;
};

MoeScratch PlanScratch(const ExpertMatrices& shape, uint32_t experts, size_t rows_max) {
  const size_t middle = shape.down.k;
  const WeightFormat& down = shape.down.format;
  const size_t padded = PaddedK(down, middle);
  MoeScratch out{};
  size_t at = 0;
  const auto take = [&at](size_t bytes) {
    const size_t begin = at;
    at += AlignUp(bytes);
    return begin;
  };
  // Which path serves depends on the rows of a single expert, known with each call alone.
  const bool wide = IsTiled(down) && IsWide(shape.gate.format, rows_max);
  const bool wide_image = wide && down.activation_group != kWholeRow;
  out.image = take(wide ? WideImageBytes(shape.gate.format, experts, rows_max, shape.gate.k) : 0);
  out.middle_image = take(wide ? WideImageBytes(down, experts, rows_max, middle) : 0);
  const size_t skinny_rows = wide_image ? experts * size_t{kWideRowsMin} : rows_max;
  const size_t rows = skinny_rows < rows_max ? skinny_rows : rows_max;
  out.gate = take(rows * middle * sizeof(float));
  out.up = take(IsTiled(shape.gate.format) ? 0 : rows_max * middle * sizeof(float));
  out.q = take(rows * padded);
  out.scales = take(rows * (padded / ActivationGroup(down, middle)) * sizeof(float));
  out.bytes = at;
  return out;
}

size_t MoeScratchBytes(const ExpertMatrices& shape, uint32_t experts, size_t rows_max) {
  return PlanScratch(shape, experts, rows_max).bytes;
}

__global__ void SiluMulRows(const float* gate, const float* up, size_t count, float* out) {
  const size_t i = size_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < count) out[i] = SiluMul(gate[i], up[i]);
}

struct MoeCall {
  cudaStream_t stream;
  MatrixSet gate, up, down;
  uint32_t experts;
  EntryMap map;
  uint32_t rows_of_expert_max;
  uint32_t rows_max;
  QuantRows x;
  MoeScratch plan;
  uint8_t* scratch;
  float* y;

  float* floats(size_t at) const { return reinterpret_cast<float*>(scratch + at); }
};

int RunWide(const MoeCall& c) {
  WideFfn f;
  f.gate = c.gate;
  f.up = c.up;
  f.down = c.down;
  f.experts = c.experts;
  f.map = c.map;
  f.entries_max = c.rows_max;
  f.x = c.x;
  f.image = c.scratch + c.plan.image;
  f.middle_image = c.scratch + c.plan.middle_image;
  f.h = c.floats(c.plan.gate);
  f.y = c.y;
  return WideExperts(c.stream, f);
}

// The middle rows, as floats or already quantised for down.
int RunGateUp(const MoeCall& c, bool quantised) {
  const Matrix& gate = c.gate.single;
  const WeightFormat& down = c.down.single.format;
  const size_t middle = gate.n;
  float* h = c.floats(c.plan.gate);
  if (IsTiled(gate.format)) {
    MiddleOut out;
    out.h = h;
    out.middle = static_cast<uint32_t>(middle);
    if (quantised) {
      out.q = reinterpret_cast<int8_t*>(c.scratch + c.plan.q);
      out.scales = c.floats(c.plan.scales);
      out.padded_k = static_cast<uint32_t>(PaddedK(down, middle));
      out.group = down.activation_group;
    }
    const SkinnyCall call =
        MakeSkinny(c.stream, gate, c.experts, c.map, c.rows_of_expert_max, c.rows_max, c.x, true);
    return SkinnyGateUp(call, c.gate, c.up, out);
  }
  float* up = c.floats(c.plan.up);
  int error =
      PanelProduct(c.stream, c.gate, c.experts, c.map, c.rows_of_expert_max, c.x, h, middle);
  if (error == 0) {
    error = PanelProduct(c.stream, c.up, c.experts, c.map, c.rows_of_expert_max, c.x, up, middle);
  }
  if (error != 0) return error;
  const size_t count = c.rows_max * middle;
  SiluMulRows<<<CeilDiv(count, 256), 256, 0, c.stream>>>(h, up, count, h);
  return LaunchError();
}

int RunSkinny(const MoeCall& c) {
  const Matrix& down = c.down.single;
  const size_t middle = down.k, padded = PaddedK(down.format, middle);
  const size_t group = ActivationGroup(down.format, middle);
  auto* q = reinterpret_cast<int8_t*>(c.scratch + c.plan.q);
  float* scales = c.floats(c.plan.scales);
  const bool quantised = IsTiled(c.gate.single.format) &&
                         down.format.activation_group != kWholeRow && 128 % group == 0 &&
                         group >= 32;
  if (const int error = RunGateUp(c, quantised)) return error;
  if (!quantised) {
    const int error = QuantizeRows(c.stream, c.floats(c.plan.gate), c.rows_max, middle, middle,
                                   padded, group, q, scales);
    if (error != 0) return error;
  }
  const QuantRows x = RowsFor(down.format, middle, q, scales);
  EntryMap map = c.map;
  map.rows = nullptr;  // the middle lies in the order of the entries
  if (!IsTiled(down.format)) {
    return PanelProduct(c.stream, c.down, c.experts, map, c.rows_of_expert_max, x, c.y, down.n);
  }
  const SkinnyCall call =
      MakeSkinny(c.stream, down, c.experts, map, c.rows_of_expert_max, c.rows_max, x, true);
  return SkinnyProduct(call, down.format, TargetOf(c.down, c.y, down.n));
}

int MoeFfn(Stream stream, const ExpertMatrices& shape, const ExpertMatrices* experts,
           const RowGroups& groups, const int8_t* q, const float* scales, void* scratch, float* y) {
  if (groups.rows_max == 0 || groups.rows_of_expert_max == 0) return 0;
  if (!shape.gate.format.is_integer() || !shape.down.format.is_integer()) {
    return cudaErrorNotSupported;
  }
  MoeCall c;
  c.stream = StreamOf(stream);
  c.gate = {experts, shape.gate, 0};
  c.up = {experts, shape.up, 1};
  c.down = {experts, shape.down, 2};
  c.experts = groups.experts;
  c.map.offsets = groups.offsets;
  c.map.rows = groups.rows;
  c.map.count = groups.rows_max;
  c.rows_of_expert_max = groups.rows_of_expert_max;
  c.rows_max = groups.rows_max;
  c.x = RowsFor(shape.gate.format, shape.gate.k, q, scales);
  c.plan = PlanScratch(shape, groups.experts, groups.rows_max);
  c.scratch = static_cast<uint8_t*>(scratch);
  c.y = y;
  const bool wide = IsTiled(shape.down.format) && IsWide(shape.gate.format, c.rows_of_expert_max);
  return wide ? RunWide(c) : RunSkinny(c);
}

}  // namespace

void AddIntProducts(CudaApi* api) {
  AddMatrices(api);
  api->matmul_scratch_bytes = MatMulScratchBytes;
  api->matmul_int = MatMulInt;
  api->matmul_int_many = MatMulIntMany;
  api->moe_scratch_bytes = MoeScratchBytes;
  api->moe_ffn = MoeFfn;
}

}  // namespace octet::cuda
