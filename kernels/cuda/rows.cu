// Operations on single rows: norm, residual, rotation, combine, the scan of logits, quantising.
#include <cooperative_groups.h>

#include <limits>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/row_kernels.h"
#include "kernels/cuda/row_math.cuh"

namespace octet::cuda {
namespace {

constexpr uint32_t kFullWarp = 0xffffffffu;
constexpr unsigned kThreads = 256;
constexpr unsigned kRowThreads = 512;  // of a block that owns a row

// ---- RMSNorm ----

// Rows of whole vectors that a block holds in registers: kVectors a thread. The weights are under
// way while the first warp sums.
template <int kVectors>
__global__ void __launch_bounds__(kRowThreads)
    RmsNormHeld(const float* x, uint32_t cols, const float* weight, float eps, float* y) {
  __shared__ __align__(16) float row[kRowThreads * kVectors * 4];
  __shared__ float inverse;
  const size_t begin = size_t{blockIdx.x} * cols;
  float4 values[kVectors];
  float4 weights[kVectors];
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const uint32_t i = (v * kRowThreads + threadIdx.x) * 4;
    if (i >= cols) continue;
    values[v] = Load4(x + begin + i);
    weights[v] = Load4(weight + i);
  }
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const uint32_t i = (v * kRowThreads + threadIdx.x) * 4;
    if (i < cols) Store4(row + i, values[v]);
  }
  __syncthreads();
  if (threadIdx.x < 32) {
    const float r = InverseRms(AddSquares(row, cols, threadIdx.x, 0.0f), cols, eps);
    if (threadIdx.x == 0) inverse = r;
  }
  __syncthreads();
  const float r = inverse;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const uint32_t i = (v * kRowThreads + threadIdx.x) * 4;
    if (i >= cols) continue;
    const float4 a = values[v], b = weights[v];
    Store4(y + begin + i,
           {Scaled(a.x, r, b.x), Scaled(a.y, r, b.y), Scaled(a.z, r, b.z), Scaled(a.w, r, b.w)});
  }
}

// Any length and alignment, in pieces of whole lanes.
__global__ void __launch_bounds__(kRowThreads)
    RmsNormAny(const float* x, uint32_t cols, const float* weight, float eps, float* y) {
  constexpr uint32_t kPiece = 8192;
  __shared__ float piece[kPiece];
  __shared__ float inverse;
  const size_t begin = size_t{blockIdx.x} * cols;
  float sum = 0.0f;
  for (uint32_t at = 0; at < cols; at += kPiece) {
    const uint32_t n = min(kPiece, cols - at);
    for (uint32_t i = threadIdx.x; i < n; i += kRowThreads) piece[i] = x[begin + at + i];
    __syncthreads();
    if (threadIdx.x < 32) sum = AddSquares(piece, n, threadIdx.x, sum);
    __syncthreads();
  }
  if (threadIdx.x < 32) {
    const float r = InverseRms(sum, cols, eps);
    if (threadIdx.x == 0) inverse = r;
  }
  __syncthreads();
  for (uint32_t i = threadIdx.x; i < cols; i += kRowThreads) {
    y[begin + i] = Scaled(x[begin + i], inverse, weight[i]);
  }
}

int RmsNorm(Stream stream, const float* x, size_t rows, size_t cols, const float* weight, float eps,
            float* y) {
  if (rows == 0 || cols == 0) return 0;
  const bool wide = cols % 4 == 0 && Aligned16(x) && Aligned16(weight) && Aligned16(y);
  const auto vectors = CeilDiv(cols, 4 * kRowThreads);
  const auto kernel = !wide || vectors > 4 ? RmsNormAny
                      : vectors == 1       ? RmsNormHeld<1>
                      : vectors == 2       ? RmsNormHeld<2>
                                           : RmsNormHeld<4>;
  kernel<<<static_cast<unsigned>(rows), kRowThreads, 0, StreamOf(stream)>>>(
      x, static_cast<uint32_t>(cols), weight, eps, y);
  return LaunchError();
}

// ---- Residuals ----

