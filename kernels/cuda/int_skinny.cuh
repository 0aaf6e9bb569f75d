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
#include "kernels/cuda/launch_early.cuh"
#include "kernels/cuda/pipeline.cuh"
#include "kernels/cuda/quantize.cuh"

namespace octet::cuda {

inline constexpr unsigned kMultiprocessors = 132;  // of an H100 or H200; decides sizes, no bits
inline constexpr int kGateUpWarps = 8;             // 128 outputs: whole groups of the middle

__device__ __forceinline__ void MmaS8(int (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                      uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// 16 or 4 bytes of the ordinary kind of asynchronous copy; what lies past `bytes` becomes zero.
__device__ __forceinline__ void CopyAsync16(uint32_t shared, const void* global, uint32_t bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global),
               "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void CopyAsync4(uint32_t shared, const void* global, uint32_t bytes) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared), "l"(global), "r"(bytes)
               : "memory");
}
// The barrier hears of this thread's copies so far when they have landed.
__device__ __forceinline__ void ArriveWhenCopied(uint64_t* barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(SharedAddress(barrier))
               : "memory");
}

// What a block works with: kWarps panels of each of kStreams matrices (gate and up side by side, or
// one), kTiles times 8 rows, stages of kChunks chunks. kFew: the launch has two blocks for each
// multiprocessor at most.
template <class CodecOf, int kStreamsOf, int kWarpsOf, int kTilesOf, bool kFew = false>
struct SkinnyPlan {
  using C = CodecOf;
  static constexpr int kStreams = kStreamsOf;
  static constexpr int kWarps = kWarpsOf;
  static constexpr int kTiles = kTilesOf;
  static constexpr int kRows = 8 * kTiles;
  // Chunks whose integer sums are independent keep a warp busy that has no company.
  static constexpr int kChunks = (kStreams == 2 && !kFew) || C::kBits == 8 ? 1 : 2;
  static constexpr int kPanelBytes = kChunks * C::kChunkBytes;
  static constexpr int kWeightBytes = kStreams * kWarps * kPanelBytes;
  static constexpr int kRowBytes = kChunks * kRows * 128;
  static constexpr int kScaleCount = C::kW4x ? 0 : kChunks * C::kScalesPerChunk * kRows;
  static constexpr int kStageBytes = (kWeightBytes + kRowBytes + kScaleCount * 4 + 127) / 128 * 128;
  // Blocks that share a multiprocessor: as many as registers allow, as the warps of one wait for
  // each other's latencies. What is on its way to all of them together covers the memory's.
  static constexpr int kBlocks = kFew            ? 2
                                 : kStreams == 1 ? 4
                                 : kTiles == 1   ? 4
                                 : kTiles == 2   ? 3
                                                 : 2;
  static constexpr int kRoom = 227 * 1024 / kBlocks - 1024;
  static constexpr int kFit = (kRoom - 256) / kStageBytes;
  static constexpr int kStages = kFit < 2 ? 2 : kFit > 8 ? 8 : kFit;
  static constexpr int kThreads = (kWarps + 1) * 32;
  static constexpr int kShared = kStages * kStageBytes + 2 * kStages * 8;
};

// The first output panel of a block, and the rows that it multiplies.
struct SkinnyBlock {
  uint32_t expert;
  uint32_t first_panel;
  uint32_t first_entry;
  uint32_t count;
};

template <class P>
struct SkinnyMemory {
  uint8_t* stages;
  uint64_t* full;
  uint64_t* empty;

  __device__ __forceinline__ explicit SkinnyMemory(uint8_t* memory)
      : stages(memory),
        full(reinterpret_cast<uint64_t*>(memory + P::kStages * P::kStageBytes)),
        empty(full + P::kStages) {}
  __device__ __forceinline__ uint8_t* weights(uint32_t stage) const {
    return stages + stage * P::kStageBytes;
  }
  __device__ __forceinline__ uint8_t* rows(uint32_t stage) const {
    return weights(stage) + P::kWeightBytes;
  }
  __device__ __forceinline__ float* scales(uint32_t stage) const {
    return reinterpret_cast<float*>(rows(stage) + P::kRowBytes);
  }
  __device__ __forceinline__ void Init() const {
    if (threadIdx.x == 0) {
      for (int i = 0; i < P::kStages; ++i) {
        InitBarrier(&full[i], 33);  // the weights' bytes, and each copying lane's rows
        InitBarrier(&empty[i], P::kWarps);
      }
      asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    }
    __syncthreads();
  }
};

