// What the CUDA plugin (liboctet_cuda.so) offers, as one table of plain functions, so that a
// program built without CUDA can open it at run time. Internal to kernels/: others call kernels.h
// and kernels/cuda_library.h.
//
// All pointers named without `host_` point to memory of the current device of the calling thread.
// Functions that take a stream only enqueue and never wait; they and what they enqueue never
// allocate, so that a step can be captured into a graph. They return 0, or an error whose text
// `error_text` gives; what goes wrong later shows in the next `synchronize`. The arithmetic is
// docs/numerics.md's, bit for bit, but for the functions whose names end in `_bf16`.
#ifndef OCTET_KERNELS_CUDA_CUDA_API_H_
#define OCTET_KERNELS_CUDA_CUDA_API_H_

#include <cstddef>
#include <cstdint>

#include "core/tensor_view.h"
#include "core/weight_format.h"

namespace octet::cuda {

// Raised whenever anything in this header changes: the two sides must be of one build.
inline constexpr uint32_t kCudaApiVersion = 3;

using Stream = void*;  // cudaStream_t
using Graph = void*;   // cudaGraphExec_t

struct DeviceProperties {
  char name[64];
  int compute_major;
  int compute_minor;
  int multiprocessors;
  uint64_t memory_bytes;
  uint64_t l2_bytes;
};

// One matrix W [n, k] in the device's layout (kernels/cuda/layout.h).
struct Matrix {
  WeightFormat format;
  size_t n = 0;
  size_t k = 0;
  const uint8_t* data = nullptr;
};

struct ExpertMatrices {
  Matrix gate;
  Matrix up;
  Matrix down;
};

// One of several products of the same rows.
struct MatMulTarget {
  Matrix w;
  float* y = nullptr;
  size_t y_stride = 0;
};

// Rows sorted by expert: expert e computes entries [offsets[e], offsets[e + 1]) of `rows`, each the
// index of a row of the input, and writes its outputs at the same places. Arrays on the device.
struct RowGroups {
  uint32_t experts = 0;
  const uint32_t* offsets = nullptr;  // [experts + 1]
  const uint32_t* rows = nullptr;     // [offsets[experts]]
  // Bounds that the host knows, for the size of the launch: rows of one expert, and of all.
  uint32_t rows_of_expert_max = 0;
  uint32_t rows_max = 0;
};

// Positions of one sequence inside a batch, as SequenceRows of kernels.h.
struct Sequence {
  uint32_t row_begin;
  uint32_t rows;
  uint32_t position_begin;
  uint32_t block_begin;  // of its block table within `blocks`
};

// One layer of the cache, as KvLayer of kernels.h (kF32 or kF16).
struct Cache {
  uint8_t* data;
  size_t block_stride_bytes;
  DType dtype;
  uint32_t kv_heads;
  uint32_t head_dim;
};

// The rows of a step. The three arrays lie on the device; a row belongs to the sequence that
// row_sequence names.
struct Rows {
  uint32_t rows = 0;
  const Sequence* sequences = nullptr;
  const uint32_t* row_sequence = nullptr;  // [rows]
  const uint32_t* blocks = nullptr;        // block tables, one after another
  uint32_t sequence_count = 0;
  uint32_t positions_max = 0;  // greatest position + 1 that the launch must serve
};

// Several row operations of a step in one launch each, with the bits of the functions named. Where
// `early` is set the launch may begin before the one ahead of it in the stream has ended: then that
// one must not write the weights, tables, Rows and the arrays Rows points to. A shape that has no
// launch of its own runs as the functions named do, one after another.

// add_rows or combine, then rms_norm, then quantize_rows, each where it is set. Outputs may be x.
struct NormQuantize {
  size_t rows = 0;
  size_t cols = 0;
  const float* x = nullptr;  // [rows, cols] dense, as all rows here
  // At most one of the two is added to x: `delta`, or the replies as combine takes them (k > 0).
  const float* delta = nullptr;
  size_t k = 0;
  const float* weights = nullptr;
  const uint32_t* slots = nullptr;
  const float* replies = nullptr;
  float* x_out = nullptr;  // the sum, needed where something is added, else not written
  const float* norm_weight = nullptr;
  float eps = 0.0f;
  float* normed = nullptr;  // may be null
  int8_t* q = nullptr;      // may be null; else with padded_k, group and scales as quantize_rows
  size_t padded_k = 0;
  size_t group = 0;
  float* scales = nullptr;
  bool early = false;
};

// apply_rope of q and of k, then append_kv. Afterwards k may be rotated or not.
struct RopeAppend {
  const float* cos_table = nullptr;
  const float* sin_table = nullptr;
  Rows rows;
  size_t heads = 0;
  float* q = nullptr;
  Cache cache{};
  float* k = nullptr;
  const float* v = nullptr;
  bool early = false;
};

// choose_linear where logits is set, else choose_attention, then plan_rows.
struct ChoosePlan {
  size_t rows = 0;
  size_t experts = 0;
  size_t top_k = 0;
  const float* logits = nullptr;
  const float* q = nullptr;
  const float* k = nullptr;
  const float* v = nullptr;
  uint32_t* chosen = nullptr;
  float* weights = nullptr;
  uint32_t* offsets = nullptr;
  uint32_t* sorted_rows = nullptr;
  uint32_t* slots = nullptr;
  bool early = false;
};

// matmul_float, fast for a gate: f32 weights, at most 8 outputs, few rows.
struct GateProduct {
  Matrix w;
  const float* x = nullptr;
  size_t rows = 0;
  size_t x_stride = 0;
  float* y = nullptr;
  size_t y_stride = 0;
  bool early = false;
};

struct CudaApi {
  uint32_t version;
  const char* (*error_text)(int error);

