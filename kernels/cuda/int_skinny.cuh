// Integer products with few rows for each matrix: as fast as the weights come. A warp owns a panel
// of 16 outputs and walks its chunks once; one more warp of the block copies ahead, weights in bulk
// and the rows that all panels share. m16n8k32 tensor-core products give the exact integer sum of
// each group, which is scaled and added in fp32, groups ascending, as docs/numerics.md says. So
// neither the rows beside a row nor the launch change a bit.
#ifndef OCTET_KERNELS_CUDA_INT_SKINNY_CUH_
#define OCTET_KERNELS_CUDA_INT_SKINNY_CUH_

#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/int_codec.cuh"
#include "kernels/cuda/int_skinny_calls.h"
#include "kernels/cuda/int_stages.cuh"
#include "kernels/cuda/launch_early.cuh"
#include "kernels/cuda/pipeline.cuh"
#include "kernels/cuda/quantize.cuh"

namespace octet::cuda {

__device__ __forceinline__ void MmaS8(int (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                      uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// A warp that multiplies: its panel of every stream with all rows.
template <class P>
class SkinnyConsumer {
 public:
  using C = typename P::C;
  typename C::Accumulator acc[P::kOwn][P::kTiles][4];

  __device__ __forceinline__ void Run(const SkinnyMemory<P>& memory, const SkinnyShape& shape,
                                      const SkinnyBlock& block) {
    const uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    lane_values_ = lane * 16;
    for (uint32_t s = 0; s < 4; ++s) lane_row_[s] = g * 128 + (s ^ (g % 4)) * 32 + 8 * t;
    lane_scale_ = 8 * t;
    lane_group_ = g * (C::kW4x ? 1 : 2);
#pragma unroll
    for (int i = 0; i < P::kOwn * P::kTiles * 4; ++i) {
      acc[i / 4 / P::kTiles][i / 4 % P::kTiles][i % 4] = 0;
    }
    const uint32_t tiles = (block.count + 7) / 8;
    if constexpr (P::kTiles == 4) {
      if (tiles == 4) return RunTiles<4>(memory, shape, block);
      if (tiles == 3) return RunTiles<3>(memory, shape, block);
    }
    if constexpr (P::kTiles >= 2) {
      if (tiles == 2) return RunTiles<2>(memory, shape, block);
    }
    RunTiles<1>(memory, shape, block);
  }

 private:
  // All chunks, for kUsed tiles of rows.
  template <int kUsed>
  __device__ __forceinline__ void RunTiles(const SkinnyMemory<P>& memory, const SkinnyShape& shape,
                                           const SkinnyBlock& block) {
    const uint32_t panel = threadIdx.x / 32 % P::kWarps;
    // Of its own stream, where gate and up have warps of their own.
    const uint32_t stream = P::kApart ? threadIdx.x / 32 / P::kWarps : 0;
    const bool active = block.first_panel + panel < shape.panels;
    uint32_t stage = 0, parity = 0, at = SharedAddress(memory.stages);
    for (uint32_t first = 0; first < shape.chunks; first += P::kChunks) {
      WaitParity(&memory.full[stage], parity);
      const uint32_t weights = at + stream * P::kChunks * P::kPieceBytes + panel * C::kChunkBytes;
      // Past the last group nothing is added, not even zero: it would turn -0 into +0.
      const uint32_t groups_left = shape.weight_groups - first * C::kGroupsPerChunk;
      if (active && groups_left >= P::kChunks * C::kGroupsPerChunk) {
        MultiplyStage<kUsed, true>(weights, at + P::kWeightBytes, groups_left);
      } else if (active) {
        MultiplyStage<kUsed, false>(weights, at + P::kWeightBytes, groups_left);
      }
      __syncwarp();
      if (threadIdx.x % 32 == 0) Arrive(&memory.empty[stage]);
      at += P::kStageBytes;
      if (++stage == P::kStages) {
        stage = 0;
        parity ^= 1;
        at = SharedAddress(memory.stages);
      }
    }
  }

  template <int kUsed, bool kWhole>
  __device__ __forceinline__ void MultiplyStage(uint32_t weights, uint32_t rows,
                                                uint32_t groups_left) {
#pragma unroll
    for (int c = 0; c < P::kChunks; ++c) {
#pragma unroll
      for (int m = 0; m < P::kOwn; ++m) {
        Multiply<kUsed, kWhole>(m, weights + (m * P::kChunks + c) * P::kPieceBytes,
                                rows + c * P::kRows * 128,
                                rows + P::kRowBytes + c * C::kScalesPerChunk * P::kRows * 4,
                                static_cast<int>(groups_left) - c * C::kGroupsPerChunk);
      }
    }
  }

  // One chunk of one panel. `chunk`, `rows` and `scales` are addresses in shared memory.
  template <int kUsed, bool kWhole>
  __device__ __forceinline__ void Multiply(int m, uint32_t chunk, uint32_t rows, uint32_t scales,
                                           int groups_left) {
    const typename C::LaneValues values(chunk + lane_values_);
    int dot[kUsed][4];
#pragma unroll
    for (int s = 0; s < 4; ++s) {
      uint32_t a[4];
      values.Step(s, a);
#pragma unroll
      for (int i = 0; i < kUsed; ++i) {
        if (s % C::kStepsPerGroup == 0) {
          for (int& d : dot[i]) d = C::kDotStart;
        }
        const uint2 b = LoadShared8(rows + lane_row_[s] + i * 1024);
        MmaS8(dot[i], a, b.x, b.y);
      }
      if (s % C::kStepsPerGroup != C::kStepsPerGroup - 1) continue;
      const int group = s / C::kStepsPerGroup;
      if (!kWhole && group >= groups_left) continue;
      const typename C::GroupScales weight_scales(chunk + C::kValueBytes + lane_group_, group);
#pragma unroll
      for (int i = 0; i < kUsed; ++i) {
        float a_scale[2] = {0.0f, 0.0f};
        if constexpr (!C::kW4x) {
          const uint2 pair = LoadShared8(scales + lane_scale_ + (group * P::kRows + 8 * i) * 4);
          a_scale[0] = __uint_as_float(pair.x);
          a_scale[1] = __uint_as_float(pair.y);
        }
        weight_scales.Add(dot[i], a_scale, acc[m][i]);
      }
    }
  }

 public:
  // Output g + 8 (j / 2) of a panel for column 2 t + j % 2 of tile i, j = 0..3.
  __device__ __forceinline__ float Result(int m, int i, int j, const uint8_t* data, uint32_t panel,
                                          const SkinnyShape& shape, const EntryMap& map,
                                          const QuantRows& x, const SkinnyBlock& block) const {
    if constexpr (!C::kW4x) {
      return acc[m][i][j];
    } else {
      const uint32_t lane = threadIdx.x % 32;
      const uint32_t row = min(8 * i + lane % 4 * 2 + j % 2, block.count - 1);
      const float w = reinterpret_cast<const float*>(
          data + shape.layout.ScalesAt(panel))[lane / 4 + 8 * (j / 2)];
      return __fmul_rn(__int2float_rn(static_cast<int>(acc[m][i][j])),
                       __fmul_rn(w, x.scales[map.row(block.first_entry + row)]));
    }
  }

 private:
  // What this lane adds to the addresses of a chunk's values, of the rows at each step, of their
  // scales and of the weights'.
  uint32_t lane_values_, lane_row_[4], lane_scale_, lane_group_;
};

// For launches too small for that the chunks of a stage have a warp each, which hands its
// integer sums and their scales to the panel's first; that adds them in the order of the groups. At
// most 8 rows.
template <class P>
class SkinnyPart {
 public:
  using C = typename P::C;
  typename C::Accumulator acc[4] = {};  // the panel's, in its first warp

  __device__ __forceinline__ void Run(const SkinnyMemory<P>& memory, const SkinnyShape& shape,
                                      const SkinnyBlock& block) {
    const uint32_t panel = threadIdx.x / 32 % P::kWarps, part = threadIdx.x / 32 / P::kWarps;
    const uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const bool active = block.first_panel + panel < shape.panels;
    uint32_t stage = 0, parity = 0, buffer = 0;
    for (uint32_t first = 0; first < shape.chunks; first += P::kChunks) {
      WaitParity(&memory.full[stage], parity);
      const uint32_t at = SharedAddress(memory.weights(stage));
      const bool mine = active && first + part < shape.chunks;
      if (mine) {
        const uint32_t rows = at + P::kWeightBytes + part * P::kRows * 128;
        const uint32_t scales =
            at + P::kWeightBytes + P::kRowBytes + part * C::kScalesPerChunk * P::kRows * 4 + 8 * t;
        Multiply(at + part * P::kPieceBytes + panel * C::kChunkBytes, rows, scales, g, t,
                 Slot(memory, buffer, panel, part));
      }
      __syncwarp();
      if (lane == 0) Arrive(&memory.empty[stage]);
      if (++stage == P::kStages) {
        stage = 0;
        parity ^= 1;
      }
      if constexpr (!C::kW4x) {
        PanelBarrier(panel);
        if (part == 0 && active) AddStage(memory, shape, first, buffer, panel);
        buffer ^= 1;
      }
    }
    if constexpr (C::kW4x) AddParts(memory, panel, part);
  }

 private:
  static __device__ __forceinline__ void PanelBarrier(uint32_t panel) {
    asm volatile("bar.sync %0, %1;" ::"r"(1 + panel), "n"(P::kChunks * 32) : "memory");
  }
  static __device__ __forceinline__ uint8_t* Slot(const SkinnyMemory<P>& memory, uint32_t buffer,
                                                  uint32_t panel, uint32_t part) {
    return memory.hand_over + ((buffer * P::kWarps + panel) * P::kChunks + part) * P::kPartBytes;
  }

  __device__ __forceinline__ void Multiply(uint32_t chunk, uint32_t rows, uint32_t scales,
                                           uint32_t g, uint32_t t, uint8_t* slot) {
    const uint32_t lane = threadIdx.x % 32;
    const typename C::LaneValues values(chunk + lane * 16);
    int dot[4];
#pragma unroll
    for (int s = 0; s < 4; ++s) {
      if (s % C::kStepsPerGroup == 0) {
        for (int& d : dot) d = C::kDotStart;
      }
      uint32_t a[4];
      values.Step(s, a);
      const uint2 b = LoadShared8(rows + g * 128 + (s ^ (g % 4)) * 32 + 8 * t);
      MmaS8(dot, a, b.x, b.y);
      if (s % C::kStepsPerGroup != C::kStepsPerGroup - 1) continue;
      const int group = s / C::kStepsPerGroup;
      const typename C::GroupScales weight_scales(chunk + C::kValueBytes + g * (C::kW4x ? 1 : 2),
                                                  group);
      if constexpr (C::kW4x) {
        const float unused[2] = {0.0f, 0.0f};
        weight_scales.Add(dot, unused, acc);
      } else {
        const uint2 pair = LoadShared8(scales + group * P::kRows * 4);
        const float a_scale[2] = {__uint_as_float(pair.x), __uint_as_float(pair.y)};
        auto* out = reinterpret_cast<float2*>(slot) + group * 128 + lane;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          out[j * 32] = make_float2(C::GroupScales::ToFloat(dot[j]),
                                    __fmul_rn(weight_scales.scale[j / 2], a_scale[j % 2]));
        }
      }
    }
  }

  __device__ __forceinline__ void AddStage(const SkinnyMemory<P>& memory, const SkinnyShape& shape,
                                           uint32_t first, uint32_t buffer, uint32_t panel) {
    const uint32_t groups_left = shape.weight_groups - first * C::kGroupsPerChunk;
#pragma unroll
    for (uint32_t i = 0; i < P::kChunks * C::kGroupsPerChunk; ++i) {
      // Past the last group nothing is added, not even zero: it would turn -0 into +0.
      if (i >= groups_left) break;
      const auto* from =
          reinterpret_cast<const float2*>(Slot(memory, buffer, panel, i / C::kGroupsPerChunk)) +
          i % C::kGroupsPerChunk * 128 + threadIdx.x % 32;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float2 v = from[j * 32];
        acc[j] = __fmaf_rn(v.x, v.y, acc[j]);
      }
    }
  }

  // Integer sums of all parts, in whatever order.
  __device__ __forceinline__ void AddParts(const SkinnyMemory<P>& memory, uint32_t panel,
                                           uint32_t part) {
    const uint32_t lane = threadIdx.x % 32;
    for (int j = 0; j < 4; ++j) {
      reinterpret_cast<uint32_t*>(Slot(memory, 0, panel, part))[j * 32 + lane] = acc[j];
    }
    PanelBarrier(panel);
    if (part != 0) return;
    for (uint32_t p = 1; p < P::kChunks; ++p) {
      for (int j = 0; j < 4; ++j) {
        acc[j] += reinterpret_cast<const uint32_t*>(Slot(memory, 0, panel, p))[j * 32 + lane];
      }
    }
  }
};

// ---- y = W x ----

template <class P>
__global__ void __launch_bounds__(P::kThreads, P::kBlocks)
    SkinnyProductKernel(SkinnyTargets w, SkinnyShape shape, EntryMap map, QuantRows x) {
  extern __shared__ __align__(128) uint8_t dynamic[];
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  SkinnyBlock block{blockIdx.y, blockIdx.x * P::kWarps, 0, 0};
  const uint32_t matrix = w.count > 1 ? block.expert : 0;
  shape.n = w.n[matrix];
  shape.panels = (shape.n + 15) / 16;
  if (block.first_panel >= shape.panels) return;
  block.first_entry = map.begin(block.expert) + blockIdx.z * P::kRows;
  const uint32_t end = map.end(block.expert);
  if (block.first_entry >= end) return;
  block.count = min(end - block.first_entry, uint32_t{P::kRows});
  const SkinnyMemory<P> memory(dynamic);
  memory.Init();
  const uint8_t* data = w.count > 1 ? w.data[matrix] : w.set.data(block.expert);
  if (warp == P::kMultipliers) {
    SkinnyProducer<P>(memory, shape, block, &data).Run(map, x, block);
    return;
  }
  GridWait();
  GridTrigger();
  const uint32_t panel = block.first_panel + warp % P::kWarps;
  SkinnyConsumer<P> product;
  if constexpr (P::kApart) {
    SkinnyPart<P> part;
    part.Run(memory, shape, block);
    if (warp >= P::kWarps) return;
    for (int j = 0; j < 4; ++j) product.acc[0][0][j] = part.acc[j];
  } else {
    product.Run(memory, shape, block);
  }
  if (panel >= shape.panels) return;
  float* y = w.y[matrix];
#pragma unroll
  for (int i = 0; i < P::kTiles; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const uint32_t entry = 8 * i + lane % 4 * 2 + j % 2;
      const uint32_t output = panel * 16 + lane / 4 + 8 * (j / 2);
      const float value = product.Result(0, i, j, data, panel, shape, map, x, block);
      if (entry < block.count && output < shape.n) {
        y[(block.first_entry + entry) * w.y_stride[matrix] + output] = value;
      }
    }
  }
}

