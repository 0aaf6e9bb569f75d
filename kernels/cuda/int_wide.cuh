// Integer products with many rows for each matrix, on Hopper's warpgroup products. Rows come as
// images: tiles of 64 rows, cut into chunks of 128 inputs, each chunk the very bytes that shared
// memory holds (128-byte swizzle), so that one bulk copy brings it. Weights go from their panels to
// registers as A operands. A persistent block has a warp that copies and four warpgroups that
// multiply 64 outputs each by the 64 rows: some scale what they have while others keep the tensor
// cores busy. The arithmetic is that of int_skinny.cuh: exact integer sums of groups, scaled and
// added in fp32, groups ascending.
#ifndef OCTET_KERNELS_CUDA_INT_WIDE_CUH_
#define OCTET_KERNELS_CUDA_INT_WIDE_CUH_

#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/int_codec.cuh"
#include "kernels/cuda/int_wide_calls.h"
#include "kernels/cuda/pipeline.cuh"
#include "kernels/cuda/quantize.cuh"

namespace octet::cuda {

// ---- Warpgroup products: 64 outputs x 64 rows x 32 inputs ----

using WideDot = int[32];

__device__ __forceinline__ void WideFence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void WideCommit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void WideWait() {
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
}
// Keeps reads and writes of the registers on their side of what is asynchronous.
__device__ __forceinline__ void PinDot(WideDot& d) {
#pragma unroll
  for (int i = 0; i < 32; ++i) asm volatile("" : "+r"(d[i])::"memory");
}

// Rows of 128 bytes, swizzled in 128 bytes; groups of 8 rows are 1,024 bytes apart.
__device__ __forceinline__ uint64_t ImageDescriptor(uint32_t shared) {
  uint64_t d = (shared & 0x3ffffu) >> 4;
  d |= uint64_t{1} << 16;
  d |= uint64_t{1024 >> 4} << 32;
  d |= uint64_t{1} << 62;
  return d;
}

__device__ __forceinline__ void WideMma(WideDot& d, const uint32_t (&a)[4], uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n64k32.s32.s8.s8 "
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
      "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, "
      "{%32,%33,%34,%35}, %36, 1;"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]), "+r"(d[4]), "+r"(d[5]), "+r"(d[6]),
        "+r"(d[7]), "+r"(d[8]), "+r"(d[9]), "+r"(d[10]), "+r"(d[11]), "+r"(d[12]), "+r"(d[13]),
        "+r"(d[14]), "+r"(d[15]), "+r"(d[16]), "+r"(d[17]), "+r"(d[18]), "+r"(d[19]), "+r"(d[20]),
        "+r"(d[21]), "+r"(d[22]), "+r"(d[23]), "+r"(d[24]), "+r"(d[25]), "+r"(d[26]), "+r"(d[27]),
        "+r"(d[28]), "+r"(d[29]), "+r"(d[30]), "+r"(d[31])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

// ---- The kernel's shape ----

inline constexpr int kWideThreads = 640;  // copying, and four warpgroups that multiply
inline constexpr uint32_t kWideConsumerWarps = 16;
inline constexpr int kWideSums = 32;  // of a thread: 64 x 64 over a warpgroup

template <class C>
struct WideStage {
  static constexpr int kImageBytes =
      kImageRows * 128 + (C::kW4x ? 0 : C::kGroupsPerChunk * kImageRows * 4);
  static constexpr int kWeightBytes = 16 * C::kChunkBytes;
  // The image comes first: its swizzle repeats every 1,024 bytes.
  static constexpr int kBytes = (kImageBytes + kWeightBytes + 1023) / 1024 * 1024;
};

// Shared memory past the stages: what turns a finished middle into an image.
struct WideEpilogue {
  float up[2][64][kImageRows + 2];  // [pair of warpgroups][output][row]
  uint8_t image[kImageRows * 128];
  float scales[4][kImageRows];        // [group][row]
  float inverses[4][kImageRows];      // 0: all codes are 0
  uint32_t magnitude[8][kImageRows];  // [16 outputs][row]
  uint64_t full[8];
  uint64_t empty[8];
  uint32_t tile_begin[kWideExpertsMax + 1];
};

