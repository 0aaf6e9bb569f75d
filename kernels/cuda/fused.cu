// Row operations that follow one another in a decode step, in one launch each: residual, norm and
// quantising; rotation and the cache's writes. A step has many short launches, and most of the time
// of each is that of starting and of reading what the one before wrote.
#include <cuda_fp16.h>

#include <algorithm>

#include "core/limits.h"
#include "kernels/cuda/fused_kernels.h"
#include "kernels/cuda/launch_early.cuh"
#include "kernels/cuda/pipeline.cuh"
#include "kernels/cuda/row_math.cuh"

extern "C" __attribute__((visibility("default"))) const octet::cuda::CudaApi* octet_get_cuda_api(
    uint32_t version, size_t bytes);

namespace octet::cuda {
namespace {

constexpr uint32_t kWarp = 0xffffffffu;
constexpr uint32_t kRowThreads = 512;  // of a block that owns a row

// ---- Residual, norm, quantising ----

// First of the 4 neighbours that this thread holds as its v-th vector.
__device__ __forceinline__ uint32_t Place(int v) { return (v * kRowThreads + threadIdx.x) * 4; }

// Adds the replies of row's experts, kSlots at a time, all of which are under way before the first
// is used.
template <int kVectors, int kSlots>
__device__ __forceinline__ void AddReplies(const NormQuantize& c, size_t row,
                                           float4 (&values)[kVectors]) {
  const uint32_t cols = c.cols, k = c.k;
  float4 acc[kVectors];
  // A fused step from -0 is the product, rounded: also where that is a zero.
#pragma unroll
  for (int v = 0; v < kVectors; ++v) acc[v] = {-0.0f, -0.0f, -0.0f, -0.0f};
  for (uint32_t first = 0; first < k; first += kSlots) {
    const float* replies[kSlots];
    float weights[kSlots];
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      const size_t at = row * k + min(first + s, k - 1);
      replies[s] = c.replies + size_t{c.slots[at]} * cols;
      weights[s] = c.weights[at];
    }
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      if (Place(v) >= cols) continue;
      float4 reply[kSlots];
#pragma unroll
      for (int s = 0; s < kSlots; ++s) {
        if (first + s < k) reply[s] = Load4(replies[s] + Place(v));
      }
#pragma unroll
      for (int s = 0; s < kSlots; ++s) {
        if (first + s < k) acc[v] = Fma(weights[s], reply[s], acc[v]);
      }
    }
  }
#pragma unroll
  for (int v = 0; v < kVectors; ++v) values[v] = Add(values[v], acc[v]);
}

// The row after the addition; zeros past its end. What was added goes to x_out.
template <int kVectors, int kSlots>
__device__ __forceinline__ void LoadRow(const NormQuantize& c, size_t row,
                                        float4 (&values)[kVectors]) {
  const uint32_t cols = c.cols;
  const size_t begin = row * cols;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    values[v] = Place(v) < cols ? Load4(c.x + begin + Place(v)) : float4{0.0f, 0.0f, 0.0f, 0.0f};
  }
  if constexpr (kSlots > 0) {
    AddReplies<kVectors, kSlots>(c, row, values);
  } else {
    if (c.delta == nullptr) return;
    float4 delta[kVectors];
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      if (Place(v) < cols) delta[v] = Load4(c.delta + begin + Place(v));
    }
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      if (Place(v) < cols) values[v] = Add(delta[v], values[v]);
    }
  }
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    if (Place(v) < cols) Store4(c.x_out + begin + Place(v), values[v]);
  }
}

