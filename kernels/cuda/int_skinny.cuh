// Integer products with few rows for each matrix: as fast as the weights come. A warp owns a panel
// of 16 outputs and walks its chunks once, through a ring of asynchronous copies that it shares
// with nobody; m16n8k32 tensor-core products give the exact integer sum of each group, which is
// scaled and added in fp32, groups ascending, as docs/numerics.md says. So neither the rows beside
// a row nor the launch change a bit.
#ifndef OCTET_KERNELS_CUDA_INT_SKINNY_CUH_
#define OCTET_KERNELS_CUDA_INT_SKINNY_CUH_

#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/int_codec.cuh"
#include "kernels/cuda/int_skinny_calls.h"
#include "kernels/cuda/quantize.cuh"

namespace octet::cuda {

inline constexpr int kGateUpWarps = 8;  // 128 outputs: whole groups of the middle
inline constexpr int kProductWarps = 4;

__device__ __forceinline__ void CopyAsync16(uint32_t shared, const uint8_t* global) {
  asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16;" ::"r"(shared), "l"(global));
}
__device__ __forceinline__ void CommitCopies() { asm volatile("cp.async.commit_group;"); }
template <int kLeft>
__device__ __forceinline__ void WaitCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

// A launch that may start before the one ahead of it has ended must not read that one's results
// before GridWait. GridTrigger lets the next one start.
__device__ __forceinline__ void GridWait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ void GridTrigger() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ __forceinline__ void MmaS8(int (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                      uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The rows that a warp multiplies with: kTiles times 8, of which `tiles` are in use. Offsets of
// this lane's B row and of the scales of its two output columns.
template <int kTiles>
struct LaneRows {
  int tiles = 0;
  uint32_t q[kTiles];
  uint32_t scale[kTiles][2];
};

template <int kTiles>
__device__ LaneRows<kTiles> MakeLaneRows(const EntryMap& map, const QuantRows& x, uint32_t first,
                                         uint32_t count) {
  const uint32_t lane = threadIdx.x % 32;
  LaneRows<kTiles> rows;
  rows.tiles = static_cast<int>((count + 7) / 8);
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
    // Rows past the last repeat it; nobody reads what they give.
    const auto row = [&](uint32_t index) { return map.row(first + min(index, count - 1)); };
    rows.q[i] = row(8 * i + lane / 4) * x.padded_k + lane % 4 * 8;
    for (int j = 0; j < 2; ++j) rows.scale[i][j] = row(8 * i + lane % 4 * 2 + j) * x.groups;
  }
  return rows;
}

// What a lane needs of the rows for one chunk.
template <class C, int kTiles>
struct RowChunk {
  uint2 b[kTiles][4];
  float scale[kTiles][C::kScalesPerChunk][2];
};

template <class C, int kTiles>
__device__ __forceinline__ void LoadRowChunk(const QuantRows& x, const LaneRows<kTiles>& rows,
                                             uint32_t chunk, RowChunk<C, kTiles>* out) {
  const uint32_t k = chunk * kChunk;
  const bool whole = k + kChunk <= x.padded_k;
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
    if (i >= rows.tiles) break;
#pragma unroll
    for (int s = 0; s < 4; ++s) {
      out->b[i][s] = make_uint2(0, 0);
      if (whole || k + 32 * s < x.padded_k) {
        out->b[i][s] = __ldg(reinterpret_cast<const uint2*>(x.q + rows.q[i] + k + 32 * s));
      }
    }
    if constexpr (!C::kW4x) {
#pragma unroll
      for (int g = 0; g < C::kScalesPerChunk; ++g) {
        const uint32_t group = chunk * C::kScalesPerChunk + g;
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          out->scale[i][g][j] =
              whole || group < x.groups ? __ldg(x.scales + rows.scale[i][j] + group) : 0.0f;
        }
      }
    }
  }
}

template <class C, int kStreams, int kTiles>
struct SkinnyWarp {
  static constexpr int kStages = C::kBits == 4 ? (kStreams == 2 ? 4 : 8) : (kStreams == 2 ? 3 : 5);
  static constexpr int kStageBytes = kStreams * C::kChunkBytes;
  static constexpr int kRingBytes = kStages * kStageBytes;

  const uint8_t* panel[kStreams];
  uint32_t chunks;
  uint8_t* ring;
  typename C::Accumulator acc[kStreams][kTiles][4];