template <class C>
struct WidePlan {
  static constexpr int kRoom = 232'448 - 1024 - static_cast<int>(sizeof(WideEpilogue));
  static constexpr int kFit = kRoom / WideStage<C>::kBytes;
  static constexpr int kStages = kFit < 6 ? kFit : 6;
  static constexpr int kShared = kStages * WideStage<C>::kBytes + 1024 + sizeof(WideEpilogue);
  static_assert(kStages >= 3);
};

// First row tile of each expert. By one thread; then a block barrier.
__device__ inline void FillTileBegins(const EntryMap& map, uint32_t experts, uint32_t* begins) {
  if (threadIdx.x == 0) {
    uint32_t tiles = 0;
    for (uint32_t e = 0; e < experts; ++e) {
      begins[e] = tiles;
      tiles += (map.end(e) - map.begin(e) + kImageRows - 1) / kImageRows;
    }
    begins[experts] = tiles;
  }
}

// One piece of work: an expert, a tile of its rows, a tile of its outputs.
struct WideItem {
  uint32_t expert;
  uint32_t row_tile;  // of all
  uint32_t output_tile;
  uint32_t first_entry;
  uint32_t entries;
};

__device__ inline bool FindItem(const WideShape& shape, const EntryMap& map, const uint32_t* begins,
                                uint32_t experts, uint32_t index, WideItem* item) {
  if (index >= begins[experts] * shape.output_tiles) return false;
  uint32_t e = 0;
  while (index >= begins[e + 1] * shape.output_tiles) ++e;
  const uint32_t tiles = begins[e + 1] - begins[e];
  const uint32_t within = index - begins[e] * shape.output_tiles;
  const uint32_t row_tile = within % tiles;
  item->expert = e;
  item->row_tile = begins[e] + row_tile;
  item->output_tile = within / tiles;
  item->first_entry = map.begin(e) + row_tile * kImageRows;
  item->entries = min(map.end(e) - item->first_entry, uint32_t{kImageRows});
  return true;
}

// The panel, of gate, of up or of the one matrix, that warp 0..15 multiplies. Warpgroups 0 and 2
// have gate, 1 and 3 up of the same outputs; or all four are neighbours.
__device__ __forceinline__ uint32_t WarpPanel(bool gate_up, uint32_t output_tile, uint32_t warp) {
  return gate_up ? output_tile * 8 + warp / 8 * 4 + warp % 4 : output_tile * 16 + warp;
}
// Where it lies among the 16 of a stage: two blocks of 8, of gate and of up, or neighbours.
__device__ __forceinline__ uint32_t WarpSlot(bool gate_up, uint32_t warp) {
  return gate_up ? warp / 4 % 2 * 8 + warp / 8 * 4 + warp % 4 : warp;
}

// The copying thread.
template <class C>
__device__ void WideProducer(const WideCall& call, uint8_t* stages, WideEpilogue* shared) {
  using Plan = WidePlan<C>;
  const WideShape& shape = call.shape;
  constexpr uint32_t kImage = WideStage<C>::kImageBytes;
  constexpr uint32_t kBlock = 8 * C::kChunkBytes;
  uint32_t stage = 0, parity = 1;  // the first round finds every stage free
  WideItem item;
  for (uint32_t i = blockIdx.x;
       FindItem(shape, call.map, shared->tile_begin, call.experts, i, &item); i += gridDim.x) {
    const uint8_t* image = call.image + size_t{item.row_tile} * shape.chunks * kImage;
    // Gate's block and up's, or two neighbours, of which the second may be past the end.
    const uint32_t first = shape.gate_up ? item.output_tile : 2 * item.output_tile;
    const bool two = shape.gate_up || (first + 1) * 8 < shape.panels;
    const size_t block_bytes = shape.layout.block_bytes;
    const uint8_t* from[2] = {
        call.w[0].data(item.expert) + first * block_bytes,
        call.w[1].data(item.expert) + (shape.gate_up ? first : first + 1) * block_bytes};
    for (uint32_t chunk = 0; chunk < shape.chunks; ++chunk) {
      WaitParity(&shared->empty[stage], parity);
      uint64_t* full = &shared->full[stage];
      uint8_t* to = stages + stage * WideStage<C>::kBytes;
      ArriveExpecting(full, kImage + (two ? 2 : 1) * kBlock);
      CopyBulk(to, image, kImage, full);
      CopyBulk(to + kImage, from[0], kBlock, full);
      if (two) CopyBulk(to + kImage + kBlock, from[1], kBlock, full);
      image += kImage;
      from[0] += kBlock;
      from[1] += kBlock;
      if (++stage == Plan::kStages) {
        stage = 0;
        parity ^= 1;
      }
    }
  }
}

