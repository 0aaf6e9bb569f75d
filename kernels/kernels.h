// Every numeric operation of serving, as plain functions. The arithmetic of each is fixed by
// docs/numerics.md, so all implementations of a function give the same bits for the same inputs,
// whatever the number of rows, the threads, the instruction set. Views must lie on ctx.device.
// Shapes are the caller's duty: a wrong one is a CHECK failure. Outputs never overlap inputs unless
// a function says so.
#ifndef OCTET_KERNELS_KERNELS_H_
#define OCTET_KERNELS_KERNELS_H_

#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"
#include "core/ids.h"
#include "core/model_config.h"
#include "core/tensor_view.h"
#include "kernels/exec_context.h"
#include "kernels/packed_weights.h"

namespace octet {

// ---- Activations of the integer path ----

// int8 rows with one f32 scale per row and group of `group` elements: x ≈ q * scale. k is padded
// with zeros to whole groups. q is [rows][padded_k], scales [rows][padded_k / group], both dense.
// Not owning.
struct QuantizedRows {
  size_t rows = 0;
  size_t padded_k = 0;
  size_t group = 0;
  int8_t* q = nullptr;
  float* scales = nullptr;
};

// s = absmax / 127, q = clamp(rne(x * (127 / absmax)), ±127); absmax < 2^-100 gives s = q = 0.
// out->padded_k and out->group are set by the caller and say how to quantise. A row with NaN or
// infinity gets scale NaN in that group.
void QuantizeRows(const ExecContext& ctx, ConstTensorF32 x, const QuantizedRows& out);
// Allocates from ctx.arena for a matrix with `format` (kInt).
QuantizedRows AllocQuantizedRows(const ExecContext& ctx, const WeightFormat& format, size_t rows,
                                 size_t k);

// ---- Matrix products: y [rows, n] = x [rows, k] Wᵀ ----

// Float kinds. One accumulator per output, k ascending, fused multiply-add.
void MatMulFloat(const ExecContext& ctx, const PackedWeights& w, ConstTensorF32 x, TensorF32 y);
// Integer kinds. x.group == w.format.activation_group, x.padded_k == PaddedK(w.format, w.k).
void MatMulInt(const ExecContext& ctx, const PackedWeights& w, const QuantizedRows& x, TensorF32 y);
// Either: quantises x into the arena first where the weights are integer.
void MatMul(const ExecContext& ctx, const PackedWeights& w, ConstTensorF32 x, TensorF32 y);

// ---- Experts ----

struct ExpertWeights {
  PackedWeights gate;  // w1 [intermediate, hidden]
  PackedWeights up;    // w3 [intermediate, hidden], same format as gate
  PackedWeights down;  // w2 [hidden, intermediate]
};

// Rows for an expert as they come off the wire: f32 where the gate weights are of a float kind,
// else int8 in the activation groups of gate.format. Exactly one of the two is set.
struct ExpertInput {
  ConstTensorF32 f32;
  QuantizedRows q;
};

// y[i] = down · (silu(gate · x[r]) * (up · x[r])) with r = row_indices[i]; y is
// [row_indices.size(), hidden]. silu(v) = v / (1 + exp(-v)). The middle row is quantised in down's
// activation groups where down is of an integer kind.
void ExpertFfn(const ExecContext& ctx, const ExpertWeights& weights, const ExpertInput& x,
               absl::Span<const uint32_t> row_indices, TensorF32 y);

// The columns of an expert whose three matrices are integer: for each input of a matrix, padding
// included, the sum of what its outputs multiply it with, modulo 2^32.
struct ExpertColumns {
  const uint32_t* gate = nullptr;  // [PaddedK]
  const uint32_t* up = nullptr;
  const uint32_t* down = nullptr;
};
// Writes the column of an integer matrix, PaddedK(w.format, w.k) long.
void MakeCheckColumn(const PackedWeights& w, uint32_t* column);
// As ExpertFfn, with the same bits. False where a product is not what the weights give that the
// columns were made of: some code of theirs has changed, or the arithmetic erred. Then y is of no
// use. Scales and minima are not looked at.
bool CheckedExpertFfn(const ExecContext& ctx, const ExpertWeights& weights,
                      const ExpertColumns& columns, const ExpertInput& x,
                      absl::Span<const uint32_t> row_indices, TensorF32 y);

// y[r] = x[r] + sum over slots of weights[r][s] * replies[r][s], slots in ascending order:
// acc = w0*y0, then acc = fma(ws, ys, acc); y = x + acc. replies[r * k + s] points at hidden
// floats. y may be x.
void CombineExperts(const ExecContext& ctx, ConstTensorF32 x, size_t k, const float* weights,
                    const float* const* replies, TensorF32 y);

// ---- Gates ----

// Chosen experts, best first; ties go to the lower id; weights are renormalised to sum to one.
// Dense, [rows][k].
struct TopK {
  size_t rows = 0;
  size_t k = 0;
  uint32_t* experts = nullptr;
  float* weights = nullptr;
  float* probabilities = nullptr;  // where set: [rows][E], the softmax over all experts
};

// logits [rows, E] = W x; p = softmax; top-k; renormalise.
void GateLinear(const ExecContext& ctx, const PackedWeights& w, ConstTensorF32 x, const TopK& out);
// q, k, v [rows, E] each; a_ij = softmax_j(q_i k_j); p_i = sum_j a_ij v_j; softmax over p; top-k;
// renormalise.
void GateAttention(const ExecContext& ctx, const PackedWeights& wq, const PackedWeights& wk,
                   const PackedWeights& wv, ConstTensorF32 x, const TopK& out);

// ---- Rows ----

// y = x / sqrt(mean(x²) + eps) * weight. y may be x.
void RmsNorm(const ExecContext& ctx, ConstTensorF32 x, const float* weight, float eps, TensorF32 y);
// y = x + y. Element-wise.
void AddRows(const ExecContext& ctx, ConstTensorF32 x, TensorF32 y);
// y[r] = float values of embedding row ids[r]; y is [ids.size(), table.k].
void EmbedRows(const ExecContext& ctx, const PackedWeights& table, absl::Span<const TokenId> ids,
               TensorF32 y);

// cos and sin of position * theta^(-2i/d), tables [positions][d/2], computed in double and rounded
// once.
void FillRopeTable(double theta, size_t head_dim, size_t positions, float* cos_table,
                   float* sin_table);
// Rotates pairs (i, i + d/2) of each of the `heads` heads of every row in place, at positions[r].
void ApplyRope(const ExecContext& ctx, const float* cos_table, const float* sin_table,
               size_t head_dim, absl::Span<const uint32_t> positions, TensorF32 x);

// ---- Attention over the paged cache ----

// One layer of the cache. Block b of it starts at data + b * block_stride_bytes and holds, in
// elements of dtype (kF32, kF16 or kI8), K as [kv_heads][head_dim][64] (dimension-major) and then V
// as [kv_heads][64][head_dim], with 64 = kKvBlockPositions; for kI8 then the f32 scales of K and of
// V, each [kv_heads][64]. Position p of a sequence is element p % 64 of its block p / 64.
struct KvLayer {
  uint8_t* data = nullptr;
  size_t block_stride_bytes = 0;
  DType dtype = DType::kF32;
  size_t kv_heads = 0;
  size_t head_dim = 0;
};
// Bytes of K and V of one block of one layer; a multiple of 64.
size_t KvBlockLayerBytes(DType dtype, size_t kv_heads, size_t head_dim);

// Consecutive positions of one sequence inside a batch of rows.
struct SequenceRows {
  size_t row_begin = 0;              // first row in q, k, v and out
  size_t rows = 0;                   // how many
  uint32_t position_begin = 0;       // absolute position of the first row
  absl::Span<const BlockId> blocks;  // block table, covering position_begin + rows positions
};

// Writes k, v [rows, kv_heads * head_dim] (rotated k) at their positions, rounded to the cache's
// dtype; for kI8 each head of a row is quantised as one group of QuantizeRows.
void AppendKv(const ExecContext& ctx, const KvLayer& cache,
              absl::Span<const SequenceRows> sequences, ConstTensorF32 k, ConstTensorF32 v);

// out[r] = softmax(q[r] · K / sqrt(head_dim)) V, causal, over positions (p - window, p] (window 0:
// all), grouped queries (head h reads kv head h / (heads / kv_heads)). q and out are [rows, heads *
// head_dim]. Blocks give (max, sum, output) each and merge in ascending order, so bits do not
// depend on how rows are batched.
void PagedAttention(const ExecContext& ctx, const KvLayer& cache,
                    absl::Span<const SequenceRows> sequences, size_t heads, uint32_t window,
                    ConstTensorF32 q, TensorF32 out);

// ---- Heads ----

// Index of the greatest value, the lowest one on ties. NaN never wins over a number.
TokenId ArgMax(absl::Span<const float> logits);
// log(sum(exp(x))), with the fixed lanes of docs/numerics.md.
float LogSumExp(absl::Span<const float> x);
// True where every value is finite.
bool AllFinite(absl::Span<const float> x);
// Both of logits at once: ArgMax and AllFinite.
struct LogitScan {
  TokenId best = 0;
  bool finite = true;
};
LogitScan ScanLogits(absl::Span<const float> logits);
// out[i] = the greatest number (-inf where there is none) of the i-th `piece` values of x; the last
// piece may be shorter.
void PieceMaxima(absl::Span<const float> x, size_t piece, float* out);
// out[i] = exp((x[i] - max) / divisor).
void ExpScaled(absl::Span<const float> x, float max, float divisor, float* out);

}  // namespace octet

#endif  // OCTET_KERNELS_KERNELS_H_