  // ---- Devices, memory, streams. These may wait. ----
  int (*device_count)(int* count);
  int (*set_device)(int device);  // of the calling thread
  int (*device_properties)(int device, DeviceProperties* out);
  int (*memory_free)(uint64_t* bytes);
  int (*allocate)(size_t bytes, void** out);  // 256-byte aligned
  void (*release)(void* memory);
  int (*allocate_host)(size_t bytes, void** host_out);  // page-locked
  void (*release_host)(void* host_memory);
  int (*create_stream)(Stream* out);
  void (*destroy_stream)(Stream stream);
  int (*synchronize)(Stream stream);
  // Any direction; enqueued.
  int (*copy)(Stream stream, void* to, const void* from, size_t bytes);
  int (*fill)(Stream stream, void* to, uint8_t byte, size_t bytes);
  // What is enqueued between the two becomes a graph; nothing of it runs.
  int (*begin_capture)(Stream stream);
  int (*end_capture)(Stream stream, Graph* out);
  int (*launch_graph)(Stream stream, Graph graph);
  void (*destroy_graph)(Graph graph);
  // Time between two points of a stream, in milliseconds; waits for the second.
  int (*create_event)(void** out);
  void (*destroy_event)(void* event);
  int (*record_event)(Stream stream, void* event);
  int (*elapsed_ms)(void* from, void* to, float* out);

  // ---- Weights ----
  // Bytes of a matrix on the device, a multiple of 256; 0 where the format has no kernel here.
  size_t (*matrix_bytes)(const WeightFormat& format, size_t n, size_t k);
  // Turns a packed matrix (packed_weights.h) that lies on the device into the device's layout.
  int (*tile_matrix)(Stream stream, const WeightFormat& format, size_t n, size_t k,
                     const uint8_t* packed, uint8_t* out);

  // ---- The integer path, and exact float products ----
  int (*quantize_rows)(Stream stream, const float* x, size_t rows, size_t k, size_t stride,
                       size_t padded_k, size_t group, int8_t* q, float* scales);
  // The products of few rows may begin before the launch ahead of them in the stream has ended:
  // that one must not write their weights. Scratch of matmul_int, in bytes.
  size_t (*matmul_scratch_bytes)(const WeightFormat& format, size_t k, size_t rows);
  int (*matmul_int)(Stream stream, const Matrix& w, const int8_t* q, const float* scales,
                    size_t rows, void* scratch, float* y, size_t y_stride);
  // The same for matrices of one k whose formats quantise activations alike; faster together.
  int (*matmul_int_many)(Stream stream, const MatMulTarget* targets, size_t count, const int8_t* q,
                         const float* scales, size_t rows, void* scratch);
  int (*matmul_float)(Stream stream, const Matrix& w, const float* x, size_t rows, size_t x_stride,
                      float* y, size_t y_stride);
  // Scratch of moe_ffn for `rows_max` entries, in bytes.
  size_t (*moe_scratch_bytes)(const ExpertMatrices& shape, uint32_t experts, size_t rows_max);
  // y[i] = expert(row rows[i] of the input), [rows_max, hidden] dense. All experts have the shapes
  // and formats of `shape`; `experts` is an array on the device. Integer gate and up; any down.
  int (*moe_ffn)(Stream stream, const ExpertMatrices& shape, const ExpertMatrices* experts,
                 const RowGroups& groups, const int8_t* q, const float* scales, void* scratch,
                 float* y);