template <class C>
using WideAcc = typename C::Accumulator[kWideSums];

// One chunk of this warpgroup's 64 outputs. `stage` is an address in shared memory.
template <class C>
__device__ __forceinline__ void WideChunk(uint32_t stage, uint32_t slot, uint32_t groups_left,
                                          WideAcc<C>& acc) {
  const uint32_t lane = threadIdx.x % 32;
  const uint64_t rows = ImageDescriptor(stage);
  const uint32_t a_scales = stage + kImageRows * 128 + lane % 4 * 8;
  const uint32_t panel = stage + WideStage<C>::kImageBytes + slot * C::kChunkBytes;
  const typename C::LaneValues values(panel + lane * 16);
#pragma unroll
  for (int g = 0; g < C::kGroupsPerChunk; ++g) {
    if (g >= groups_left) break;
    uint32_t a[C::kStepsPerGroup][4];
#pragma unroll
    for (int s = 0; s < C::kStepsPerGroup; ++s) {
      values.Step(g * C::kStepsPerGroup + s, a[s]);
      for (uint32_t& word : a[s]) asm volatile("" : "+r"(word)::"memory");
    }
    WideDot dot;
#pragma unroll
    for (int i = 0; i < 32; ++i) dot[i] = C::kDotStart;
    PinDot(dot);
    WideFence();
#pragma unroll
    for (int s = 0; s < C::kStepsPerGroup; ++s) {
      WideMma(dot, a[s], rows + 2 * (g * C::kStepsPerGroup + s));
    }
    WideCommit();
    // Fetched while the products run.
    const typename C::GroupScales scales(panel + C::kValueBytes + lane / 4 * (C::kW4x ? 1 : 2), g);
    uint2 pair[8] = {};
    if constexpr (!C::kW4x) {
#pragma unroll
      for (int j = 0; j < 8; ++j) pair[j] = LoadShared8(a_scales + (g * kImageRows + 8 * j) * 4);
    }
    WideWait();
    PinDot(dot);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float a_scale[2] = {__uint_as_float(pair[j].x), __uint_as_float(pair[j].y)};
      const int(&part)[4] = *reinterpret_cast<const int(*)[4]>(&dot[4 * j]);
      auto& sum = *reinterpret_cast<typename C::Accumulator(*)[4]>(&acc[4 * j]);
      scales.Add(part, a_scale, sum);
    }
  }
}

// Sum n of this thread as a result: output (lane / 4 + 8 (n / 2 % 2)) of the warp's panel, row
// 8 (n / 4) + 2 (lane % 4) + n % 2.
template <class C>
__device__ __forceinline__ float WideResult(const WideCall& call, const WideItem& item,
                                            const WideAcc<C>& acc, int n) {
  if constexpr (!C::kW4x) {
    return acc[n];
  } else {
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32 - 4;
    const uint32_t panel = WarpPanel(call.shape.gate_up, item.output_tile, warp);
    if (panel >= call.shape.panels) return 0.0f;
    const uint8_t* w = call.w[call.shape.gate_up ? warp / 4 % 2 : 0].data(item.expert);
    const float scale = reinterpret_cast<const float*>(
        w + call.shape.layout.ScalesAt(panel))[lane / 4 + n / 2 % 2 * 8];
    const float a_scale =
        call.row_scales[item.row_tile * kImageRows + n / 4 * 8 + lane % 4 * 2 + n % 2];
    return __fmul_rn(__int2float_rn(static_cast<int>(acc[n])), __fmul_rn(scale, a_scale));
  }
}

template <class C>
__device__ void WriteProduct(const WideCall& call, const WideItem& item, const WideAcc<C>& acc) {
  const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32 - 4;
  const uint32_t first = WarpPanel(false, item.output_tile, warp) * 16 + lane / 4;
#pragma unroll
  for (int n = 0; n < kWideSums; ++n) {
    const uint32_t row = n / 4 * 8 + lane % 4 * 2 + n % 2, output = first + n / 2 % 2 * 8;
    const float value = WideResult<C>(call, item, acc, n);
    if (row < item.entries && output < call.shape.n) {
      call.y[(item.first_entry + row) * call.y_stride + output] = value;
    }
  }
}