  __device__ __forceinline__ void Issue(uint32_t chunk) {
    if (chunk < chunks) {
      const uint32_t lane = threadIdx.x % 32;
      const uint32_t to =
          static_cast<uint32_t>(__cvta_generic_to_shared(ring + chunk % kStages * kStageBytes));
#pragma unroll
      for (int m = 0; m < kStreams; ++m) {
        const uint8_t* from = panel[m] + size_t{chunk} * C::kChunkBytes;
#pragma unroll
        for (int at = 0; at < C::kValueBytes; at += 512) {
          CopyAsync16(to + m * C::kChunkBytes + at + lane * 16, from + at + lane * 16);
        }
        if (lane < C::kScaleBytes / 16) {
          const uint32_t at = C::kValueBytes + lane * 16;
          CopyAsync16(to + m * C::kChunkBytes + at, from + at);
        }
      }
    }
    CommitCopies();
  }

  __device__ __forceinline__ void Start() {
    for (int i = 0; i < kStages - 1; ++i) Issue(i);
  }

  // All chunks of one stream's panel times the rows' chunk.
  __device__ __forceinline__ void Multiply(int m, uint32_t chunk, const RowChunk<C, kTiles>& x,
                                           int tiles, uint32_t groups_left) {
    const uint8_t* stage = ring + chunk % kStages * kStageBytes + m * C::kChunkBytes;
    const typename C::LaneValues values(stage, threadIdx.x % 32);
    int dot[kTiles][4];
#pragma unroll
    for (int s = 0; s < 4; ++s) {
      uint32_t a[4];
      values.Step(s, a);
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
        if (i >= tiles) break;
        if (s % C::kStepsPerGroup == 0) {
          for (int& d : dot[i]) d = C::kDotStart;
        }
        MmaS8(dot[i], a, x.b[i][s].x, x.b[i][s].y);
      }
      if (s % C::kStepsPerGroup != C::kStepsPerGroup - 1) continue;
      const uint32_t g = s / C::kStepsPerGroup;
      if (g >= groups_left) continue;
      const typename C::GroupScales scales(stage + C::kValueBytes, g, threadIdx.x % 32 / 4);
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
        if (i >= tiles) break;
        scales.Add(dot[i], x.scale[i][C::kW4x ? 0 : g], acc[m][i]);
      }
    }
  }

  __device__ __forceinline__ void Run(const QuantRows& x, const LaneRows<kTiles>& rows,
                                      uint32_t weight_groups) {
#pragma unroll
    for (int m = 0; m < kStreams; ++m) {
      for (int i = 0; i < kTiles; ++i) {
        for (int j = 0; j < 4; ++j) acc[m][i][j] = 0;
      }
    }
    // The rows' chunk is fetched one ahead where registers allow.
    constexpr bool kAhead = kTiles * kStreams <= 2;
    RowChunk<C, kTiles> now, next;
    if (kAhead) LoadRowChunk(x, rows, 0, &now);
    for (uint32_t chunk = 0; chunk < chunks; ++chunk) {
      WaitCopies<kStages - 2>();
      __syncwarp();  // the scales came through other lanes, and all have read the slot to refill
      Issue(chunk + kStages - 1);
      if (!kAhead) LoadRowChunk(x, rows, chunk, &now);
      if (kAhead && chunk + 1 < chunks) LoadRowChunk(x, rows, chunk + 1, &next);
      const uint32_t groups_left = weight_groups - chunk * C::kGroupsPerChunk;
#pragma unroll
      for (int m = 0; m < kStreams; ++m) Multiply(m, chunk, now, rows.tiles, groups_left);
      if (kAhead) now = next;
    }
    WaitCopies<0>();
  }

  // Output (g + 8 * (j / 2)) of panel m for column 2 t + j % 2 of tile i, j = 0..3.
  __device__ __forceinline__ float Result(int m, int i, int j, const QuantRows& x,
                                          const LaneRows<kTiles>& rows, size_t scales_at) const {
    if constexpr (!C::kW4x) return acc[m][i][j];
    const auto* output_scales = reinterpret_cast<const float*>(panel[m] + scales_at);
    const float w = output_scales[threadIdx.x % 32 / 4 + 8 * (j / 2)];
    return __fmul_rn(__int2float_rn(static_cast<int>(acc[m][i][j])),
                     __fmul_rn(w, x.scales[rows.scale[i][j % 2]]));
  }
};

// ---- y = W x ----

