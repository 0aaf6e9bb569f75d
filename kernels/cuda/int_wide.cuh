// Integer products with many rows for each matrix, on Hopper's warpgroup products. Rows come as
// images: tiles of 128 rows, cut into chunks of 128 inputs, each chunk the very bytes that shared
// memory holds (128-byte swizzle), so that one bulk copy brings it. Weights go from their panels to
// registers as A operands. A persistent block has a warp that copies and two warpgroups that
// multiply, each two runs of 64 outputs (gate and up, or neighbours) by the 128 rows; one scales
// what it has while the other keeps the tensor cores busy. The arithmetic is that of
// int_skinny.cuh: exact integer sums of groups, scaled and added in fp32, groups ascending.
#ifndef OCTET_KERNELS_CUDA_INT_WIDE_CUH_
#define OCTET_KERNELS_CUDA_INT_WIDE_CUH_

#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/int_codec.cuh"
#include "kernels/cuda/int_wide_calls.h"
#include "kernels/cuda/quantize.cuh"

namespace octet::cuda {

// ---- Barriers and copies of the asynchronous proxy ----

__device__ __forceinline__ uint32_t SharedAddress(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}
__device__ __forceinline__ void InitBarrier(uint64_t* barrier, uint32_t count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(SharedAddress(barrier)), "r"(count));
}
__device__ __forceinline__ void ArriveExpecting(uint64_t* barrier, uint32_t bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(SharedAddress(barrier)),
      "r"(bytes)
      : "memory");
}
__device__ __forceinline__ void Arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(SharedAddress(barrier)) : "memory");
}
__device__ __forceinline__ void WaitParity(uint64_t* barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}\n" ::"r"(SharedAddress(barrier)),
      "r"(parity)
      : "memory");
}
__device__ __forceinline__ void CopyBulk(void* to, const void* from, uint32_t bytes,
                                         uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(SharedAddress(to)),
      "l"(from), "r"(bytes), "r"(SharedAddress(barrier))
      : "memory");
}

// ---- Warpgroup products: 64 outputs x 128 rows x 32 inputs ----

using WideDot = int[64];

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
  for (int i = 0; i < 64; ++i) asm volatile("" : "+r"(d[i])::"memory");
}

// Rows of 128 bytes, swizzled in 128 bytes; groups of 8 rows are 1,024 bytes apart.
__device__ __forceinline__ uint64_t ImageDescriptor(const void* shared) {
  uint64_t d = (SharedAddress(shared) & 0x3ffffu) >> 4;
  d |= uint64_t{1} << 16;
  d |= uint64_t{1024 >> 4} << 32;
  d |= uint64_t{1} << 62;
  return d;
}

__device__ __forceinline__ void WideMma(WideDot& d, const uint32_t (&a)[4], uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8 "
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
      "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
      "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"
      "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}, "
      "{%64,%65,%66,%67}, %68, 1;"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]), "+r"(d[4]), "+r"(d[5]), "+r"(d[6]),
        "+r"(d[7]), "+r"(d[8]), "+r"(d[9]), "+r"(d[10]), "+r"(d[11]), "+r"(d[12]), "+r"(d[13]),
        "+r"(d[14]), "+r"(d[15]), "+r"(d[16]), "+r"(d[17]), "+r"(d[18]), "+r"(d[19]), "+r"(d[20]),
        "+r"(d[21]), "+r"(d[22]), "+r"(d[23]), "+r"(d[24]), "+r"(d[25]), "+r"(d[26]), "+r"(d[27]),
        "+r"(d[28]), "+r"(d[29]), "+r"(d[30]), "+r"(d[31]), "+r"(d[32]), "+r"(d[33]), "+r"(d[34]),
        "+r"(d[35]), "+r"(d[36]), "+r"(d[37]), "+r"(d[38]), "+r"(d[39]), "+r"(d[40]), "+r"(d[41]),
        "+r"(d[42]), "+r"(d[43]), "+r"(d[44]), "+r"(d[45]), "+r"(d[46]), "+r"(d[47]), "+r"(d[48]),
        "+r"(d[49]), "+r"(d[50]), "+r"(d[51]), "+r"(d[52]), "+r"(d[53]), "+r"(d[54]), "+r"(d[55]),
        "+r"(d[56]), "+r"(d[57]), "+r"(d[58]), "+r"(d[59]), "+r"(d[60]), "+r"(d[61]), "+r"(d[62]),
        "+r"(d[63])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