  // ---- Experts on bf16 tensor cores: a profile of its own (docs/gpu.md) ----
  size_t (*moe_scratch_bytes_bf16)(size_t hidden, size_t middle, uint32_t experts, size_t rows_max);
  // As moe_ffn with f32 rows x [.., hidden], rounded to bf16 first; weights bf16.
  int (*moe_ffn_bf16)(Stream stream, size_t hidden, size_t middle, const ExpertMatrices* experts,
                      const RowGroups& groups, const float* x, void* scratch, float* y);

  // ---- Rows ----
  int (*rms_norm)(Stream stream, const float* x, size_t rows, size_t cols, const float* weight,
                  float eps, float* y);
  int (*add_rows)(Stream stream, const float* x, size_t count, float* y);
  // to[i] = row rows[i] of `from`, dense rows of `row_bytes` bytes, a multiple of 4.
  int (*gather_rows)(Stream stream, const void* from, size_t row_bytes, const uint32_t* rows,
                     size_t count, void* to);
  // y = table row ids[r]; the table in the device's layout.
  int (*embed_rows)(Stream stream, const Matrix& table, const int32_t* ids, size_t rows, float* y);
  // Rotates `heads` heads of every row in place, at the position of each row.
  int (*apply_rope)(Stream stream, const float* cos_table, const float* sin_table, size_t head_dim,
                    const Rows& rows, size_t heads, float* x);
  int (*append_kv)(Stream stream, const Cache& cache, const Rows& rows, const float* k,
                   const float* v);
  size_t (*attention_scratch_bytes)(size_t rows, size_t heads, size_t head_dim,
                                    uint32_t positions_max);
  int (*paged_attention)(Stream stream, const Cache& cache, const Rows& rows, size_t heads,
                         uint32_t window, const float* q, void* scratch, float* out);
  // Chosen experts from the logits of a linear gate [rows, E], or from q, k, v of an attention
  // gate; out as TopK of kernels.h.
  int (*choose_linear)(Stream stream, const float* logits, size_t rows, size_t experts, size_t k,
                       uint32_t* out_experts, float* out_weights);
  int (*choose_attention)(Stream stream, const float* q, const float* k, const float* v,
                          size_t rows, size_t experts, size_t top_k, uint32_t* out_experts,
                          float* out_weights);
  // The plan of a step whose experts are all on this device: rows sorted by expert, in ascending
  // order of (row, slot) within each. slots[r * k + s] is the place of row r's s-th choice.
  int (*plan_rows)(Stream stream, const uint32_t* chosen, size_t rows, size_t k, size_t experts,
                   uint32_t* offsets, uint32_t* sorted_rows, uint32_t* slots);
  // y[r] = x[r] + sum over s of weights[r * k + s] * replies[slots[r * k + s]], in slot order.
  int (*combine)(Stream stream, const float* x, size_t rows, size_t cols, size_t k,
                 const float* weights, const uint32_t* slots, const float* replies, float* y);
  // Index of the greatest logit of each row, the lowest on ties, and whether all are finite.
  int (*scan_logits)(Stream stream, const float* logits, size_t rows, size_t vocab, int32_t* best,
                     uint8_t* finite);
  // Several of the above in one launch: see their structs.
  int (*norm_quantize)(Stream stream, const NormQuantize& call);
  int (*rope_append)(Stream stream, const RopeAppend& call);
  int (*choose_plan)(Stream stream, const ChoosePlan& call);
  int (*matmul_gate)(Stream stream, const GateProduct& call);
};

// The plugin's one exported symbol: null where `version` or the size of the table is not its own.
using GetCudaApi = const CudaApi* (*)(uint32_t version, size_t bytes);
inline constexpr char kGetCudaApiName[] = "octet_get_cuda_api";

}  // namespace octet::cuda

#endif  // OCTET_KERNELS_CUDA_CUDA_API_H_