template <class C, int kTiles>
__global__ void __launch_bounds__(kProductWarps * 32)
    SkinnyProductKernel(MatrixSet w, SkinnyShape shape, EntryMap map, QuantRows x, float* y,
                        size_t y_stride) {
  using Warp = SkinnyWarp<C, 1, kTiles>;
  extern __shared__ __align__(128) uint8_t memory[];
  const uint32_t expert = blockIdx.y, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const uint32_t panel = blockIdx.x * kProductWarps + warp;
  const uint32_t first = map.begin(expert) + blockIdx.z * kTiles * 8, end = map.end(expert);
  if (first >= end || panel >= shape.panels) return;
  const uint32_t count = min(end - first, uint32_t{kTiles * 8});
  Warp product;
  product.panel[0] = w.data(expert) + panel * shape.panel_bytes;
  product.chunks = shape.chunks;
  product.ring = memory + warp * Warp::kRingBytes;
  product.Start();
  GridWait();
  GridTrigger();
  const LaneRows<kTiles> rows = MakeLaneRows<kTiles>(map, x, first, count);
  product.Run(x, rows, shape.weight_groups);
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
    if (i >= rows.tiles) break;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const uint32_t entry = 8 * i + lane % 4 * 2 + j % 2;
      const uint32_t output = panel * 16 + lane / 4 + 8 * (j / 2);
      if (entry < count && output < shape.n) {
        y[(first + entry) * y_stride + output] = product.Result(0, i, j, x, rows, shape.scales_at);
      }
    }
  }
}

// ---- silu(gate x) * (up x) ----

// Rows of 128 middle outputs in shared memory, [rows][kMiddleStride], to where they go. A warp
// takes a row, a lane 4 consecutive outputs.
inline constexpr int kMiddleStride = kGateUpWarps * 16 + 4;

__device__ inline void WriteMiddle(const float* rows, uint32_t count, uint32_t first_entry,
                                   uint32_t first_output, const MiddleOut& out) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t output = first_output + 4 * lane;
  for (uint32_t r = threadIdx.x / 32; r < count; r += kGateUpWarps) {
    const float4 v = *reinterpret_cast<const float4*>(rows + r * kMiddleStride + 4 * lane);
    const size_t entry = first_entry + r;
    if (out.q == nullptr) {
      const float values[4] = {v.x, v.y, v.z, v.w};
      for (uint32_t i = 0; i < 4; ++i) {
        if (output + i < out.middle) out.h[entry * out.middle + output + i] = values[i];
      }
      continue;
    }
    uint32_t magnitude = max(max(MagnitudeBits(v.x), MagnitudeBits(v.y)),
                             max(MagnitudeBits(v.z), MagnitudeBits(v.w)));
    for (uint32_t width = out.group / 8; width >= 1; width /= 2) {
      magnitude = max(magnitude, __shfl_xor_sync(0xffffffffu, magnitude, width));
    }
    const GroupQuant quant = MakeGroupQuant(magnitude);
    if (output >= out.padded_k) continue;
    const char4 q = make_char4(static_cast<signed char>(QuantizeValue(quant, v.x)),
                               static_cast<signed char>(QuantizeValue(quant, v.y)),
                               static_cast<signed char>(QuantizeValue(quant, v.z)),
                               static_cast<signed char>(QuantizeValue(quant, v.w)));
    *reinterpret_cast<char4*>(out.q + entry * out.padded_k + output) = q;
    if (output % out.group == 0) {
      out.scales[entry * (out.padded_k / out.group) + output / out.group] = quant.scale;
    }
  }
}

template <class C, int kTiles>
__global__ void __launch_bounds__(kGateUpWarps * 32, kTiles == 1 && C::kBits == 4 ? 3 : 2)
    SkinnyGateUpKernel(MatrixSet gate, MatrixSet up, SkinnyShape shape, EntryMap map, QuantRows x,
                       MiddleOut out) {
  using Warp = SkinnyWarp<C, 2, kTiles>;
  extern __shared__ __align__(128) uint8_t memory[];
  const uint32_t expert = blockIdx.y, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const uint32_t panel = blockIdx.x * kGateUpWarps + warp;
  const uint32_t first = map.begin(expert) + blockIdx.z * kTiles * 8, end = map.end(expert);
  if (first >= end) return;
  const uint32_t count = min(end - first, uint32_t{kTiles * 8});
  const bool active = panel < shape.panels;
  Warp product;
  product.panel[0] = gate.data(expert) + panel * shape.panel_bytes;
  product.panel[1] = up.data(expert) + panel * shape.panel_bytes;
  product.chunks = active ? shape.chunks : 0;
  product.ring = memory + warp * Warp::kRingBytes;
  product.Start();
  GridWait();
  GridTrigger();
  const LaneRows<kTiles> rows = MakeLaneRows<kTiles>(map, x, first, count);
  product.Run(x, rows, shape.weight_groups);
  __syncthreads();  // the rings are read: their memory takes the middle
  auto* middle = reinterpret_cast<float*>(memory);
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const uint32_t row = 8 * i + lane % 4 * 2 + j % 2;
      const uint32_t output = warp * 16 + lane / 4 + 8 * (j / 2);
      float h = 0.0f;
      if (active && row < count) {
        h = SiluMul(product.Result(0, i, j, x, rows, shape.scales_at),
                    product.Result(1, i, j, x, rows, shape.scales_at));
      }
      middle[row * kMiddleStride + output] = h;
    }
  }
  __syncthreads();
  WriteMiddle(middle, count, first, blockIdx.x * kGateUpWarps * 16, out);
}