// Groups of 32, 64 or 128 values lie in neighbours of a warp; any other group is the row.
template <int kVectors>
__device__ __forceinline__ void QuantizeHeld(const NormQuantize& c, size_t row,
                                             const float4 (&values)[kVectors],
                                             uint32_t* warp_bits) {
  const uint32_t padded_k = c.padded_k, group = c.group;
  int8_t* q = c.q + row * padded_k;
  if (group <= 128) {
    const uint32_t lanes = group / 4;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      uint32_t bits = Magnitude4(values[v]);
      for (uint32_t width = lanes / 2; width >= 1; width /= 2) {
        bits = max(bits, __shfl_xor_sync(kWarp, bits, width));
      }
      if (Place(v) >= padded_k) continue;
      const GroupQuant g = MakeGroupQuant(bits);
      StoreQuantized4(g, values[v], q + Place(v));
      if (threadIdx.x % lanes == 0) c.scales[row * (padded_k / group) + Place(v) / group] = g.scale;
    }
    return;
  }
  uint32_t bits = 0;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) bits = max(bits, Magnitude4(values[v]));
  bits = __reduce_max_sync(kWarp, bits);
  if (threadIdx.x % 32 == 0) warp_bits[threadIdx.x / 32] = bits;
  __syncthreads();
  bits = __reduce_max_sync(kWarp, warp_bits[threadIdx.x % (kRowThreads / 32)]);
  const GroupQuant g = MakeGroupQuant(bits);
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    if (Place(v) < padded_k) StoreQuantized4(g, values[v], q + Place(v));
  }
  if (threadIdx.x == 0) c.scales[row] = g.scale;
}

// Rows of whole vectors that a block holds in registers, kVectors a thread. The first warp sums
// them in the order of the contract.
template <int kVectors, int kSlots>
__global__ void __launch_bounds__(kRowThreads) NormHeld(const __grid_constant__ NormQuantize c) {
  extern __shared__ __align__(16) float shared_row[];
  __shared__ float shared_inverse;
  __shared__ uint32_t warp_bits[kRowThreads / 32];
  const uint32_t cols = c.cols;
  const size_t row = blockIdx.x;
  float4 weights[kVectors], values[kVectors];
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    if (Place(v) < cols) weights[v] = Load4(c.norm_weight + Place(v));
  }
  GridWait();
  GridTrigger();
  LoadRow<kVectors, kSlots>(c, row, values);
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    if (Place(v) < cols) Store4(shared_row + Place(v), values[v]);
  }
  __syncthreads();
  if (threadIdx.x < 32) {
    const float r = InverseRms(AddSquares(shared_row, cols, threadIdx.x, 0.0f), cols, c.eps);
    if (threadIdx.x == 0) shared_inverse = r;
  }
  __syncthreads();
  const float r = shared_inverse;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    // Padding stays zero, whatever the row's scale is.
    if (Place(v) >= cols) continue;
    const float4 a = values[v], b = weights[v];
    values[v] = {Scaled(a.x, r, b.x), Scaled(a.y, r, b.y), Scaled(a.z, r, b.z),
                 Scaled(a.w, r, b.w)};
    if (c.normed != nullptr) Store4(c.normed + row * cols + Place(v), values[v]);
  }
  if (c.q != nullptr) QuantizeHeld<kVectors>(c, row, values, warp_bits);
}

__device__ __forceinline__ float SumAt(const NormQuantize& c, size_t row, uint32_t i) {
  const size_t at = row * c.cols + i;
  const float x = c.x[at];
  if (c.delta != nullptr) return Add(c.delta[at], x);
  if (c.k == 0) return x;
  float acc = -0.0f;  // as in AddReplies
  for (size_t s = row * c.k; s < (row + 1) * c.k; ++s) {
    acc = Fma(c.weights[s], c.replies[size_t{c.slots[s]} * c.cols + i], acc);
  }
  return Add(x, acc);
}

// A group of a row, by one warp. A lane reads what it writes itself, so that the norm may replace
// its own input.
__device__ __forceinline__ void NormGroup(const NormQuantize& c, size_t row, uint32_t group,
                                          const float* values, float inverse) {
  const uint32_t lane = threadIdx.x % 32, cols = c.cols;
  const uint32_t begin = group * c.group, end = begin + c.group;
  uint32_t bits = 0;
  if (c.q != nullptr) {
#pragma unroll 4
    for (uint32_t i = begin + lane; i < min(end, cols); i += 32) {
      bits = max(bits, MagnitudeBits(Scaled(values[i], inverse, c.norm_weight[i])));
    }
    bits = __reduce_max_sync(kWarp, bits);
  }
  const GroupQuant g = MakeGroupQuant(bits);
#pragma unroll 4
  for (uint32_t i = begin + lane; i < end; i += 32) {
    const float y = i < cols ? Scaled(values[i], inverse, c.norm_weight[i]) : 0.0f;
    if (c.normed != nullptr && i < cols) c.normed[row * cols + i] = y;
    if (c.q != nullptr) c.q[row * c.padded_k + i] = static_cast<int8_t>(QuantizeValue(g, y));
  }
  if (c.q != nullptr && lane == 0) c.scales[row * (c.padded_k / c.group) + group] = g.scale;
}