// All warpgroups that multiply, and the two of gate.
__device__ __forceinline__ void ConsumerBarrier() { asm volatile("bar.sync 1, 512;" ::: "memory"); }
__device__ __forceinline__ void GateBarrier() { asm volatile("bar.sync 2, 256;" ::: "memory"); }

// Codes and scales of a tile's 128 middle outputs, by the two warpgroups of gate, into chunk
// `output_tile` of the middle's image. `first` is this thread's first output within the tile.
__device__ inline void QuantizeMiddle(const WideCall& call, const WideItem& item, uint32_t first,
                                      const float (&h)[kWideSums], WideEpilogue* shared) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t thread = threadIdx.x - 128 - (threadIdx.x >= 384 ? 128 : 0);
#pragma unroll
  for (int c = 0; c < kWideSums / 2; ++c) {
    const int n = c / 2 * 4 + c % 2;
    uint32_t magnitude = max(MagnitudeBits(h[n]), MagnitudeBits(h[n + 2]));
#pragma unroll
    for (int width = 16; width >= 4; width /= 2) {
      magnitude = max(magnitude, __shfl_xor_sync(0xffffffffu, magnitude, width));
    }
    if (lane < 4) shared->magnitude[first / 16][c / 2 * 8 + lane * 2 + c % 2] = magnitude;
  }
  GateBarrier();
  const uint32_t groups = 128 / call.middle_group, parts = call.middle_group / 16;
  for (uint32_t i = thread; i < groups * kImageRows; i += 256) {
    const uint32_t group = i / kImageRows, row = i % kImageRows;
    uint32_t magnitude = 0;
    for (uint32_t w = 0; w < parts; ++w) {
      magnitude = max(magnitude, shared->magnitude[group * parts + w][row]);
    }
    const GroupQuant quant = MakeGroupQuant(magnitude);
    shared->scales[group][row] = quant.scale;
    shared->inverses[group][row] = quant.zero ? 0.0f : quant.inverse;
  }
  GateBarrier();
#pragma unroll
  for (int n = 0; n < kWideSums; ++n) {
    const uint32_t row = n / 4 * 8 + lane % 4 * 2 + n % 2, at = first + n / 2 % 2 * 8;
    const float inverse = shared->inverses[at / call.middle_group][row];
    const GroupQuant quant{0.0f, inverse, inverse == 0.0f};
    shared->image[ImageByte(row, at)] = static_cast<uint8_t>(QuantizeValue(quant, h[n]));
  }
  GateBarrier();
  const size_t block = kImageRows * 128 + groups * kImageRows * 4;
  uint8_t* out =
      call.middle_image + (size_t{item.row_tile} * call.middle_chunks + item.output_tile) * block;
  for (uint32_t i = thread; i < kImageRows * 8; i += 256) {
    reinterpret_cast<uint4*>(out)[i] = reinterpret_cast<const uint4*>(shared->image)[i];
  }
  for (uint32_t i = thread; i < groups * kImageRows; i += 256) {
    reinterpret_cast<float*>(out + kImageRows * 128)[i] = (&shared->scales[0][0])[i];
  }
}

// The middle as floats, or quantised. The warpgroups of up hand their results to those of gate.
template <class C>
__device__ void WriteMiddle(const WideCall& call, const WideItem& item, const WideAcc<C>& acc,
                            WideEpilogue* shared) {
  const uint32_t lane = threadIdx.x % 32, slot = threadIdx.x / 32 - 4;
  const uint32_t pair = slot / 8, within = slot % 4 * 16 + lane / 4;  // output of the pair's 64
  const bool gate = slot / 4 % 2 == 0;
  if (!gate) {
#pragma unroll
    for (int n = 0; n < kWideSums; ++n) {
      shared->up[pair][within + n / 2 % 2 * 8][n / 4 * 8 + lane % 4 * 2 + n % 2] =
          WideResult<C>(call, item, acc, n);
    }
  }
  ConsumerBarrier();
  if (gate) {
    const uint32_t first = pair * 64 + within;
    float h[kWideSums];
#pragma unroll
    for (int n = 0; n < kWideSums; ++n) {
      const uint32_t row = n / 4 * 8 + lane % 4 * 2 + n % 2;
      const uint32_t output = item.output_tile * 128 + first + n / 2 % 2 * 8;
      const float up = shared->up[pair][within + n / 2 % 2 * 8][row];
      h[n] = output < call.shape.n ? SiluMul(WideResult<C>(call, item, acc, n), up) : 0.0f;
      if (call.middle_image == nullptr && row < item.entries && output < call.shape.n) {
        call.y[(item.first_entry + row) * call.y_stride + output] = h[n];
      }
    }
    if (call.middle_image != nullptr) QuantizeMiddle(call, item, first, h, shared);
  }
  // Before any warpgroup of up writes its next results.
  ConsumerBarrier();
}