// ---- The kernel's shape ----

inline constexpr int kWideThreads = 384;  // copying, and two warpgroups that multiply
inline constexpr uint32_t kWideConsumerWarps = 8;

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
  uint8_t image[kImageRows * 128];
  float scales[4][kImageRows];        // [group][row]
  float inverses[4][kImageRows];      // 0: all codes are 0
  uint32_t magnitude[8][kImageRows];  // [warp][row]
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

// First row tile of each expert. By one warp; then a block barrier.
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

// The panel in slot 0..15 of a stage: [warpgroup][run][warp]. The two runs are gate and up of the
// same outputs, or neighbours of one matrix.
__device__ __forceinline__ uint32_t SlotPanel(bool gate_up, uint32_t output_tile, uint32_t slot) {
  return gate_up ? output_tile * 8 + slot / 8 * 4 + slot % 4 : output_tile * 16 + slot;
}

template <class C>
__device__ void WideProducer(const WideCall& call, uint8_t* stages, WideEpilogue* shared) {
  using Plan = WidePlan<C>;
  const WideShape& shape = call.shape;
  const size_t block_bytes = WideStage<C>::kImageBytes;
  uint32_t stage = 0, parity = 1;  // the first round finds every stage free
  WideItem item;
  for (uint32_t i = blockIdx.x;
       FindItem(shape, call.map, shared->tile_begin, call.experts, i, &item); i += gridDim.x) {
    const uint8_t* image = call.image + size_t{item.row_tile} * shape.chunks * block_bytes;
    const uint8_t* run[2] = {call.w[0].data(item.expert), call.w[1].data(item.expert)};
    uint32_t panels = 0;
    for (uint32_t slot = 0; slot < 16; ++slot) {
      panels += SlotPanel(shape.gate_up, item.output_tile, slot) < shape.panels ? 1 : 0;
    }
    for (uint32_t chunk = 0; chunk < shape.chunks; ++chunk) {
      WaitParity(&shared->empty[stage], parity);
      uint64_t* full = &shared->full[stage];
      uint8_t* to = stages + stage * WideStage<C>::kBytes;
      ArriveExpecting(full, static_cast<uint32_t>(block_bytes) + panels * C::kChunkBytes);
      CopyBulk(to, image + chunk * block_bytes, static_cast<uint32_t>(block_bytes), full);
      for (uint32_t slot = 0; slot < 16; ++slot) {
        const uint32_t panel = SlotPanel(shape.gate_up, item.output_tile, slot);
        if (panel >= shape.panels) continue;
        const uint8_t* from = run[shape.gate_up ? slot / 4 % 2 : 0] + panel * shape.panel_bytes;
        CopyBulk(to + block_bytes + slot * C::kChunkBytes, from + size_t{chunk} * C::kChunkBytes,
                 C::kChunkBytes, full);
      }
      if (++stage == Plan::kStages) {
        stage = 0;
        parity ^= 1;
      }
    }
  }
}

template <class C>
using WideAcc = typename C::Accumulator[2][64];