// The copying warp. Weights do not depend on the launch before this one, rows may.
template <class P>
class SkinnyProducer {
 public:
  using C = typename P::C;
  __device__ __forceinline__ SkinnyProducer(const SkinnyMemory<P>& memory, const SkinnyShape& shape,
                                            const SkinnyBlock& block, const uint8_t* const* data)
      : memory_(memory), lane_(threadIdx.x % 32) {
    const uint32_t warp = lane_ % P::kWarps, stream = lane_ / P::kWarps;
    const uint32_t panel = block.first_panel + warp;
    copies_ = stream < P::kStreams && panel < shape.panels;
    if (copies_) panel_ = data[stream] + panel * shape.panel_bytes;
    const uint32_t panels = min(shape.panels - block.first_panel, uint32_t{P::kWarps});
    chunks_ = shape.chunks;
    panels_ = panels * P::kStreams;
    slot_ = (stream * P::kWarps + warp) * P::kPanelBytes;
  }

  __device__ __forceinline__ uint32_t stages() const {
    return (chunks_ + P::kChunks - 1) / P::kChunks;
  }

  __device__ __forceinline__ void Weights(uint32_t round) {
    const uint32_t stage = round % P::kStages, first = round * P::kChunks;
    const uint32_t bytes = min(chunks_ - first, uint32_t{P::kChunks}) * C::kChunkBytes;
    if (lane_ == 0) ArriveExpecting(&memory_.full[stage], panels_ * bytes);
    __syncwarp();
    if (copies_) {
      CopyBulk(memory_.weights(stage) + slot_, panel_ + size_t{first} * C::kChunkBytes, bytes,
               &memory_.full[stage]);
    }
  }

  // Where this lane's pieces of the rows start. After GridWait.
  __device__ __forceinline__ void FindRows(const EntryMap& map, const QuantRows& x,
                                           const SkinnyBlock& block) {
    const auto row = [&](uint32_t i) {
      return map.row(block.first_entry + min(i, block.count - 1));
    };
#pragma unroll
    for (uint32_t i = 0; i < P::kRows / 4; ++i) {
      row_q_[i] = row(4 * i + lane_ / 8) * x.padded_k + lane_ % 8 * 16;
    }
    row_scales_ = row(lane_ % P::kRows) * x.groups;
  }

  __device__ __forceinline__ void Rows(uint32_t round, const QuantRows& x, uint32_t count) {
    const uint32_t stage = round % P::kStages, first = round * P::kChunks;
    const uint32_t unit = lane_ % 8;
    const uint32_t rows = SharedAddress(memory_.rows(stage));
#pragma unroll
    for (uint32_t i = 0; i < P::kRows / 4; ++i) {
      const uint32_t row = 4 * i + lane_ / 8;
      if (row >= count) continue;  // what such rows give is not used
      const uint32_t to = rows + row * 128 + ((unit / 2) ^ (row % 4)) * 32 + unit % 2 * 16;
#pragma unroll
      for (uint32_t c = 0; c < P::kChunks; ++c) {
        const uint32_t k = (first + c) * static_cast<uint32_t>(kChunk);
        const bool present = k + unit * 16 < x.padded_k;
        CopyAsync16(to + c * P::kRows * 128, x.q + row_q_[i] + (present ? k : 0), present ? 16 : 0);
      }
    }
    const uint32_t scales = SharedAddress(memory_.scales(stage));
#pragma unroll
    for (uint32_t at = lane_; at < P::kScaleCount; at += 32) {
      if (lane_ % P::kRows >= count) continue;
      const uint32_t group = first * C::kScalesPerChunk + at / P::kRows;
      const bool present = group < x.groups;
      CopyAsync4(scales + at * 4, x.scales + row_scales_ + (present ? group : 0), present ? 4 : 0);
    }
    ArriveWhenCopied(&memory_.full[stage]);
  }