// One thread a vector; those past `vectors` take one of the last values each.
__global__ void AddRowsKernel(const float* x, size_t vectors, size_t count, float* y) {
  const size_t i = size_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < vectors) {
    Store4(y + 4 * i, Add(Load4(x + 4 * i), Load4(y + 4 * i)));
    return;
  }
  const size_t single = 4 * vectors + (i - vectors);
  if (single < count) y[single] = Add(x[single], y[single]);
}

int AddRows(Stream stream, const float* x, size_t count, float* y) {
  if (count == 0) return 0;
  const size_t vectors = Aligned16(x) && Aligned16(y) ? count / 4 : 0;
  const size_t threads = vectors + (count - 4 * vectors);
  AddRowsKernel<<<CeilDiv(threads, kThreads), kThreads, 0, StreamOf(stream)>>>(x, vectors, count,
                                                                               y);
  return LaunchError();
}

// ---- Rows on their way to experts elsewhere ----

// A block a row, in words of 4 or 16 bytes.
template <typename Word>
__global__ void GatherKernel(const Word* from, size_t words, const uint32_t* rows, Word* to) {
  const Word* source = from + rows[blockIdx.x] * words;
  Word* target = to + blockIdx.x * words;
  for (size_t i = threadIdx.x; i < words; i += kThreads) target[i] = source[i];
}

int GatherRows(Stream stream, const void* from, size_t row_bytes, const uint32_t* rows,
               size_t count, void* to) {
  if (row_bytes % 4 != 0) return cudaErrorInvalidValue;
  if (count == 0 || row_bytes == 0) return 0;
  const auto blocks = static_cast<unsigned>(count);
  if (row_bytes % 16 == 0 && Aligned16(from) && Aligned16(to)) {
    GatherKernel<<<blocks, kThreads, 0, StreamOf(stream)>>>(
        static_cast<const uint4*>(from), row_bytes / 16, rows, static_cast<uint4*>(to));
  } else {
    GatherKernel<<<blocks, kThreads, 0, StreamOf(stream)>>>(
        static_cast<const uint32_t*>(from), row_bytes / 4, rows, static_cast<uint32_t*>(to));
  }
  return LaunchError();
}

// ---- Rotary embeddings ----

// One thread a pair; a block has pairs of one row.
__global__ void RopeKernel(const float* cos_table, const float* sin_table, uint32_t half, Rows rows,
                           uint32_t pairs, float* x) {
  const uint32_t pair = blockIdx.y * kThreads + threadIdx.x;
  if (pair >= pairs) return;
  const uint32_t row = blockIdx.x;
  const Sequence sequence = rows.sequences[rows.row_sequence[row]];
  const size_t position = sequence.position_begin + (row - sequence.row_begin);
  const uint32_t i = pair % half;
  float* low = x + size_t{row} * pairs * 2 + size_t{pair / half} * (2 * half) + i;
  float* high = low + half;
  const float a = *low, b = *high;
  const float c = cos_table[position * half + i];
  const float s = sin_table[position * half + i];
  *low = Fma(a, c, -Mul(b, s));
  *high = Fma(b, c, Mul(a, s));
}

int ApplyRope(Stream stream, const float* cos_table, const float* sin_table, size_t head_dim,
              const Rows& rows, size_t heads, float* x) {
  const size_t pairs = heads * (head_dim / 2);
  if (rows.rows == 0 || pairs == 0) return 0;
  RopeKernel<<<dim3(rows.rows, CeilDiv(pairs, kThreads)), kThreads, 0, StreamOf(stream)>>>(
      cos_table, sin_table, static_cast<uint32_t>(head_dim / 2), rows, static_cast<uint32_t>(pairs),
      x);
  return LaunchError();
}

// ---- Combine ----

// One thread a vector of type V. All replies are under way before the first is used.
template <typename V, int kSlotsMax>
__global__ void CombineKernel(const V* x, uint32_t cols, uint32_t k, const float* weights,
                              const uint32_t* slots, const V* replies, V* y) {
  const uint32_t i = blockIdx.y * kThreads + threadIdx.x;
  if (i >= cols) return;
  const size_t row = blockIdx.x;
  V reply[kSlotsMax];
  float weight[kSlotsMax];
#pragma unroll
  for (int s = 0; s < kSlotsMax; ++s) {
    if (s >= k) continue;
    reply[s] = replies[size_t{slots[row * k + s]} * cols + i];
    weight[s] = weights[row * k + s];
  }
  const V residual = x[row * cols + i];
  V acc = Mul(weight[0], reply[0]);
#pragma unroll
  for (int s = 1; s < kSlotsMax; ++s) {
    if (s < k) acc = Fma(weight[s], reply[s], acc);
  }
  y[row * cols + i] = Add(residual, acc);
}