// One chunk of both runs.
template <class C>
__device__ __forceinline__ void WideChunk(const uint8_t* stage, uint32_t groups_left,
                                          WideAcc<C>& acc) {
  const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32 - 4;
  const uint64_t rows = ImageDescriptor(stage);
  const auto* a_scales = reinterpret_cast<const float*>(stage + kImageRows * 128);
#pragma unroll
  for (int run = 0; run < 2; ++run) {
    const uint32_t slot = warp / 4 * 8 + run * 4 + warp % 4;
    const uint8_t* panel = stage + WideStage<C>::kImageBytes + slot * C::kChunkBytes;
    const typename C::LaneValues values(panel, lane);
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
      for (int i = 0; i < 64; ++i) dot[i] = C::kDotStart;
      PinDot(dot);
      WideFence();
#pragma unroll
      for (int s = 0; s < C::kStepsPerGroup; ++s) {
        WideMma(dot, a[s], rows + 2 * (g * C::kStepsPerGroup + s));
      }
      WideCommit();
      const typename C::GroupScales scales(panel + C::kValueBytes, g, lane / 4);
      WideWait();
      PinDot(dot);
#pragma unroll
      for (int j = 0; j < 16; ++j) {
        float a_scale[2] = {0.0f, 0.0f};
        if constexpr (!C::kW4x) {
          const float2 pair =
              *reinterpret_cast<const float2*>(a_scales + g * kImageRows + 8 * j + lane % 4 * 2);
          a_scale[0] = pair.x;
          a_scale[1] = pair.y;
        }
        const int(&part)[4] = *reinterpret_cast<const int(*)[4]>(&dot[4 * j]);
        auto& sum = *reinterpret_cast<typename C::Accumulator(*)[4]>(&acc[run][4 * j]);
        scales.Add(part, a_scale, sum);
      }
    }
  }
}

// Results of one tile: run, n8 tile j, i of 4: output g + 8 (i / 2) of the warp's panel, row
// 8 j + 2 t + i % 2.
template <class C>
__device__ __forceinline__ float WideResult(const WideCall& call, const WideItem& item,
                                            const WideAcc<C>& acc, int run, int j, int i) {
  if constexpr (!C::kW4x) {
    return acc[run][4 * j + i];
  } else {
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32 - 4;
    const uint32_t slot = warp / 4 * 8 + run * 4 + warp % 4;
    const uint32_t panel = SlotPanel(call.shape.gate_up, item.output_tile, slot);
    if (panel >= call.shape.panels) return 0.0f;
    const uint8_t* w = call.w[call.shape.gate_up ? run : 0].data(item.expert);
    const float scale = reinterpret_cast<const float*>(
        w + panel * call.shape.panel_bytes + call.shape.scales_at)[lane / 4 + 8 * (i / 2)];
    const float a_scale =
        call.row_scales[item.row_tile * kImageRows + 8 * j + lane % 4 * 2 + i % 2];
    return __fmul_rn(__int2float_rn(static_cast<int>(acc[run][4 * j + i])),
                     __fmul_rn(scale, a_scale));
  }
}

template <class C>
__device__ void WriteProduct(const WideCall& call, const WideItem& item, const WideAcc<C>& acc) {
  const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32 - 4;
#pragma unroll
  for (int run = 0; run < 2; ++run) {
    const uint32_t slot = warp / 4 * 8 + run * 4 + warp % 4;
    const uint32_t panel = SlotPanel(false, item.output_tile, slot);
#pragma unroll
    for (int n = 0; n < 64; ++n) {
      const uint32_t row = n / 4 * 8 + lane % 4 * 2 + n % 2;
      const uint32_t output = panel * 16 + lane / 4 + n % 4 / 2 * 8;
      const float value = WideResult<C>(call, item, acc, run, n / 4, n % 4);
      if (row < item.entries && output < call.shape.n) {
        call.y[(item.first_entry + row) * call.y_stride + output] = value;
      }
    }
  }
}

__device__ __forceinline__ void ConsumerBarrier() { asm volatile("bar.sync 1, 256;" ::: "memory"); }