// Any length, alignment and group, in pieces of whole lanes. Has a group also where q is null.
__global__ void __launch_bounds__(kRowThreads) NormAny(const __grid_constant__ NormQuantize c) {
  constexpr uint32_t kPiece = 8192;
  __shared__ float piece[kPiece];
  __shared__ float shared_inverse;
  const uint32_t cols = c.cols;
  const size_t row = blockIdx.x;
  const bool adds = c.delta != nullptr || c.k > 0;
  GridWait();
  GridTrigger();
  float sum = 0.0f;
  for (uint32_t at = 0; at < cols; at += kPiece) {
    const uint32_t n = min(kPiece, cols - at);
    for (uint32_t i = threadIdx.x; i < n; i += kRowThreads) {
      const float value = SumAt(c, row, at + i);
      if (adds) c.x_out[row * cols + at + i] = value;
      piece[i] = value;
    }
    __syncthreads();
    if (threadIdx.x < 32) sum = AddSquares(piece, n, threadIdx.x, sum);
    __syncthreads();
  }
  if (threadIdx.x < 32) {
    const float r = InverseRms(sum, cols, c.eps);
    if (threadIdx.x == 0) shared_inverse = r;
  }
  __syncthreads();
  const float* values = (adds ? c.x_out : c.x) + row * cols;
  for (uint32_t g = threadIdx.x / 32; g < c.padded_k / c.group; g += kRowThreads / 32) {
    NormGroup(c, row, g, values, shared_inverse);
  }
}

template <int kVectors>
int LaunchHeld(cudaStream_t stream, const NormQuantize& c) {
  // As many replies under way as there are registers for.
  constexpr int kMany = kVectors <= 2 ? 8 : kVectors == 4 ? 4 : 1;
  constexpr int kFew = kMany < 2 ? kMany : 2;
  const auto kernel = c.k == 0      ? NormHeld<kVectors, 0>
                      : c.k <= kFew ? NormHeld<kVectors, kFew>
                                    : NormHeld<kVectors, kMany>;
  return LaunchEarly(kernel, dim3(static_cast<unsigned>(c.rows)), kRowThreads,
                     kVectors * kRowThreads * sizeof(float4), stream, c.early, c);
}

int NormThenQuantize(Stream stream, const NormQuantize& call) {
  NormQuantize c = call;
  const bool adds = c.delta != nullptr || c.k > 0;
  if ((c.delta != nullptr && c.k > 0) || (adds && c.x_out == nullptr)) return cudaErrorInvalidValue;
  if (c.q == nullptr) {
    c.group = 128;
    c.padded_k = (c.cols + 127) / 128 * 128;
  }
  if (c.group == 0 || c.group % 4 != 0 || c.padded_k % c.group != 0 || c.padded_k < c.cols) {
    return cudaErrorInvalidValue;
  }
  if (c.rows == 0 || c.cols == 0) return 0;
  const bool aligned = c.cols % 4 == 0 && Aligned16(c.x) && Aligned16(c.norm_weight) &&
                       Aligned16(c.delta) && Aligned16(c.replies) && Aligned16(c.normed) &&
                       (!adds || Aligned16(c.x_out)) && reinterpret_cast<uintptr_t>(c.q) % 4 == 0;
  const bool groups =
      c.group == 32 || c.group == 64 || c.group == 128 || (c.group > 128 && c.group == c.padded_k);
  const auto vectors = CeilDiv(c.padded_k, 4 * kRowThreads);
  const cudaStream_t s = StreamOf(stream);
  if (!aligned || !groups || vectors > 8) {
    return LaunchEarly(NormAny, dim3(static_cast<unsigned>(c.rows)), kRowThreads, 0, s, c.early, c);
  }
  if (vectors == 1) return LaunchHeld<1>(s, c);
  if (vectors == 2) return LaunchHeld<2>(s, c);
  if (vectors <= 4) return LaunchHeld<4>(s, c);
  return LaunchHeld<8>(s, c);
}

// ---- Rotation and the cache's writes ----