  __device__ __forceinline__ void Run(const EntryMap& map, const QuantRows& x,
                                      const SkinnyBlock& block) {
    const uint32_t all = stages(), ahead = min(all, uint32_t{P::kStages});
    for (uint32_t round = 0; round < ahead; ++round) Weights(round);
    GridWait();
    FindRows(map, x, block);
    for (uint32_t round = 0; round < ahead; ++round) Rows(round, x, block.count);
    for (uint32_t round = ahead; round < all; ++round) {
      WaitParity(&memory_.empty[round % P::kStages], (round / P::kStages + 1) & 1);
      Weights(round);
      Rows(round, x, block.count);
    }
  }

 private:
  const SkinnyMemory<P>& memory_;
  const uint32_t lane_;
  const uint8_t* panel_ = nullptr;
  bool copies_ = false;
  uint32_t chunks_ = 0, panels_ = 0, slot_ = 0;
  uint32_t row_q_[P::kRows / 4];
  uint32_t row_scales_;
};

// A warp that multiplies: its panel of every stream with all rows.
template <class P>
class SkinnyConsumer {
 public:
  using C = typename P::C;
  typename C::Accumulator acc[P::kStreams][P::kTiles][4];

  __device__ __forceinline__ void Run(const SkinnyMemory<P>& memory, const SkinnyShape& shape,
                                      const SkinnyBlock& block) {
    const uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    lane_values_ = lane * 16;
    for (uint32_t s = 0; s < 4; ++s) lane_row_[s] = g * 128 + (s ^ (g % 4)) * 32 + 8 * t;
    lane_scale_ = 8 * t;
    lane_group_ = g * (C::kW4x ? 1 : 2);
#pragma unroll
    for (int i = 0; i < P::kStreams * P::kTiles * 4; ++i) {
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
    const uint32_t warp = threadIdx.x / 32;
    const bool active = block.first_panel + warp < shape.panels;
    uint32_t stage = 0, parity = 0, at = SharedAddress(memory.stages);
    for (uint32_t first = 0; first < shape.chunks; first += P::kChunks) {
      WaitParity(&memory.full[stage], parity);
      const uint32_t weights = at + warp * P::kPanelBytes;
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
      for (int m = 0; m < P::kStreams; ++m) {
        Multiply<kUsed, kWhole>(m, weights + m * P::kWarps * P::kPanelBytes + c * C::kChunkBytes,
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
  __device__ __forceinline__ float Result(int m, int i, int j, const uint8_t* panel,
                                          const SkinnyShape& shape, const EntryMap& map,
                                          const QuantRows& x, const SkinnyBlock& block) const {
    if constexpr (!C::kW4x) {
      return acc[m][i][j];
    } else {
      const uint32_t lane = threadIdx.x % 32;
      const uint32_t row = min(8 * i + lane % 4 * 2 + j % 2, block.count - 1);
      const float w =
          reinterpret_cast<const float*>(panel + shape.scales_at)[lane / 4 + 8 * (j / 2)];
      return __fmul_rn(__int2float_rn(static_cast<int>(acc[m][i][j])),
                       __fmul_rn(w, x.scales[map.row(block.first_entry + row)]));
    }
  }

 private:
  // What this lane adds to the addresses of a chunk's values, of the rows at each step, of their
  // scales and of the weights'.
  uint32_t lane_values_, lane_row_[4], lane_scale_, lane_group_;
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
  if (warp == P::kWarps) {
    SkinnyProducer<P>(memory, shape, block, &data).Run(map, x, block);
    return;
  }
  GridWait();
  GridTrigger();
  SkinnyConsumer<P> product;
  product.Run(memory, shape, block);
  const uint32_t panel = block.first_panel + warp;
  if (panel >= shape.panels) return;
  float* y = w.y[matrix];
#pragma unroll
  for (int i = 0; i < P::kTiles; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const uint32_t entry = 8 * i + lane % 4 * 2 + j % 2;
      const uint32_t output = panel * 16 + lane / 4 + 8 * (j / 2);
      const float value =
          product.Result(0, i, j, data + panel * shape.panel_bytes, shape, map, x, block);
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
  if (warp == P::kWarps) {
    SkinnyProducer<P>(memory, shape, block, data).Run(map, x, block);
    return;
  }
  GridTrigger();
  SkinnyConsumer<P> product;
  product.Run(memory, shape, block);
  const uint32_t panel = block.first_panel + warp;
  const bool active = panel < shape.panels;
  MultipliersBarrier<P::kWarps>();  // every stage is read: their memory takes the middle
  auto* middle = reinterpret_cast<float*>(dynamic);
#pragma unroll
  for (int i = 0; i < P::kTiles; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const uint32_t row = 8 * i + lane % 4 * 2 + j % 2;
      const uint32_t output = warp * 16 + lane / 4 + 8 * (j / 2);
      float h = 0.0f;
      if (active && row < block.count) {
        const size_t at = panel * shape.panel_bytes;
        h = SiluMul(product.Result(0, i, j, data[0] + at, shape, map, x, block),
                    product.Result(1, i, j, data[1] + at, shape, map, x, block));
      }
      middle[row * kMiddleStride + output] = h;
    }
  }
  MultipliersBarrier<P::kWarps>();
  WriteMiddle(middle, block.count, block.first_entry, block.first_panel * 16, out);
}

// ---- Launches ----

template <class C, int kTiles, int kWarps>
int LaunchProduct(const SkinnyCall& c, const SkinnyTargets& w) {
  using P = SkinnyPlan<C, 1, kWarps, kTiles>;
  const dim3 grid(CeilDiv(c.shape.panels, kWarps), c.experts, CeilDiv(c.rows_max, P::kRows));
  return LaunchEarly(SkinnyProductKernel<P>, grid, P::kThreads, P::kShared, c.stream, c.early, w,
                     c.shape, c.map, c.x);
}

template <class C, int kTiles, bool kFew = false>
int LaunchGateUp(const SkinnyCall& c, const MatrixSet& gate, const MatrixSet& up,
                 const MiddleOut& out) {
  using P = SkinnyPlan<C, 2, kGateUpWarps, kTiles, kFew>;
  static_assert(P::kStages * P::kStageBytes >= P::kRows * kMiddleStride * 4);
  const dim3 grid(CeilDiv(c.shape.panels, P::kWarps), c.experts, CeilDiv(c.rows_max, P::kRows));
  return LaunchEarly(SkinnyGateUpKernel<P>, grid, P::kThreads, P::kShared, c.stream, c.early, gate,
                     up, c.shape, c.map, c.x, out);
}

// Small blocks where there is too little work to give every multiprocessor some.
template <class C, int kTiles>
int RunProductTiles(const SkinnyCall& c, const SkinnyTargets& w) {
  constexpr uint32_t kPanelsMany = kMultiprocessors * 2 * 4;
  const uint32_t groups = c.experts < c.entries_max ? c.experts : c.entries_max;
  if (c.shape.panels * groups < kPanelsMany) return LaunchProduct<C, kTiles, 2>(c, w);
  return LaunchProduct<C, kTiles, 4>(c, w);
}

template <class C>
int RunProduct(const SkinnyCall& c, const SkinnyTargets& w) {
  if (c.rows_max <= 8) return RunProductTiles<C, 1>(c, w);
  if (c.rows_max <= 16) return RunProductTiles<C, 2>(c, w);
  return RunProductTiles<C, 4>(c, w);
}
template <class C>
int RunGateUp(const SkinnyCall& c, const MatrixSet& gate, const MatrixSet& up,
              const MiddleOut& out) {
  const uint32_t experts = c.experts < c.entries_max ? c.experts : c.entries_max;
  if (c.rows_max <= 8 && experts * CeilDiv(c.shape.panels, kGateUpWarps) <= 2 * kMultiprocessors) {
    return LaunchGateUp<C, 1, true>(c, gate, up, out);
  }
  if (c.rows_max <= 8) return LaunchGateUp<C, 1>(c, gate, up, out);
  if (c.rows_max <= 16) return LaunchGateUp<C, 2>(c, gate, up, out);
  return LaunchGateUp<C, 4>(c, gate, up, out);
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