template <typename V>
int LaunchCombine(cudaStream_t stream, const float* x, size_t rows, size_t cols, size_t k,
                  const float* weights, const uint32_t* slots, const float* replies, float* y) {
  const auto kernel = k <= 2   ? CombineKernel<V, 2>
                      : k <= 4 ? CombineKernel<V, 4>
                      : k <= 8 ? CombineKernel<V, 8>
                               : CombineKernel<V, 16>;
  const size_t vectors = cols / (sizeof(V) / sizeof(float));
  kernel<<<dim3(static_cast<unsigned>(rows), CeilDiv(vectors, kThreads)), kThreads, 0, stream>>>(
      reinterpret_cast<const V*>(x), static_cast<uint32_t>(vectors), static_cast<uint32_t>(k),
      weights, slots, reinterpret_cast<const V*>(replies), reinterpret_cast<V*>(y));
  return LaunchError();
}

int Combine(Stream stream, const float* x, size_t rows, size_t cols, size_t k, const float* weights,
            const uint32_t* slots, const float* replies, float* y) {
  if (k == 0 || k > 16) return cudaErrorInvalidValue;
  if (rows == 0 || cols == 0) return 0;
  const bool wide = cols % 4 == 0 && Aligned16(x) && Aligned16(replies) && Aligned16(y);
  const auto launch = wide ? LaunchCombine<float4> : LaunchCombine<float>;
  return launch(StreamOf(stream), x, rows, cols, k, weights, slots, replies, y);
}

// ---- Logits ----

constexpr unsigned kScanBlocks = 8;  // of a cluster, which scans a row
constexpr unsigned kScanThreads = 256;

// What a scan has seen so far: the greatest number, NaN where there was none, and whether something
// was not finite.
struct Scan {
  float best = std::numeric_limits<float>::quiet_NaN();
  uint32_t index = 0;
  uint32_t bad = 0;

  // Indices come in ascending order, so that the first of equals stays.
  __device__ __forceinline__ void See(float v, uint32_t i) {
    bad |= __float_as_uint(__fsub_rn(v, v));
    if (v == v && !(best >= v)) {
      best = v;
      index = i;
    }
  }
  // Orders scans by their best number, then by the lower index; 0 where there was no number.
  __device__ __forceinline__ unsigned long long Key() const {
    if (best != best) return 0;
    const uint32_t bits = __float_as_uint(__fadd_rn(best, 0.0f));  // one zero, not two
    const uint32_t ordered = bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
    return static_cast<unsigned long long>(ordered) << 32 | (0xffffffffu - index);
  }
};

// One thread's share of the scan of values [begin, end).
__device__ __forceinline__ Scan ScanPiece(const float* row, uint32_t begin, uint32_t end,
                                          bool wide) {
  Scan scan;
  if (wide) {
#pragma unroll 4
    for (uint32_t i = begin + 4 * threadIdx.x; i < end; i += 4 * kScanThreads) {
      const float4 v = Load4(row + i);
      scan.See(v.x, i);
      scan.See(v.y, i + 1);
      scan.See(v.z, i + 2);
      scan.See(v.w, i + 3);
    }
  } else {
#pragma unroll 4
    for (uint32_t i = begin + threadIdx.x; i < end; i += kScanThreads) scan.See(row[i], i);
  }
  return scan;
}

__device__ __forceinline__ unsigned long long GreatestOfWarp(unsigned long long key) {
#pragma unroll
  for (int width = 16; width >= 1; width /= 2) {
    key = max(key, __shfl_xor_sync(kFullWarp, key, width));
  }
  return key;
}

