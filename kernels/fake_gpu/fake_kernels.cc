// The kernels of the table, by the host's functions of the same names. Matrices keep the host's
// packed layout.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "core/limits.h"
#include "kernels/fake_gpu/fake_device.h"
#include "kernels/math.h"
#include "kernels/packed_weights.h"

namespace octet::fake_gpu {
namespace {

using cuda::Cache;
using cuda::ExpertMatrices;
using cuda::Matrix;
using cuda::RowGroups;
using cuda::Rows;
using cuda::Sequence;
using cuda::Stream;

// Scratch that nothing here needs, but that callers are to bring.
constexpr size_t kScratchBytes = 256;

PackedWeights PackedOf(const Matrix& m) { return {m.format, m.n, m.k, m.data, Device{}}; }

bool ReachesMatrix(Kernel& k, const Matrix& m) {
  return k.Reaches(m.data, PackedBytes(m.format, m.n, m.k));
}

bool ReachesScratch(Kernel& k, const void* scratch) {
  return k.Reaches(static_cast<const uint8_t*>(scratch), kScratchBytes);
}

// Rows as the products of `w` take them.
QuantizedRows RowsFor(const Matrix& w, size_t rows, const int8_t* q, const float* scales) {
  QuantizedRows out;
  out.rows = rows;
  out.padded_k = PaddedK(w.format, w.k);
  out.group = ActivationGroup(w.format, w.k);
  out.q = const_cast<int8_t*>(q);
  out.scales = const_cast<float*>(scales);
  return out;
}

bool ReachesRows(Kernel& k, const QuantizedRows& x) {
  return k.Reaches(x.q, x.rows * x.padded_k) && k.Reaches(x.scales, x.rows * x.padded_k / x.group);
}

// Elements that rows of `cols` span.
size_t Span(size_t rows, size_t stride, size_t cols) {
  return rows == 0 ? 0 : (rows - 1) * stride + cols;
}

// ---- Products ----

int QuantizeRowsOn(Stream stream, const float* x, size_t rows, size_t k, size_t stride,
                   size_t padded_k, size_t group, int8_t* q, float* scales) {
  return Launch(stream, [=](Kernel& kernel) {
    const QuantizedRows out{rows, padded_k, group, q, scales};
    if (!kernel.Reaches(x, Span(rows, stride, k)) || !ReachesRows(kernel, out)) return;
    QuantizeRows(kernel.ctx(), {x, rows, k, stride}, out);
  });
}

void MatMulIntWith(Kernel& kernel, const Matrix& w, const int8_t* q, const float* scales,
                   size_t rows, float* y, size_t y_stride) {
  const QuantizedRows x = RowsFor(w, rows, q, scales);
  if (!ReachesMatrix(kernel, w) || !ReachesRows(kernel, x)) return;
  if (!kernel.Reaches(y, Span(rows, y_stride, w.n))) return;
  MatMulInt(kernel.ctx(), PackedOf(w), x, {y, rows, w.n, y_stride});
}

int MatMulIntOn(Stream stream, const Matrix& w, const int8_t* q, const float* scales, size_t rows,
                void* scratch, float* y, size_t y_stride) {
  return Launch(stream, [=](Kernel& kernel) {
    if (ReachesScratch(kernel, scratch)) MatMulIntWith(kernel, w, q, scales, rows, y, y_stride);
  });
}

int MatMulIntManyOn(Stream stream, const cuda::MatMulTarget* targets, size_t count, const int8_t* q,
                    const float* scales, size_t rows, void* scratch) {
  const std::vector<cuda::MatMulTarget> copy(targets, targets + count);
  return Launch(stream, [=](Kernel& kernel) {
    if (!ReachesScratch(kernel, scratch)) return;
    for (const cuda::MatMulTarget& t : copy) {
      MatMulIntWith(kernel, t.w, q, scales, rows, t.y, t.y_stride);
    }
  });
}

int MatMulFloatOn(Stream stream, const Matrix& w, const float* x, size_t rows, size_t x_stride,
                  float* y, size_t y_stride) {
  return Launch(stream, [=](Kernel& kernel) {
    if (!ReachesMatrix(kernel, w) || !kernel.Reaches(x, Span(rows, x_stride, w.k))) return;
    if (!kernel.Reaches(y, Span(rows, y_stride, w.n))) return;
    MatMulFloat(kernel.ctx(), PackedOf(w), {x, rows, w.k, x_stride}, {y, rows, w.n, y_stride});
  });
}

// ---- Experts ----

// The arrays of `groups`, and the number of its entries in `*entries`.
bool ReachesGroups(Kernel& kernel, const RowGroups& groups, size_t* entries) {
  if (!kernel.Reaches(groups.offsets, groups.experts + 1)) return false;
  *entries = groups.offsets[groups.experts];
  if (*entries > groups.rows_max) return kernel.Reaches<float>(nullptr, 1);
  return kernel.Reaches(groups.rows, *entries);
}

int MoeFfnOn(Stream stream, const ExpertMatrices& shape, const ExpertMatrices* experts,
             const RowGroups& groups, const int8_t* q, const float* scales, void* scratch,
             float* y) {
  if (!shape.gate.format.is_integer()) return kInvalidValue;
  return Launch(stream, [=](Kernel& kernel) {
    size_t entries = 0;
    if (!ReachesScratch(kernel, scratch) || !ReachesGroups(kernel, groups, &entries)) return;
    const uint32_t* const rows = groups.rows;
    const size_t inputs = entries == 0 ? 0 : *std::max_element(rows, rows + entries) + size_t{1};
    ExpertInput x;
    x.q = RowsFor(shape.gate, inputs, q, scales);
    const size_t hidden = shape.down.n;
    if (!ReachesRows(kernel, x.q) || !kernel.Reaches(y, entries * hidden)) return;
    if (!kernel.Reaches(experts, groups.experts)) return;
    for (uint32_t e = 0; e < groups.experts; ++e) {
      const ExpertMatrices& m = experts[e];
      const size_t begin = groups.offsets[e], count = groups.offsets[e + 1] - begin;
      if (count == 0) continue;
      if (!ReachesMatrix(kernel, m.gate) || !ReachesMatrix(kernel, m.up)) return;
      if (!ReachesMatrix(kernel, m.down)) return;
      ExpertFfn(kernel.ctx(), {PackedOf(m.gate), PackedOf(m.up), PackedOf(m.down)}, x,
                {rows + begin, count}, {y + begin * hidden, count, hidden});
    }
  });
}

float RoundBf16(float x) { return BF16ToF32(F32ToBF16(x)); }

// y = W x with W [n, k] of bf16, row-major as moe_ffn_bf16 takes it.
std::vector<float> Bf16Product(const Matrix& w, const std::vector<float>& x) {
  std::vector<float> y(w.n);
  for (size_t i = 0; i < w.n; ++i) {
    const uint8_t* const row = w.data + 2 * i * w.k;
    float sum = 0.0f;
    for (size_t j = 0; j < w.k; ++j) {
      uint16_t bits;
      std::memcpy(&bits, row + 2 * j, 2);
      sum = std::fma(BF16ToF32(bits), x[j], sum);
    }
    y[i] = sum;
  }
  return y;
}

int MoeFfnBf16On(Stream stream, size_t hidden, size_t middle, const ExpertMatrices* experts,
                 const RowGroups& groups, const float* x, void* scratch, float* y) {
  if (hidden % 64 != 0 || middle % 64 != 0) return kInvalidValue;
  return Launch(stream, [=](Kernel& kernel) {
    size_t entries = 0;
    if (!ReachesScratch(kernel, scratch) || !ReachesGroups(kernel, groups, &entries)) return;
    if (!kernel.Reaches(experts, groups.experts) || !kernel.Reaches(y, entries * hidden)) return;
    for (uint32_t e = 0; e < groups.experts; ++e) {
      const ExpertMatrices& m = experts[e];
      for (uint32_t i = groups.offsets[e]; i < groups.offsets[e + 1]; ++i) {
        if (!kernel.Reaches(m.gate.data, 2 * hidden * middle)) return;
        if (!kernel.Reaches(m.up.data, 2 * hidden * middle)) return;
        if (!kernel.Reaches(m.down.data, 2 * hidden * middle)) return;
        const float* const from = x + groups.rows[i] * hidden;
        if (!kernel.Reaches(from, hidden)) return;
        std::vector<float> row(hidden);
        std::transform(from, from + hidden, row.begin(), RoundBf16);
        std::vector<float> h = Bf16Product(m.gate, row);
        const std::vector<float> up = Bf16Product(m.up, row);
        for (size_t j = 0; j < middle; ++j) {
          h[j] = RoundBf16(h[j] / (1.0f + ExpF(-h[j])) * up[j]);
        }
        const std::vector<float> out = Bf16Product(m.down, h);
        std::copy(out.begin(), out.end(), y + i * hidden);
      }
    }
  });
}

// ---- Rows ----

int RmsNormOn(Stream stream, const float* x, size_t rows, size_t cols, const float* weight,
              float eps, float* y) {
  return Launch(stream, [=](Kernel& kernel) {
    if (!kernel.Reaches(x, rows * cols) || !kernel.Reaches(weight, cols)) return;
    if (!kernel.Reaches(y, rows * cols)) return;
    RmsNorm(kernel.ctx(), {x, rows, cols, cols}, weight, eps, {y, rows, cols, cols});
  });
}

int AddRowsOn(Stream stream, const float* x, size_t count, float* y) {
  return Launch(stream, [=](Kernel& kernel) {
    if (!kernel.Reaches(x, count) || !kernel.Reaches(y, count)) return;
    AddRows(kernel.ctx(), {x, 1, count, count}, {y, 1, count, count});
  });
}

int GatherRowsOn(Stream stream, const void* from, size_t row_bytes, const uint32_t* rows,
                 size_t count, void* to) {
  if (row_bytes % 4 != 0) return kInvalidValue;
  return Launch(stream, [=](Kernel& kernel) {
    auto* const target = static_cast<uint8_t*>(to);
    if (!kernel.Reaches(rows, count) || !kernel.Reaches(target, count * row_bytes)) return;
    for (size_t i = 0; i < count; ++i) {
      const uint8_t* const row = static_cast<const uint8_t*>(from) + rows[i] * row_bytes;
      if (!kernel.Reaches(row, row_bytes)) return;
      std::memcpy(target + i * row_bytes, row, row_bytes);
    }
  });
}

int EmbedRowsOn(Stream stream, const Matrix& table, const int32_t* ids, size_t rows, float* y) {
  return Launch(stream, [=](Kernel& kernel) {
    if (!ReachesMatrix(kernel, table) || !kernel.Reaches(ids, rows)) return;
    if (!kernel.Reaches(y, rows * table.k)) return;
    EmbedRows(kernel.ctx(), PackedOf(table), {ids, rows}, {y, rows, table.k, table.k});
  });
}

// What `rows` says, as the host's functions take it.
struct Batch {
  std::vector<uint32_t> positions;  // of each row
  std::vector<std::vector<BlockId>> blocks;
  std::vector<SequenceRows> sequences;
};

// False where an array is out of reach.
bool ReadBatch(Kernel& kernel, const Rows& rows, bool with_blocks, Batch* out) {
  if (!kernel.Reaches(rows.row_sequence, rows.rows)) return false;
  if (!kernel.Reaches(rows.sequences, rows.sequence_count)) return false;
  for (uint32_t r = 0; r < rows.rows; ++r) {
    const Sequence& s = rows.sequences[rows.row_sequence[r]];
    out->positions.push_back(s.position_begin + (r - s.row_begin));
  }
  if (!with_blocks) return true;
  out->blocks.resize(rows.sequence_count);
  for (uint32_t i = 0; i < rows.sequence_count; ++i) {
    const Sequence& s = rows.sequences[i];
    const size_t count = (s.position_begin + s.rows + kKvBlockPositions - 1) / kKvBlockPositions;
    if (!kernel.Reaches(rows.blocks + s.block_begin, count)) return false;
    for (size_t b = 0; b < count; ++b) {
      out->blocks[i].push_back(BlockId(rows.blocks[s.block_begin + b]));
    }
    out->sequences.push_back({s.row_begin, s.rows, s.position_begin, out->blocks[i]});
  }
  return true;
}

bool ReachesCache(Kernel& kernel, const Cache& cache, const Batch& batch) {
  const size_t bytes = KvBlockLayerBytes(cache.dtype, cache.kv_heads, cache.head_dim);
  for (const auto& blocks : batch.blocks) {
    for (const BlockId block : blocks) {
      if (!kernel.Reaches(cache.data + block.value() * cache.block_stride_bytes, bytes))
        return false;
    }
  }
  return true;
}

KvLayer LayerOf(const Cache& c) {
  return {c.data, c.block_stride_bytes, c.dtype, c.kv_heads, c.head_dim};
}

void RotateWith(Kernel& kernel, const float* cos_table, const float* sin_table, size_t head_dim,
                const Batch& batch, size_t heads, float* x) {
  const size_t rows = batch.positions.size(), cols = heads * head_dim;
  uint32_t last = 0;
  for (const uint32_t position : batch.positions) last = std::max(last, position);
  const size_t table = (last + size_t{1}) * (head_dim / 2);
  if (!kernel.Reaches(cos_table, table) || !kernel.Reaches(sin_table, table)) return;
  if (!kernel.Reaches(x, rows * cols)) return;
  ApplyRope(kernel.ctx(), cos_table, sin_table, head_dim, batch.positions, {x, rows, cols, cols});
}

void AppendWith(Kernel& kernel, const Cache& cache, const Batch& batch, const float* k,
                const float* v) {
  const size_t rows = batch.positions.size();
  const size_t cols = size_t{cache.kv_heads} * cache.head_dim;
  if (!ReachesCache(kernel, cache, batch)) return;
  if (!kernel.Reaches(k, rows * cols) || !kernel.Reaches(v, rows * cols)) return;
  AppendKv(kernel.ctx(), LayerOf(cache), batch.sequences, {k, rows, cols, cols},
           {v, rows, cols, cols});
}

bool Serves(const Cache& cache) { return cache.dtype == DType::kF16 || cache.dtype == DType::kF32; }

int ApplyRopeOn(Stream stream, const float* cos_table, const float* sin_table, size_t head_dim,
                const Rows& rows, size_t heads, float* x) {
  return Launch(stream, [=](Kernel& kernel) {
    Batch batch;
    if (!ReadBatch(kernel, rows, false, &batch)) return;
    RotateWith(kernel, cos_table, sin_table, head_dim, batch, heads, x);
  });
}

int AppendKvOn(Stream stream, const Cache& cache, const Rows& rows, const float* k,
               const float* v) {
  if (!Serves(cache)) return kInvalidValue;
  return Launch(stream, [=](Kernel& kernel) {
    Batch batch;
    if (ReadBatch(kernel, rows, true, &batch)) AppendWith(kernel, cache, batch, k, v);
  });
}

int PagedAttentionOn(Stream stream, const Cache& cache, const Rows& rows, size_t heads,
                     uint32_t window, const float* q, void* scratch, float* out) {
  if (!Serves(cache)) return kInvalidValue;
  return Launch(stream, [=](Kernel& kernel) {
    Batch batch;
    if (!ReachesScratch(kernel, scratch) || !ReadBatch(kernel, rows, true, &batch)) return;
    const size_t n = batch.positions.size(), cols = heads * cache.head_dim;
    if (!ReachesCache(kernel, cache, batch)) return;
    if (!kernel.Reaches(q, n * cols) || !kernel.Reaches(out, n * cols)) return;
    PagedAttention(kernel.ctx(), LayerOf(cache), batch.sequences, heads, window, {q, n, cols, cols},
                   {out, n, cols, cols});
  });
}

// ---- The choice of experts ----

// A matrix [n, 1] whose product with 1 is the row `values`, for the gates, which make their logits
// themselves.
class Column {
 public:
  Column(const float* values, size_t n) : memory_(PackedBytes(Format(), n, 1) / 64) {
    auto* const bytes = reinterpret_cast<uint8_t*>(memory_.data());
    // One weight an output: panels of 16 follow one another.
    std::memcpy(bytes, values, n * sizeof(float));
    weights_ = {Format(), n, 1, bytes, Device{}};
  }
  const PackedWeights& weights() const { return weights_; }

