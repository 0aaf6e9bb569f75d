// The kernel of bf16_experts.cu: one persistent launch over both halves of the experts. Each CTA
// (or cluster of two) claims tiles from a counter, gate and up first, then down; within a CTA one
// warp streams weights, one warp streams rows, and each other warpgroup multiplies.
//
// A tile is 128 weight rows (64 of gate and the same 64 of up; or 64 or 128 of down) times up to
// kTileRows rows of one expert. A stage of the ring holds kBlocks blocks of 64 along K of both. A
// tile of down waits until all tiles of its expert's first half are finished; only tiles that came
// earlier in the claimed order are waited for, and those are held by running CTAs, so this ends
// whatever else occupies the device. Weights run ahead of that wait.
//
// The two CTAs of a cluster take neighbouring outputs and the same rows: each fetches half of the
// rows and hands them to both.
#ifndef OCTET_KERNELS_CUDA_BF16_KERNEL_CUH_
#define OCTET_KERNELS_CUDA_BF16_KERNEL_CUH_

#include <cstdint>

#include "kernels/cuda/bf16_products.cuh"
#include "kernels/cuda/bf16_tiles.cuh"
#include "kernels/cuda/hopper.cuh"

namespace octet::cuda {

// One thread: the weights of every tile, and in the cluster's first CTA the claims.
template <class T>
__device__ __forceinline__ void StreamWeights(const Shared<T>& shared, const TileArgs& args,
                                              uint32_t rank) {
  Ring<T> ring;
  for (uint32_t turn = 0;; ++turn) {
    if (rank == 0) PublishTile(shared, turn, ClaimTile<T>(args));
    const Tile tile = ReadTile(shared, turn);
    if (tile.end()) return;
    const bool down = tile.down();
    const CUtensorMap* maps = args.weight_maps + 3 * tile.expert();
    const CUtensorMap* first = down ? maps + 2 : maps;
    const CUtensorMap* second = down ? maps + 2 : maps + 1;
    AcquireMap(first);
    AcquireMap(second);
    const uint32_t boxes = down ? T::kDownBoxes : 2;
    const uint32_t first_output = tile.output + rank * kBoxOutputs * (down ? T::kDownBoxes : 1);
    const uint32_t second_output = first_output + (down ? kBoxOutputs : 0);
    const uint32_t k_blocks = tile.blocks(args);
    for (uint32_t k = 0; k < k_blocks; k += T::kBlocks, ring.Advance()) {
      const uint32_t blocks = k_blocks - k < T::kBlocks ? k_blocks - k : T::kBlocks;
      const uint32_t full = shared.full(ring.stage);
      Wait(shared.empty(ring.stage), ring.parity ^ 1);
      ArriveExpect(full, blocks * boxes * kBoxBytes);
      for (uint32_t b = 0; b < blocks; ++b) {
        LoadBox(shared.weights(ring.stage, b), first, full, (k + b) * kBlock, first_output);
      }
      if (boxes == 1) continue;
      for (uint32_t b = 0; b < blocks; ++b) {
        LoadBox(shared.weights(ring.stage, b) + kBoxBytes, second, full, (k + b) * kBlock,
                second_output);
      }
    }
  }
}

// Until the first half of the tile's expert is in memory, all rows and outputs.
template <class T>
__device__ __forceinline__ void WaitForMiddle(const TileArgs& args, uint32_t expert) {
  const uint32_t rows = args.offsets[expert + 1] - args.offsets[expert];
  const uint32_t parts =
      DivUp(rows, T::kTileRows) * DivUp(args.middle, T::kGateOutputs) * T::kCluster * T::kConsumers;
  while (LoadAcquire(args.finished + expert) < parts) __nanosleep(100);
  FenceAsyncGlobal();
}

// One thread: the rows of every tile.
template <class T>
__device__ __forceinline__ void StreamRows(const Shared<T>& shared, const TileArgs& args,
                                           const CUtensorMap* x_map, const CUtensorMap* middle_map,
                                           uint32_t rank) {
  FenceAsyncGlobal();  // the rows come from ordinary stores of the kernel before
  Ring<T> ring;
  for (uint32_t turn = 0;; ++turn) {
    const Tile tile = ReadTile(shared, turn);
    if (tile.end()) return;
    if (tile.down()) WaitForMiddle<T>(args, tile.expert());
    const CUtensorMap* map = tile.down() ? middle_map : x_map;
    const uint32_t boxes = DivUp(tile.rows, T::kBoxRows);
    const uint32_t k_blocks = tile.blocks(args);
    for (uint32_t k = 0; k < k_blocks; k += T::kBlocks, ring.Advance()) {
      const uint32_t blocks = k_blocks - k < T::kBlocks ? k_blocks - k : T::kBlocks;
      const uint32_t full = shared.full(ring.stage);
      Wait(shared.empty(ring.stage), ring.parity ^ 1);
      ArriveExpect(full, blocks * boxes * T::kBoxRows * kRowBytes);
      for (uint32_t b = 0; b < blocks; ++b) {
        for (uint32_t box = rank; box < boxes; box += T::kCluster) {
          const uint32_t to = shared.rows(ring.stage, b) + box * T::kBoxRows * kRowBytes;
          const uint32_t row = tile.row + box * T::kBoxRows;
          if constexpr (T::kCluster > 1) {
            LoadBoxMulticast(to, map, full, (k + b) * kBlock, row, (1 << T::kCluster) - 1);
          } else {
            LoadBox(to, map, full, (k + b) * kBlock, row);
          }
        }
      }
    }
  }
}

template <class T>
__global__ void __launch_bounds__(T::kThreads, 1)
    TileKernel(const __grid_constant__ CUtensorMap x_map,
               const __grid_constant__ CUtensorMap middle_map, const TileArgs args) {
  extern __shared__ uint8_t memory[];
  const Shared<T> shared{(SharedAddress(memory) + 1023) / 1024 * 1024};
  const uint32_t rank = T::kCluster > 1 ? ClusterRank() : 0;
  if (threadIdx.x == 0) {
    for (uint32_t s = 0; s < T::kStages; ++s) {
      InitBarrier(shared.full(s), 2);
      InitBarrier(shared.empty(s), T::kCluster * T::kConsumers * 4);
    }
    for (uint32_t s = 0; s < T::kSlots; ++s) InitBarrier(shared.tile_full(s), 1);
    FenceBarrierInit();
  }
  if constexpr (T::kCluster > 1) {
    ClusterSync();
  } else {
    __syncthreads();
  }
  WaitForPrevious();
  const uint32_t warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0);
  if (warp / 4 == T::kConsumers) {
    if constexpr (T::kConsumers > 1) ShrinkRegisters<40>();
    const bool leader = threadIdx.x % 32 == 0;
    if (warp % 4 == 0 && leader) StreamWeights(shared, args, rank);
    if (warp % 4 == 1 && leader) StreamRows(shared, args, &x_map, &middle_map, rank);
  } else {
    if constexpr (T::kConsumers > 1) GrowRegisters<232>();
    Consume(shared, args, warp / 4, rank);
  }
  // The other CTA may still arrive at barriers of this one.
  if constexpr (T::kCluster > 1) ClusterSync();
}

}  // namespace octet::cuda

#endif  // OCTET_KERNELS_CUDA_BF16_KERNEL_CUH_
