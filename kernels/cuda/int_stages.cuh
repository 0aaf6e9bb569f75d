// How a block of int_skinny.cuh shares out its work, and the warp that copies weights and rows into
// the stages of its shared memory.
#ifndef OCTET_KERNELS_CUDA_INT_STAGES_CUH_
#define OCTET_KERNELS_CUDA_INT_STAGES_CUH_

#include "kernels/cuda/int_codec.cuh"
#include "kernels/cuda/int_skinny_calls.h"
#include "kernels/cuda/pipeline.cuh"

namespace octet::cuda {

inline constexpr unsigned kMultiprocessors = 132;  // of an H100 or H200; decides sizes, no bits
inline constexpr int kGateUpWarps = 8;             // 128 outputs: whole groups of the middle

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
// one), kTiles times 8 rows, stages of kChunks chunks. A panel has a warp of its own, or, where the
// launch is too small for that to keep the device busy (kApart), several: one for gate and one for
// up, or one for each chunk of a stage.
template <class CodecOf, int kStreamsOf, int kWarpsOf, int kTilesOf, bool kApartOf = false>
struct SkinnyPlan {
  using C = CodecOf;
  static constexpr int kStreams = kStreamsOf;
  static constexpr int kWarps = kWarpsOf;
  static constexpr int kTiles = kTilesOf;
  static constexpr bool kApart = kApartOf;
  static constexpr int kRows = 8 * kTiles;
  // Chunks whose integer sums are independent keep a warp busy that has little company.
  static constexpr int kChunks = kApart          ? (kStreams == 1 ? 4 : 2)
                                 : kStreams == 2 ? 1
                                                 : 16 / C::kBits / 2;
  static constexpr int kMultipliers = kWarps * (!kApart ? 1 : kStreams == 2 ? 2 : kChunks);
  // Streams that one warp multiplies.
  static constexpr int kOwn = kApart ? 1 : kStreams;
  static constexpr int kPieceBytes = kWarps * C::kChunkBytes;  // of one stream's chunk
  static constexpr int kWeightBytes = kStreams * kChunks * kPieceBytes;
  static constexpr int kRowBytes = kChunks * kRows * 128;
  static constexpr int kScaleCount = C::kW4x ? 0 : kChunks * C::kScalesPerChunk * kRows;
  static constexpr int kStageBytes = (kWeightBytes + kRowBytes + kScaleCount * 4 + 127) / 128 * 128;
  // What the parts of a panel hand to each other: for w4x their sums, else for every group of a
  // stage the four integer sums of a lane as floats, each with its scale; twice.
  static constexpr int kPartBytes = C::kW4x ? 512 : C::kGroupsPerChunk * 4 * 32 * 8;
  static constexpr int kHandOver = kApart && kStreams == 1 ? 2 * kWarps * kChunks * kPartBytes : 0;
  // Blocks that share a multiprocessor: as many as registers allow, as the warps of one wait for
  // each other's latencies. What is on its way to all of them together covers the memory's.
  static constexpr int kBlocks = kApart          ? 2
                                 : kStreams == 1 ? 4
                                 : C::kBits == 8 ? 2
                                 : kTiles == 1   ? 4
                                 : kTiles == 2   ? 3
                                                 : 2;
  static constexpr int kRoom = 227 * 1024 / kBlocks - 1024 - kHandOver;
  static constexpr int kFit = (kRoom - 256) / kStageBytes;
  static constexpr int kStages = kFit < 2 ? 2 : kFit > 8 ? 8 : kFit;
  static constexpr int kThreads = (kMultipliers + 1) * 32;
  static constexpr int kShared = kStages * kStageBytes + kHandOver + 2 * kStages * 8;
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
  uint8_t* hand_over;
  uint64_t* full;
  uint64_t* empty;

  __device__ __forceinline__ explicit SkinnyMemory(uint8_t* memory)
      : stages(memory),
        hand_over(memory + P::kStages * P::kStageBytes),
        full(reinterpret_cast<uint64_t*>(hand_over + P::kHandOver)),
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
        InitBarrier(&empty[i], P::kMultipliers);
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
      : memory_(memory), lane_(threadIdx.x % 32), chunks_(shape.chunks) {
    // A lane copies one chunk of one stream's panels, which lie next to each other.
    const uint32_t stream = lane_ / P::kChunks;
    if (stream < P::kStreams) {
      from_ = data[stream] + shape.layout.ChunkAt(block.first_panel, lane_ % P::kChunks);
      step_ = P::kChunks * shape.layout.block_chunk_bytes;
    }
  }

  __device__ __forceinline__ uint32_t stages() const {
    return (chunks_ + P::kChunks - 1) / P::kChunks;
  }

  __device__ __forceinline__ void Weights(uint32_t round) {
    const uint32_t stage = round % P::kStages, first = round * P::kChunks;
    const uint32_t chunks = min(chunks_ - first, uint32_t{P::kChunks});
    if (lane_ == 0) {
      ArriveExpecting(&memory_.full[stage], P::kStreams * chunks * P::kPieceBytes);
    }
    __syncwarp();
    if (from_ != nullptr && lane_ % P::kChunks < chunks) {
      CopyBulk(memory_.weights(stage) + lane_ * P::kPieceBytes, from_ + round * step_,
               P::kPieceBytes, &memory_.full[stage]);
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
      row_q_[i] = size_t{row(4 * i + lane_ / 8)} * x.padded_k + lane_ % 8 * 16;
    }
    row_scales_ = size_t{row(lane_ % P::kRows)} * x.groups;
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
    if constexpr (P::kScaleCount > 0) {
      const uint32_t scales = SharedAddress(memory_.scales(stage));
#pragma unroll
      for (uint32_t at = lane_; at < P::kScaleCount; at += 32) {
        if (lane_ % P::kRows >= count) continue;
        const uint32_t group = first * C::kScalesPerChunk + at / P::kRows;
        const bool present = group < x.groups;
        CopyAsync4(scales + at * 4, x.scales + row_scales_ + (present ? group : 0),
                   present ? 4 : 0);
      }
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
  const uint32_t chunks_;
  const uint8_t* from_ = nullptr;
  size_t step_ = 0;
  size_t row_q_[P::kRows / 4];
  size_t row_scales_;
};

}  // namespace octet::cuda

#endif  // OCTET_KERNELS_CUDA_INT_STAGES_CUH_