// The middle as floats, or quantised into chunk `output_tile` of its own image.
template <class C>
__device__ void WriteMiddleTile(const WideCall& call, const WideItem& item, WideAcc<C>& acc,
                                WideEpilogue* shared) {
  const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32 - 4, thread = threadIdx.x - 128;
  const uint32_t first = warp * 16 + lane / 4;  // output within the tile of 128
  float h[64];
#pragma unroll
  for (int n = 0; n < 64; ++n) {
    const uint32_t output = item.output_tile * 128 + first + n % 4 / 2 * 8;
    const float gate = WideResult<C>(call, item, acc, 0, n / 4, n % 4);
    const float up = WideResult<C>(call, item, acc, 1, n / 4, n % 4);
    h[n] = output < call.shape.n ? SiluMul(gate, up) : 0.0f;
    const uint32_t row = n / 4 * 8 + lane % 4 * 2 + n % 2;
    if (call.middle_image == nullptr && row < item.entries && output < call.shape.n) {
      call.y[(item.first_entry + row) * call.y_stride + output] = h[n];
    }
  }
  if (call.middle_image == nullptr) return;
#pragma unroll
  for (int c = 0; c < 32; ++c) {
    const int n = c / 2 * 4 + c % 2;
    uint32_t magnitude = max(MagnitudeBits(h[n]), MagnitudeBits(h[n + 2]));
#pragma unroll
    for (int width = 16; width >= 4; width /= 2) {
      magnitude = max(magnitude, __shfl_xor_sync(0xffffffffu, magnitude, width));
    }
    const uint32_t row = c / 2 * 8 + lane % 4 * 2 + c % 2;
    if (lane < 4) shared->magnitude[warp][row] = magnitude;
  }
  ConsumerBarrier();
  const uint32_t groups = 128 / call.middle_group, warps = call.middle_group / 16;
  for (uint32_t i = thread; i < groups * kImageRows; i += 256) {
    const uint32_t group = i / kImageRows, row = i % kImageRows;
    uint32_t magnitude = 0;
    for (uint32_t w = 0; w < warps; ++w) {
      magnitude = max(magnitude, shared->magnitude[group * warps + w][row]);
    }
    const GroupQuant quant = MakeGroupQuant(magnitude);
    shared->scales[group][row] = quant.scale;
    shared->inverses[group][row] = quant.zero ? 0.0f : quant.inverse;
  }
  ConsumerBarrier();
#pragma unroll
  for (int n = 0; n < 64; ++n) {
    const uint32_t row = n / 4 * 8 + lane % 4 * 2 + n % 2, at = first + n % 4 / 2 * 8;
    const float inverse = shared->inverses[at / call.middle_group][row];
    const GroupQuant quant{0.0f, inverse, inverse == 0.0f};
    shared->image[ImageByte(row, at)] = static_cast<uint8_t>(QuantizeValue(quant, h[n]));
  }
  ConsumerBarrier();
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

template <class C>
__device__ void WideConsumer(const WideCall& call, const uint8_t* stages, WideEpilogue* shared) {
  using Plan = WidePlan<C>;
  uint32_t stage = 0, parity = 0;
  WideItem item;
  for (uint32_t i = blockIdx.x;
       FindItem(call.shape, call.map, shared->tile_begin, call.experts, i, &item); i += gridDim.x) {
    WideAcc<C> acc;
#pragma unroll
    for (int n = 0; n < 128; ++n) acc[n / 64][n % 64] = 0;
    for (uint32_t chunk = 0; chunk < call.shape.chunks; ++chunk) {
      WaitParity(&shared->full[stage], parity);
      WideChunk<C>(stages + stage * WideStage<C>::kBytes,
                   call.shape.weight_groups - chunk * C::kGroupsPerChunk, acc);
      __syncwarp();
      if (threadIdx.x % 32 == 0) Arrive(&shared->empty[stage]);
      if (++stage == Plan::kStages) {
        stage = 0;
        parity ^= 1;
      }
    }
    if (call.shape.gate_up) {
      WriteMiddleTile<C>(call, item, acc, shared);
    } else {
      WriteProduct<C>(call, item, acc);
    }
  }
}

template <class C>
__global__ void __launch_bounds__(kWideThreads, 1)
    WideKernel(const __grid_constant__ WideCall call) {
#if __CUDA_ARCH_FEAT_SM90_ALL
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
    asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
    if (threadIdx.x == 0) WideProducer<C>(call, stages, shared);
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
    WideConsumer<C>(call, stages, shared);
  }
#endif
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