// ---- silu(gate x) * (up x) ----

// Rows of 128 middle outputs in shared memory, [rows][kMiddleStride], to where they go. A warp
// takes a row, a lane 4 consecutive outputs.
template <int kWarps>
__device__ __forceinline__ void MultipliersBarrier() {
  asm volatile("bar.sync 1, %0;" ::"n"(kWarps * 32) : "memory");
}

inline constexpr int kMiddleStride = kGateUpWarps * 16 + 4;

__device__ inline void WriteMiddle(const float* rows, uint32_t count, uint32_t first_entry,
                                   uint32_t first_output, uint32_t warps, const MiddleOut& out) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t output = first_output + 4 * lane;
  for (uint32_t r = threadIdx.x / 32; r < count; r += warps) {
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

template <class P>
__global__ void __launch_bounds__(P::kThreads, P::kBlocks)
    SkinnyGateUpKernel(MatrixSet gate, MatrixSet up, SkinnyShape shape, EntryMap map, QuantRows x,
                       MiddleOut out) {
  extern __shared__ __align__(128) uint8_t dynamic[];
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  // Which rows an expert has may come from the launch before.
  GridWait();
  SkinnyBlock block{blockIdx.y, blockIdx.x * P::kWarps, 0, 0};
  block.first_entry = map.begin(block.expert) + blockIdx.z * P::kRows;
  const uint32_t end = map.end(block.expert);
  if (block.first_entry >= end) return;
  block.count = min(end - block.first_entry, uint32_t{P::kRows});
  const SkinnyMemory<P> memory(dynamic);
  memory.Init();
  const uint8_t* data[2] = {gate.data(block.expert), up.data(block.expert)};
  if (warp == P::kMultipliers) {
    SkinnyProducer<P>(memory, shape, block, data).Run(map, x, block);
    return;
  }
  GridTrigger();
  SkinnyConsumer<P> product;
  product.Run(memory, shape, block);
  const uint32_t panel = block.first_panel + warp % P::kWarps;
  const bool active = panel < shape.panels, has_up = warp >= P::kWarps;
  MultipliersBarrier<P::kMultipliers>();  // every stage is read: their memory takes the middle
  auto* middle = reinterpret_cast<float*>(dynamic);
  const auto each = [&](auto&& value) {
#pragma unroll
    for (int i = 0; i < P::kTiles; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const uint32_t row = 8 * i + lane % 4 * 2 + j % 2;
        const uint32_t output = warp % P::kWarps * 16 + lane / 4 + 8 * (j / 2);
        float& at = middle[row * kMiddleStride + output];
        at = active && row < block.count ? value(i, j, at) : 0.0f;
      }
    }
  };
  const auto result = [&](int m, int i, int j, int stream) {
    return product.Result(m, i, j, data[stream], panel, shape, map, x, block);
  };
  if constexpr (P::kApart) {
    if (has_up) each([&](int i, int j, float) { return result(0, i, j, 1); });
    MultipliersBarrier<P::kMultipliers>();
    if (!has_up) {
      each([&](int i, int j, float up) { return SiluMul(result(0, i, j, 0), up); });
    }
  } else {
    each([&](int i, int j, float) { return SiluMul(result(0, i, j, 0), result(1, i, j, 1)); });
  }
  MultipliersBarrier<P::kMultipliers>();
  WriteMiddle(middle, block.count, block.first_entry, block.first_panel * 16, P::kMultipliers, out);
}