constexpr uint32_t kPairThreads = 256;
// More rows than these are long runs of sequences, for which append_kv writes in better order.
constexpr uint32_t kRopeRowsMax = 64;

__device__ __forceinline__ void StoreElement(float x, float* to) { *to = x; }
__device__ __forceinline__ void StoreElement(float x, __half* to) { *to = __float2half_rn(x); }

// One thread a pair of q, or of k and the same two elements of v; a block has pairs of one row.
template <typename Element>
__global__ void __launch_bounds__(kPairThreads)
    RopeAppendKernel(const __grid_constant__ RopeAppend c) {
  const uint32_t head_dim = c.cache.head_dim, half = head_dim / 2;
  const uint32_t heads = c.heads, kv_heads = c.cache.kv_heads;
  const uint32_t pair = blockIdx.y * kPairThreads + threadIdx.x;
  if (pair >= (heads + kv_heads) * half) return;
  const uint32_t row = blockIdx.x;
  const Sequence sequence = c.rows.sequences[c.rows.row_sequence[row]];
  const uint32_t position = sequence.position_begin + (row - sequence.row_begin);
  const uint32_t i = pair % half;
  const float cosine = c.cos_table[size_t{position} * half + i];
  const float sine = c.sin_table[size_t{position} * half + i];
  const bool of_key = pair / half >= heads;
  const uint32_t head = of_key ? pair / half - heads : pair / half;
  const uint32_t block =
      of_key ? c.rows.blocks[sequence.block_begin + position / kKvBlockPositions] : 0;
  GridWait();
  GridTrigger();
  const size_t at = (size_t{row} * (of_key ? kv_heads : heads) + head) * head_dim + i;
  float* low = (of_key ? c.k : c.q) + at;
  const float a = low[0], b = low[half];
  const float value_a = of_key ? c.v[at] : 0.0f, value_b = of_key ? c.v[at + half] : 0.0f;
  const float turned_a = Fma(a, cosine, -Mul(b, sine));
  const float turned_b = Fma(b, cosine, Mul(a, sine));
  if (!of_key) {
    low[0] = turned_a;
    low[half] = turned_b;
    return;
  }
  const uint32_t slot = position % kKvBlockPositions;
  auto* keys = reinterpret_cast<Element*>(c.cache.data + block * c.cache.block_stride_bytes);
  Element* key = keys + (size_t{head} * head_dim + i) * kKvBlockPositions + slot;
  StoreElement(turned_a, key);
  StoreElement(turned_b, key + size_t{half} * kKvBlockPositions);
  Element* value = keys + (size_t{kv_heads + head} * kKvBlockPositions + slot) * head_dim + i;
  StoreElement(value_a, value);
  StoreElement(value_b, value + half);
}

int RopeThenAppend(Stream stream, const RopeAppend& c) {
  const size_t head_dim = c.cache.head_dim;
  const bool is_half = c.cache.dtype == DType::kF16;
  if (head_dim % 2 != 0 || (!is_half && c.cache.dtype != DType::kF32)) return cudaErrorInvalidValue;
  if (c.rows.rows == 0) return 0;
  if (c.rows.rows > kRopeRowsMax) {
    const CudaApi& api = *octet_get_cuda_api(kCudaApiVersion, sizeof(CudaApi));
    const auto turn = [&](size_t heads, float* x) {
      return api.apply_rope(stream, c.cos_table, c.sin_table, head_dim, c.rows, heads, x);
    };
    if (const int error = turn(c.heads, c.q); error != 0) return error;
    if (const int error = turn(c.cache.kv_heads, c.k); error != 0) return error;
    return api.append_kv(stream, c.cache, c.rows, c.k, c.v);
  }
  const size_t pairs = (c.heads + c.cache.kv_heads) * (head_dim / 2);
  if (pairs == 0) return 0;
  return LaunchEarly(is_half ? RopeAppendKernel<__half> : RopeAppendKernel<float>,
                     dim3(c.rows.rows, CeilDiv(pairs, kPairThreads)), kPairThreads, 0,
                     StreamOf(stream), c.early, c);
}

}  // namespace

void AddFusedKernels(CudaApi* api) {
  api->norm_quantize = NormThenQuantize;
  api->rope_append = RopeThenAppend;
  api->choose_plan = ChooseAndPlan;
  api->matmul_gate = MatMulGate;
}

}  // namespace octet::cuda