template <class C>
__device__ void WideConsumer(const WideCall& call, const uint8_t* stages, WideEpilogue* shared) {
  using Plan = WidePlan<C>;
  const uint32_t slot = WarpSlot(call.shape.gate_up, threadIdx.x / 32 - 4);
  uint32_t stage = 0, parity = 0;
  WideItem item;
  for (uint32_t i = blockIdx.x;
       FindItem(call.shape, call.map, shared->tile_begin, call.experts, i, &item); i += gridDim.x) {
    WideAcc<C> acc;
#pragma unroll
    for (int n = 0; n < kWideSums; ++n) acc[n] = 0;
    for (uint32_t chunk = 0; chunk < call.shape.chunks; ++chunk) {
      WaitParity(&shared->full[stage], parity);
      WideChunk<C>(SharedAddress(stages) + stage * WideStage<C>::kBytes, slot,
                   call.shape.weight_groups - chunk * C::kGroupsPerChunk, acc);
      __syncwarp();
      if (threadIdx.x % 32 == 0) Arrive(&shared->empty[stage]);
      if (++stage == Plan::kStages) {
        stage = 0;
        parity ^= 1;
      }
    }
    if (call.shape.gate_up) {
      WriteMiddle<C>(call, item, acc, shared);
    } else {
      WriteProduct<C>(call, item, acc);
    }
  }
}

template <class C>
__global__ void __launch_bounds__(kWideThreads, 1)
    WideKernel(const __grid_constant__ WideCall call) {
  extern __shared__ uint8_t memory[];
  uint8_t* stages = memory + (1024 - SharedAddress(memory) % 1024) % 1024;
  auto* shared =
      reinterpret_cast<WideEpilogue*>(stages + WidePlan<C>::kStages * WideStage<C>::kBytes);
  FillTileBegins(call.map, call.experts, shared->tile_begin);
  if (threadIdx.x == 0) {
    for (int i = 0; i < WidePlan<C>::kStages; ++i) {
      InitBarrier(&shared->full[i], 1);
      InitBarrier(&shared->empty[i], kWideConsumerWarps);
    }
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  }
  __syncthreads();
  if (threadIdx.x < 128) {
    // What these give up is all that the others can take.
    asm volatile("setmaxnreg.dec.sync.aligned.u32 32;");
    if (threadIdx.x == 0) WideProducer<C>(call, stages, shared);
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 112;");
    WideConsumer<C>(call, stages, shared);
  }
}

template <class C>
int LaunchWide(cudaStream_t stream, const WideCall& call, uint32_t blocks) {
  const auto kernel = WideKernel<C>;
  const cudaError_t error = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, WidePlan<C>::kShared);
  if (error != cudaSuccess) return error;
  kernel<<<blocks, kWideThreads, WidePlan<C>::kShared, stream>>>(call);
  return LaunchError();
}

template <int kBits, bool kW4x>
int LaunchWideOf(uint32_t group, cudaStream_t stream, const WideCall& call, uint32_t blocks) {
  if (group == 32) return LaunchWide<Codec<kBits, kW4x, 32>>(stream, call, blocks);
  if (group == 64) return LaunchWide<Codec<kBits, kW4x, 64>>(stream, call, blocks);
  return LaunchWide<Codec<kBits, kW4x, 128>>(stream, call, blocks);
}

}  // namespace octet::cuda

#endif  // OCTET_KERNELS_CUDA_INT_WIDE_CUH_