// ---- Launches ----

// A launch that may begin while the one ahead of it drains.
template <typename... Params, typename... Args>
int LaunchEarly(void (*kernel)(Params...), dim3 grid, unsigned threads, size_t shared,
                cudaStream_t stream, bool early, Args... args) {
  if (shared > 48 * 1024) {
    const cudaError_t error = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
    if (error != cudaSuccess) return error;
  }
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &attribute;
  config.numAttrs = early ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, Params(args)...);
}

template <class C, int kTiles>
int LaunchProduct(const SkinnyCall& c, const MatrixSet& w, float* y, size_t y_stride) {
  const dim3 grid(CeilDiv(c.shape.panels, kProductWarps), c.experts,
                  CeilDiv(c.rows_max, kTiles * 8));
  const size_t shared = kProductWarps * SkinnyWarp<C, 1, kTiles>::kRingBytes;
  return LaunchEarly(SkinnyProductKernel<C, kTiles>, grid, kProductWarps * 32, shared, c.stream,
                     c.early, w, c.shape, c.map, c.x, y, y_stride);
}

template <class C, int kTiles>
int LaunchGateUp(const SkinnyCall& c, const MatrixSet& gate, const MatrixSet& up,
                 const MiddleOut& out) {
  const dim3 grid(CeilDiv(c.shape.panels, kGateUpWarps), c.experts,
                  CeilDiv(c.rows_max, kTiles * 8));
  const size_t ring = kGateUpWarps * SkinnyWarp<C, 2, kTiles>::kRingBytes;
  const size_t middle = sizeof(float) * kTiles * 8 * kMiddleStride;
  return LaunchEarly(SkinnyGateUpKernel<C, kTiles>, grid, kGateUpWarps * 32,
                     ring > middle ? ring : middle, c.stream, c.early, gate, up, c.shape, c.map,
                     c.x, out);
}

template <class C>
int RunProduct(const SkinnyCall& c, const MatrixSet& w, float* y, size_t y_stride) {
  if (c.rows_max <= 8) return LaunchProduct<C, 1>(c, w, y, y_stride);
  if (c.rows_max <= 16) return LaunchProduct<C, 2>(c, w, y, y_stride);
  return LaunchProduct<C, 4>(c, w, y, y_stride);
}
template <class C>
int RunGateUp(const SkinnyCall& c, const MatrixSet& gate, const MatrixSet& up,
              const MiddleOut& out) {
  if (c.rows_max <= 8) return LaunchGateUp<C, 1>(c, gate, up, out);
  if (c.rows_max <= 16) return LaunchGateUp<C, 2>(c, gate, up, out);
  return LaunchGateUp<C, 4>(c, gate, up, out);
}

// One file a codec, so that they build side by side.
template <int kBits, bool kW4x>
int SkinnyProductOf(uint32_t group, const SkinnyCall& c, const MatrixSet& w, float* y,
                    size_t y_stride) {
  if (group == 32) return RunProduct<Codec<kBits, kW4x, 32>>(c, w, y, y_stride);
  if (group == 64) return RunProduct<Codec<kBits, kW4x, 64>>(c, w, y, y_stride);
  return RunProduct<Codec<kBits, kW4x, 128>>(c, w, y, y_stride);
}
template <int kBits, bool kW4x>
int SkinnyGateUpOf(uint32_t group, const SkinnyCall& c, const MatrixSet& gate, const MatrixSet& up,
                   const MiddleOut& out) {
  if (group == 32) return RunGateUp<Codec<kBits, kW4x, 32>>(c, gate, up, out);
  if (group == 64) return RunGateUp<Codec<kBits, kW4x, 64>>(c, gate, up, out);
  return RunGateUp<Codec<kBits, kW4x, 128>>(c, gate, up, out);
}

}  // namespace octet::cuda

#endif  // OCTET_KERNELS_CUDA_INT_SKINNY_CUH_