// ---- Launches ----

template <class P>
int LaunchProduct(const SkinnyCall& c, const SkinnyTargets& w) {
  const dim3 grid(CeilDiv(c.shape.panels, P::kWarps), c.experts, CeilDiv(c.rows_max, P::kRows));
  return LaunchEarly(SkinnyProductKernel<P>, grid, P::kThreads, P::kShared, c.stream, c.early, w,
                     c.shape, c.map, c.x);
}

template <class P>
int LaunchGateUp(const SkinnyCall& c, const MatrixSet& gate, const MatrixSet& up,
                 const MiddleOut& out) {
  static_assert(P::kStages * P::kStageBytes >= P::kRows * kMiddleStride * 4);
  const dim3 grid(CeilDiv(c.shape.panels, P::kWarps), c.experts, CeilDiv(c.rows_max, P::kRows));
  return LaunchEarly(SkinnyGateUpKernel<P>, grid, P::kThreads, P::kShared, c.stream, c.early, gate,
                     up, c.shape, c.map, c.x, out);
}

// Experts that can have rows, as far as the host knows.
inline uint32_t ActiveMax(const SkinnyCall& c) {
  return c.experts < c.entries_max ? c.experts : c.entries_max;
}

template <class C>
int RunProduct(const SkinnyCall& c, const SkinnyTargets& w) {
  // Warps of whole panels are enough where every multiprocessor has 12.
  const bool few = c.shape.panels * ActiveMax(c) < kMultiprocessors * 12;
  if (c.rows_max <= 8 && few) return LaunchProduct<SkinnyPlan<C, 1, 2, 1, true>>(c, w);
  if (c.rows_max <= 8) return LaunchProduct<SkinnyPlan<C, 1, 4, 1>>(c, w);
  if (c.rows_max <= 16) {
    return few ? LaunchProduct<SkinnyPlan<C, 1, 2, 2>>(c, w)
               : LaunchProduct<SkinnyPlan<C, 1, 4, 2>>(c, w);
  }
  return few ? LaunchProduct<SkinnyPlan<C, 1, 2, 4>>(c, w)
             : LaunchProduct<SkinnyPlan<C, 1, 4, 4>>(c, w);
}
template <class C>
int RunGateUp(const SkinnyCall& c, const MatrixSet& gate, const MatrixSet& up,
              const MiddleOut& out) {
  const uint32_t blocks = ActiveMax(c) * CeilDiv(c.shape.panels, kGateUpWarps);
  if (c.rows_max <= 8 && blocks <= 2 * kMultiprocessors) {
    return LaunchGateUp<SkinnyPlan<C, 2, kGateUpWarps, 1, true>>(c, gate, up, out);
  }
  if (c.rows_max <= 8) {
    return LaunchGateUp<SkinnyPlan<C, 2, kGateUpWarps, 1>>(c, gate, up, out);
  }
  if (c.rows_max <= 16) {
    return LaunchGateUp<SkinnyPlan<C, 2, kGateUpWarps, 2>>(c, gate, up, out);
  }
  return LaunchGateUp<SkinnyPlan<C, 2, kGateUpWarps, 4>>(c, gate, up, out);
}

// One file a codec, so that they build side by side.
template <int kBits, bool kW4x>
int SkinnyProductOf(uint32_t group, const SkinnyCall& c, const SkinnyTargets& w) {
  if (group == 32) return RunProduct<Codec<kBits, kW4x, 32>>(c, w);
  if (group == 64) return RunProduct<Codec<kBits, kW4x, 64>>(c, w);
  return RunProduct<Codec<kBits, kW4x, 128>>(c, w);
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