__global__ void __cluster_dims__(kScanBlocks, 1, 1) __launch_bounds__(kScanThreads)
    ScanLogitsKernel(const float* logits, uint32_t vocab, uint32_t piece, bool wide, int32_t* best,
                     uint8_t* finite) {
  const auto cluster = cooperative_groups::this_cluster();
  __shared__ unsigned long long warp_keys[kScanThreads / 32];
  __shared__ unsigned long long block_keys[kScanBlocks];  // the first block's gets written
  __shared__ uint32_t block_bad[kScanBlocks];
  // Other blocks write to the first one's memory, which must have started by then.
  cluster.barrier_arrive();
  const uint32_t row = blockIdx.x / kScanBlocks;
  const uint32_t part = blockIdx.x % kScanBlocks;
  const uint32_t begin = min(part * piece, vocab);
  const uint32_t end = min(begin + piece, vocab);
  const Scan scan = ScanPiece(logits + size_t{row} * vocab, begin, end, wide);
  const unsigned long long warp_key = GreatestOfWarp(scan.Key());
  if (threadIdx.x % 32 == 0) warp_keys[threadIdx.x / 32] = warp_key;
  const int bad = __syncthreads_or(scan.bad != 0);
  cluster.barrier_wait();
  if (threadIdx.x == 0) {
    unsigned long long key = 0;
    for (unsigned w = 0; w < kScanThreads / 32; ++w) key = max(key, warp_keys[w]);
    *cluster.map_shared_rank(&block_keys[part], 0) = key;
    *cluster.map_shared_rank(&block_bad[part], 0) = static_cast<uint32_t>(bad);
  }
  cluster.sync();
  if (part != 0 || threadIdx.x != 0) return;
  unsigned long long key = 0;
  uint32_t row_bad = 0;
  for (unsigned b = 0; b < kScanBlocks; ++b) {
    key = max(key, block_keys[b]);
    row_bad |= block_bad[b];
  }
  best[row] = key == 0 ? 0 : static_cast<int32_t>(0xffffffffu - static_cast<uint32_t>(key));
  finite[row] = row_bad == 0 ? 1 : 0;
}

int ScanLogits(Stream stream, const float* logits, size_t rows, size_t vocab, int32_t* best,
               uint8_t* finite) {
  if (rows == 0) return 0;
  const bool wide = vocab % 4 == 0 && Aligned16(logits);
  const uint32_t piece = 4 * CeilDiv(vocab, 4 * kScanBlocks);
  ScanLogitsKernel<<<static_cast<unsigned>(rows * kScanBlocks), kScanThreads, 0,
                     StreamOf(stream)>>>(logits, static_cast<uint32_t>(vocab), piece, wide, best,
                                         finite);
  return LaunchError();
}

// ---- Quantising ----

struct QuantizeShape {
  uint32_t k;
  uint32_t padded_k;
  uint32_t group;
  size_t stride;
  bool wide;  // vectors of a row are aligned
};

// Values i .. i + 3 of a row, zero past k.
__device__ __forceinline__ float4 LoadRow4(const QuantizeShape& s, const float* row, uint32_t i) {
  if (s.wide && i + 4 <= s.k) return Load4(row + i);
  return {i < s.k ? row[i] : 0.0f, i + 1 < s.k ? row[i + 1] : 0.0f, i + 2 < s.k ? row[i + 2] : 0.0f,
          i + 3 < s.k ? row[i + 3] : 0.0f};
}

// Groups of 4 * kLanes values, each of kLanes neighbours of a warp.
template <int kLanes>
__global__ void QuantizeShort(const float* x, QuantizeShape s, int8_t* q, float* scales) {
  const size_t row = blockIdx.x;
  const uint32_t i = (blockIdx.y * kThreads + threadIdx.x) * 4;
  const float4 v = LoadRow4(s, x + row * s.stride, i);
  uint32_t bits = Magnitude4(v);
#pragma unroll
  for (int width = kLanes / 2; width >= 1; width /= 2) {
    bits = max(bits, __shfl_xor_sync(kFullWarp, bits, width));
  }
  if (i >= s.padded_k) return;
  const GroupQuant g = MakeGroupQuant(bits);
  StoreQuantized4(g, v, q + row * s.padded_k + i);
  if (threadIdx.x % kLanes == 0) {
    scales[row * (s.padded_k / (4 * kLanes)) + i / (4 * kLanes)] = g.scale;
  }
}

