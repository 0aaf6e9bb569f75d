// What an instruction-set level provides: functions over raw pointers, one table a level. The
// drivers in kernels/*.cc split the work over threads and call these; all levels give the bits of
// kernels/reference. Only plain C types here: code built with wider instruction sets must not
// instantiate inline functions that the linker could share with the rest of the program.
#ifndef OCTET_KERNELS_X86_KERNEL_TABLE_H_
#define OCTET_KERNELS_X86_KERNEL_TABLE_H_

#include <stddef.h>
#include <stdint.h>

#include "core/tensor_view.h"

namespace octet {

// Weights along K that a level unpacks at once. Every activation group is a multiple of it.
inline constexpr size_t kUnit = 32;
// Rows of a prepared tile at most.
inline constexpr size_t kTileRows = 32;
// Panels of one call of int_panels at most.
inline constexpr size_t kPanelsAtOnce = 8;
// Rows of one call of float_panels at most.
inline constexpr size_t kFloatRows = 6;

// One integer matrix in the layout of packed_weights.h.
struct IntMatrix {
  const uint8_t* data;
  size_t panel_bytes;
  size_t second;           // offset of the second section
  size_t values;           // offset of the value area
  size_t units;            // padded_k / 32
  size_t units_per_group;  // weight group / 32; 1 for groups of 16 and 32
};

// How the offset of codes is made good.
struct IntBias {
  int32_t offset;
  int32_t mask;   // of the result
  size_t halves;  // weight groups in a unit
};

// Activations of up to kTileRows rows, laid out in the order in which a panel reads them. A unit
// has `halves` weight groups: 2 where weights are grouped by 16, else 1.
struct IntTile {
  size_t rows;
  int8_t* q;      // [units][rows][32]
  float* scales;  // [units][rows], of the activation group the unit lies in
  int32_t* bias;  // [units][halves][rows], -offset * sum of q, its bits in bias_mask alone
  float* sums;    // [units][rows], sum of q; used with minima only
  // [rows]: to each is added the sum of all integers that become its outputs, padding included,
  // modulo 2^32. Null: not wanted.
  uint32_t* checks = nullptr;
};

// One matrix in a w4x format (kernels/w4x.h).
struct W4xMatrix {
  const uint8_t* data;
  size_t panel_bytes;
  size_t factors;          // offset of the factors, [group][16] int8
  size_t values;           // offset of the value area
  size_t units;            // padded_k / 32
  size_t units_per_group;  // weight group / 32
};

// Up to kTileRows rows for it.
struct W4xTile {
  size_t rows;
  const int8_t* const* q;      // [rows], padded_k each
  const float* scales;         // [rows]
  const int32_t* bias;         // [units][rows], by the level's w4x_bias
  uint32_t* checks = nullptr;  // as IntTile's
};

// Encodings with a kernel of their own. kWide: groups longer than a unit.
enum class IntKernel : uint8_t {
  kU4,       // q4_0
  kU4Wide,   // int4g64, int4g128
  kU4Min,    // q4_1
  kU4Super,  // q4_k
  kU5,       // q5_0
  kU5Min,    // q5_1
  kU5Super,  // q5_k
  kU6Half,   // q6_k
  kS8,       // q8_0
  kS8Wide,   // int8g64, int8g128
  kCount,
};

enum class FloatKind : uint8_t { kF32, kF16, kBF16 };

// Rows of one sequence and one kv head, at consecutive positions.
struct AttentionTask {
  const uint8_t* cache;  // start of the layer
  size_t block_stride;   // bytes
  const uint32_t* blocks;
  DType dtype;  // kF32, kF16 or kI8
  size_t kv_heads;
  size_t head_dim;
  size_t kv_head;
  size_t group;     // query heads that read it
  size_t position;  // of the first row
  size_t rows;      // rows * group <= kAttentionQueries
  size_t window;
  const float* q;  // first row, first query head of the group
  float* out;
  size_t q_stride;
  size_t out_stride;
  float* scratch;  // AttentionScratchFloats(head_dim)
};

inline constexpr size_t kAttentionQueries = 48;
inline constexpr size_t AttentionScratchFloats(size_t head_dim) {
  return 2 * (kAttentionQueries + 16) + 6 * 64 + 2 * kAttentionQueries * head_dim;
}

struct KernelTable {
  // Offset that int_panel of kS8 expects in the bias (the codes it multiplies are q + offset).
  int32_t signed_offset;
  // Bits of a bias that the kernels of 4-bit codes want: all, or the low 16 where they add it in 16
  // bits (it fits, as |8 * sum of q| <= 32,512).
  int32_t nibble_bias_mask;
  // out [count][tile.rows][16] = the 16 outputs of each of `count` <= kPanelsAtOnce panels.
  void (*int_panels[static_cast<size_t>(IntKernel::kCount)])(const IntMatrix& w,
                                                             const IntTile& tile, size_t panel,
                                                             size_t count, float* out);
  // Writes `units` units of row r of a tile. scales holds one value per units_per_scale units.
  void (*prepare_row)(const int8_t* q, const float* scales, size_t units, size_t units_per_scale,
                      IntBias bias, size_t r, const IntTile& tile);
  // As int_panels, for w4x.
  void (*w4x_panels)(const W4xMatrix& w, const W4xTile& tile, size_t panel, size_t count,
                     float* out);
  // Writes bias[u * stride] for the units of one row.
  void (*w4x_bias)(const int8_t* q, size_t units, size_t stride, int32_t* bias);
  // The sum of column[32 u + i] * q[stride u + i] over u < units and i < 32, modulo 2^32.
  uint32_t (*column_dot)(const uint32_t* column, const int8_t* q, size_t units, size_t stride);
  void (*quantize_row)(const float* x, size_t k, size_t padded_k, size_t group, int8_t* q,
                       float* scales);
  // out[r * out_stride + 16 p + i] for `panels` panels and rows <= kFloatRows.
  void (*float_panels)(FloatKind kind, const uint8_t* data, size_t panel_bytes, size_t panels,
                       size_t k, const float* const* x, size_t rows, float* out, size_t out_stride);
  void (*attention)(const AttentionTask& task);
  void (*rms_norm)(const float* x, const float* weight, size_t n, float eps, float* y);
  void (*add)(const float* x, size_t n, float* y);
  void (*silu_mul)(const float* gate, const float* up, size_t n, float* out);
  void (*softmax)(float* x, size_t n);
  void (*rope)(const float* cos_row, const float* sin_row, size_t half, float* x);
  void (*combine)(const float* x, size_t k, const float* weights, const float* const* replies,
                  size_t n, float* y);
  void (*to_half)(const float* x, size_t n, uint16_t* y);
  // Greatest number of x (-inf where there is none), and the sum of exp(x - max).
  float (*max)(const float* x, size_t n);
  float (*sum_exp)(const float* x, size_t n, float max);
  // out[i] = exp((x[i] - max) / divisor).
  void (*exp_scaled)(const float* x, size_t n, float max, float divisor, float* out);
};

const KernelTable& Avx2Kernels();
const KernelTable& Avx512Kernels();
const KernelTable& AmxKernels();  // those, and tiles for products of many rows

}  // namespace octet

#endif  // OCTET_KERNELS_X86_KERNEL_TABLE_H_