 private:
  static WeightFormat Format() { return *WeightFormatFromName("f32"); }
  struct alignas(64) Line {
    uint8_t bytes[64] = {};
  };
  std::vector<Line> memory_;
  PackedWeights weights_;
};

void ChooseLinearWith(Kernel& kernel, const float* logits, size_t rows, size_t experts, size_t k,
                      uint32_t* out_experts, float* out_weights) {
  if (!kernel.Reaches(logits, rows * experts) || !kernel.Reaches(out_experts, rows * k)) return;
  if (!kernel.Reaches(out_weights, rows * k)) return;
  const float one = 1.0f;
  for (size_t r = 0; r < rows; ++r) {
    const Column column(logits + r * experts, experts);
    GateLinear(kernel.ctx(), column.weights(), {&one, 1, 1, 1},
               {1, k, out_experts + r * k, out_weights + r * k, nullptr});
  }
}

void ChooseAttentionWith(Kernel& kernel, const float* q, const float* k, const float* v,
                         size_t rows, size_t experts, size_t top_k, uint32_t* out_experts,
                         float* out_weights) {
  for (const float* of : {q, k, v}) {
    if (!kernel.Reaches(of, rows * experts)) return;
  }
  if (!kernel.Reaches(out_experts, rows * top_k)) return;
  if (!kernel.Reaches(out_weights, rows * top_k)) return;
  const float one = 1.0f;
  for (size_t r = 0; r < rows; ++r) {
    const size_t at = r * experts;
    const Column query(q + at, experts), key(k + at, experts), value(v + at, experts);
    GateAttention(kernel.ctx(), query.weights(), key.weights(), value.weights(), {&one, 1, 1, 1},
                  {1, top_k, out_experts + r * top_k, out_weights + r * top_k, nullptr});
  }
}

void PlanRowsWith(Kernel& kernel, const uint32_t* chosen, size_t rows, size_t k, size_t experts,
                  uint32_t* offsets, uint32_t* sorted_rows, uint32_t* slots) {
  const size_t entries = rows * k;
  if (!kernel.Reaches(chosen, entries) || !kernel.Reaches(offsets, experts + 1)) return;
  if (!kernel.Reaches(sorted_rows, entries) || !kernel.Reaches(slots, entries)) return;
  uint32_t at = 0;
  for (uint32_t e = 0; e < experts; ++e) {
    offsets[e] = at;
    for (size_t i = 0; i < entries; ++i) {
      if (chosen[i] != e) continue;
      sorted_rows[at] = static_cast<uint32_t>(i / k);
      slots[i] = at++;
    }
  }
  offsets[experts] = at;
}

int ChooseLinearOn(Stream stream, const float* logits, size_t rows, size_t experts, size_t k,
                   uint32_t* out_experts, float* out_weights) {
  return Launch(stream, [=](Kernel& kernel) {
    ChooseLinearWith(kernel, logits, rows, experts, k, out_experts, out_weights);
  });
}

int ChooseAttentionOn(Stream stream, const float* q, const float* k, const float* v, size_t rows,
                      size_t experts, size_t top_k, uint32_t* out_experts, float* out_weights) {
  return Launch(stream, [=](Kernel& kernel) {
    ChooseAttentionWith(kernel, q, k, v, rows, experts, top_k, out_experts, out_weights);
  });
}

int PlanRowsOn(Stream stream, const uint32_t* chosen, size_t rows, size_t k, size_t experts,
               uint32_t* offsets, uint32_t* sorted_rows, uint32_t* slots) {
  return Launch(stream, [=](Kernel& kernel) {
    PlanRowsWith(kernel, chosen, rows, k, experts, offsets, sorted_rows, slots);
  });
}

void CombineWith(Kernel& kernel, const float* x, size_t rows, size_t cols, size_t k,
                 const float* weights, const uint32_t* slots, const float* replies, float* y) {
  if (!kernel.Reaches(x, rows * cols) || !kernel.Reaches(y, rows * cols)) return;
  if (!kernel.Reaches(weights, rows * k) || !kernel.Reaches(slots, rows * k)) return;
  std::vector<const float*> pointers;
  for (size_t i = 0; i < rows * k; ++i) {
    pointers.push_back(replies + slots[i] * cols);
    if (!kernel.Reaches(pointers.back(), cols)) return;
  }
  CombineExperts(kernel.ctx(), {x, rows, cols, cols}, k, weights, pointers.data(),
                 {y, rows, cols, cols});
}

int CombineOn(Stream stream, const float* x, size_t rows, size_t cols, size_t k,
              const float* weights, const uint32_t* slots, const float* replies, float* y) {
  return Launch(stream, [=](Kernel& kernel) {
    CombineWith(kernel, x, rows, cols, k, weights, slots, replies, y);
  });
}

int ScanLogitsOn(Stream stream, const float* logits, size_t rows, size_t vocab, int32_t* best,
                 uint8_t* finite) {
  return Launch(stream, [=](Kernel& kernel) {
    if (!kernel.Reaches(logits, rows * vocab) || !kernel.Reaches(best, rows)) return;
    if (!kernel.Reaches(finite, rows)) return;
    for (size_t r = 0; r < rows; ++r) {
      const LogitScan scan = ScanLogits({logits + r * vocab, vocab});
      best[r] = scan.best;
      finite[r] = scan.finite ? 1 : 0;
    }
  });
}

// ---- Several in one launch ----

int NormQuantizeOn(Stream stream, const cuda::NormQuantize& c) {
  const bool adds = c.delta != nullptr || c.k > 0;
  if ((c.delta != nullptr && c.k > 0) || (adds && c.x_out == nullptr)) return kInvalidValue;
  return Launch(stream, [=](Kernel& kernel) {
    const size_t count = c.rows * c.cols;
    if (!kernel.Reaches(c.x, count)) return;
    std::vector<float> x(c.x, c.x + count);
    if (c.delta != nullptr) {
      if (!kernel.Reaches(c.delta, count)) return;
      AddRows(kernel.ctx(), {c.delta, 1, count, count}, {x.data(), 1, count, count});
    }
    if (adds && !kernel.Reaches(c.x_out, count)) return;
    if (c.k > 0) {
      CombineWith(kernel, c.x, c.rows, c.cols, c.k, c.weights, c.slots, c.replies, c.x_out);
      if (!kernel.reaches()) return;
      x.assign(c.x_out, c.x_out + count);
    } else if (adds) {
      std::copy(x.begin(), x.end(), c.x_out);
    }
    if (!kernel.Reaches(c.norm_weight, c.cols)) return;
    const TensorF32 normed(x.data(), c.rows, c.cols, c.cols);
    RmsNorm(kernel.ctx(), normed, c.norm_weight, c.eps, normed);
    if (c.normed != nullptr) {
      if (!kernel.Reaches(c.normed, count)) return;
      std::copy(x.begin(), x.end(), c.normed);
    }
    if (c.q == nullptr) return;
    const QuantizedRows out{c.rows, c.padded_k, c.group, c.q, c.scales};
    if (ReachesRows(kernel, out)) QuantizeRows(kernel.ctx(), normed, out);
  });
}

int RopeAppendOn(Stream stream, const cuda::RopeAppend& c) {
  if (!Serves(c.cache)) return kInvalidValue;
  return Launch(stream, [=](Kernel& kernel) {
    Batch batch;
    if (!ReadBatch(kernel, c.rows, true, &batch)) return;
    const auto turn = [&](size_t heads, float* x) {
      RotateWith(kernel, c.cos_table, c.sin_table, c.cache.head_dim, batch, heads, x);
      return kernel.reaches();
    };
    if (!turn(c.heads, c.q) || !turn(c.cache.kv_heads, c.k)) return;
    AppendWith(kernel, c.cache, batch, c.k, c.v);
  });
}

int ChoosePlanOn(Stream stream, const cuda::ChoosePlan& c) {
  return Launch(stream, [=](Kernel& kernel) {
    if (c.logits != nullptr) {
      ChooseLinearWith(kernel, c.logits, c.rows, c.experts, c.top_k, c.chosen, c.weights);
    } else {
      ChooseAttentionWith(kernel, c.q, c.k, c.v, c.rows, c.experts, c.top_k, c.chosen, c.weights);
    }
    if (!kernel.reaches()) return;
    PlanRowsWith(kernel, c.chosen, c.rows, c.top_k, c.experts, c.offsets, c.sorted_rows, c.slots);
  });
}

int MatMulGateOn(Stream stream, const cuda::GateProduct& c) {
  return MatMulFloatOn(stream, c.w, c.x, c.rows, c.x_stride, c.y, c.y_stride);
}

int TileMatrix(Stream stream, const WeightFormat& format, size_t n, size_t k, const uint8_t* packed,
               uint8_t* out) {
  return Launch(stream, [=](Kernel& kernel) {
    const size_t bytes = PackedBytes(format, n, k);
    if (kernel.Reaches(packed, bytes) && kernel.Reaches(out, bytes))
      std::memcpy(out, packed, bytes);
  });
}

}  // namespace

void AddKernels(cuda::CudaApi* api) {
  api->matrix_bytes = [](const WeightFormat& format, size_t n, size_t k) {
    return (PackedBytes(format, n, k) + 255) / 256 * 256;
  };
  api->tile_matrix = TileMatrix;
  api->quantize_rows = QuantizeRowsOn;
  api->matmul_scratch_bytes = [](const WeightFormat&, size_t, size_t) { return kScratchBytes; };
  api->matmul_int = MatMulIntOn;
  api->matmul_int_many = MatMulIntManyOn;
  api->matmul_float = MatMulFloatOn;
  api->moe_scratch_bytes = [](const ExpertMatrices&, uint32_t, size_t) { return kScratchBytes; };
  api->moe_ffn = MoeFfnOn;
  api->moe_scratch_bytes_bf16 = [](size_t, size_t, uint32_t, size_t) { return kScratchBytes; };
  api->moe_ffn_bf16 = MoeFfnBf16On;
  api->rms_norm = RmsNormOn;
  api->add_rows = AddRowsOn;
  api->gather_rows = GatherRowsOn;
  api->embed_rows = EmbedRowsOn;
  api->apply_rope = ApplyRopeOn;
  api->append_kv = AppendKvOn;
  api->attention_scratch_bytes = [](size_t, size_t, size_t, uint32_t) { return kScratchBytes; };
  api->paged_attention = PagedAttentionOn;
  api->choose_linear = ChooseLinearOn;
  api->choose_attention = ChooseAttentionOn;
  api->plan_rows = PlanRowsOn;
  api->combine = CombineOn;
  api->scan_logits = ScanLogitsOn;
  api->norm_quantize = NormQuantizeOn;
  api->rope_append = RopeAppendOn;
  api->choose_plan = ChoosePlanOn;
  api->matmul_gate = MatMulGateOn;
}

}  // namespace octet::fake_gpu