// Any group: a block each, which holds what it can of it in registers.
__global__ void __launch_bounds__(kRowThreads)
    QuantizeLong(const float* x, QuantizeShape s, int8_t* q, float* scales) {
  constexpr int kHeld = 4;
  __shared__ uint32_t warp_bits[kRowThreads / 32];
  const size_t row = blockIdx.x;
  const uint32_t begin = blockIdx.y * s.group;
  const uint32_t end = begin + s.group;
  const float* values = x + row * s.stride;
  float4 held[kHeld];
  uint32_t bits = 0;
#pragma unroll
  for (int h = 0; h < kHeld; ++h) {
    const uint32_t i = begin + (h * kRowThreads + threadIdx.x) * 4;
    held[h] = i < end ? LoadRow4(s, values, i) : float4{0.0f, 0.0f, 0.0f, 0.0f};
  }
#pragma unroll
  for (int h = 0; h < kHeld; ++h) bits = max(bits, Magnitude4(held[h]));
  const uint32_t rest = begin + (kHeld * kRowThreads + threadIdx.x) * 4;
#pragma unroll 4
  for (uint32_t i = rest; i < end; i += kRowThreads * 4) {
    bits = max(bits, Magnitude4(LoadRow4(s, values, i)));
  }
  bits = __reduce_max_sync(kFullWarp, bits);
  if (threadIdx.x % 32 == 0) warp_bits[threadIdx.x / 32] = bits;
  __syncthreads();
  bits = __reduce_max_sync(kFullWarp, warp_bits[threadIdx.x % (kRowThreads / 32)]);
  const GroupQuant g = MakeGroupQuant(bits);
  int8_t* out = q + row * s.padded_k;
#pragma unroll
  for (int h = 0; h < kHeld; ++h) {
    const uint32_t i = begin + (h * kRowThreads + threadIdx.x) * 4;
    if (i < end) StoreQuantized4(g, held[h], out + i);
  }
#pragma unroll 2
  for (uint32_t i = rest; i < end; i += kRowThreads * 4) {
    StoreQuantized4(g, LoadRow4(s, values, i), out + i);
  }
  if (threadIdx.x == 0) scales[row * (s.padded_k / s.group) + blockIdx.y] = g.scale;
}

}  // namespace

int QuantizeRows(Stream stream, const float* x, size_t rows, size_t k, size_t stride,
                 size_t padded_k, size_t group, int8_t* q, float* scales) {
  if (group == 0 || group % 4 != 0 || padded_k % group != 0) return cudaErrorInvalidValue;
  if (rows == 0 || padded_k == 0) return 0;
  const QuantizeShape shape{static_cast<uint32_t>(k), static_cast<uint32_t>(padded_k),
                            static_cast<uint32_t>(group), stride, stride % 4 == 0 && Aligned16(x)};
  const auto rows_u = static_cast<unsigned>(rows);
  const auto kernel = group == 16    ? QuantizeShort<4>
                      : group == 32  ? QuantizeShort<8>
                      : group == 64  ? QuantizeShort<16>
                      : group == 128 ? QuantizeShort<32>
                                     : QuantizeLong;
  const bool is_long = kernel == QuantizeLong;
  const dim3 grid(
      rows_u, is_long ? static_cast<unsigned>(padded_k / group) : CeilDiv(padded_k, 4 * kThreads));
  kernel<<<grid, is_long ? kRowThreads : kThreads, 0, StreamOf(stream)>>>(x, shape, q, scales);
  return LaunchError();
}

void AddRowKernels(CudaApi* api) {
  api->rms_norm = RmsNorm;
  api->add_rows = AddRows;
  api->gather_rows = GatherRows;
  api->apply_rope = ApplyRope;
  api->choose_linear = ChooseLinear;
  api->choose_attention = ChooseAttention;
  api->plan_rows = PlanRows;
  api->combine = Combine;
  api->scan_logits = ScanLogits;
  api->quantize_rows = QuantizeRows;
  api->matmul_float = MatMulFloat;
}

}  // namespace octet::cuda
