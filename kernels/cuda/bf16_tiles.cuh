// Tiles of the bf16 experts: what they cover, how CTAs claim them, and where things lie in shared
// memory. Internal to bf16_kernel.cuh, which describes the whole.
#ifndef OCTET_KERNELS_CUDA_BF16_TILES_CUH_
#define OCTET_KERNELS_CUDA_BF16_TILES_CUH_

#include <cstdint>

#include "kernels/cuda/hopper.cuh"

namespace octet::cuda {

inline constexpr uint32_t kBlock = 64;  // along K: one row of the 128-byte swizzle
inline constexpr uint32_t kRowBytes = 2 * kBlock;
inline constexpr uint32_t kBoxOutputs = 64;
inline constexpr uint32_t kBoxBytes = kBoxOutputs * kRowBytes;

// One consuming warpgroup takes all 128 weight rows. Two share them: one takes gate and the other
// up, or each takes 64 outputs of down, and both take all rows of the tile.
template <int kConsumers_, int kTileRows_, int kStages_, int kBlocks_, int kCluster_>
struct Tiling {
  static constexpr uint32_t kConsumers = kConsumers_;
  static constexpr uint32_t kTileRows = kTileRows_;
  static constexpr uint32_t kStages = kStages_;
  static constexpr uint32_t kBlocks = kBlocks_;
  static constexpr uint32_t kCluster = kCluster_;
  static_assert(kConsumers == 1 || kConsumers == 2);

  static constexpr uint32_t kThreads = 128 * (1 + kConsumers);
  static constexpr uint32_t kBoxRows = kTileRows < 64 ? kTileRows : 64;
  static constexpr uint32_t kWeightBytes = 2 * kBoxBytes;  // of a block
  static constexpr uint32_t kRowsBytes = kTileRows * kRowBytes;
  static constexpr uint32_t kStageBytes = kBlocks * (kWeightBytes + kRowsBytes);
  // Of a warpgroup: 64 middle outputs of its rows, in bf16.
  static constexpr uint32_t kStagingBytes = kTileRows / kConsumers * kRowBytes;
  // Tiles between the claim and the slowest reader: a claim follows loads of the tile before it,
  // which need the stages of kStages earlier blocks to be free again.
  static constexpr uint32_t kSlots = 16;
  static_assert(kStages + 1 <= kSlots);

  static constexpr uint32_t kStagingAt = kStages * kStageBytes;
  static constexpr uint32_t kTilesAt = kStagingAt + kConsumers * kStagingBytes;
  static constexpr uint32_t kFullAt = kTilesAt + kSlots * 16;
  static constexpr uint32_t kEmptyAt = kFullAt + kStages * 8;
  static constexpr uint32_t kTileFullAt = kEmptyAt + kStages * 8;
  static constexpr uint32_t kSharedBytes = kTileFullAt + kSlots * 8 + 1024;  // and to align
  static_assert(kSharedBytes <= 227 * 1024);

  // Outputs of a tile in one CTA, and of a claimed tile. One warpgroup has few rows, so that down
  // has few tiles: half the outputs give work to twice the CTAs.
  static constexpr uint32_t kDownBoxes = kConsumers;
  static constexpr uint32_t kGateOutputs = kBoxOutputs * kCluster;
  static constexpr uint32_t kDownOutputs = kBoxOutputs * kDownBoxes * kCluster;
};

struct TileArgs {
  const CUtensorMap* weight_maps;  // [experts][gate, up, down]
  const uint32_t* offsets;         // [experts + 1]
  uint32_t* claimed;               // tiles handed out
  uint32_t* finished;              // [experts] parts of the first half that are in middle_rows
  const uint32_t* first_tiles;     // [2 * experts + 1] gate tiles of each expert, then down tiles
  uint16_t* middle_rows;           // [rows][middle]
  float* y;                        // [rows][hidden]
  uint32_t experts;
  uint32_t hidden;
  uint32_t middle;
};

// What a claimed tile covers, as it lies in a slot.
struct Tile {
  uint32_t expert_and_half;  // the top bit: down
  uint32_t output;           // first of the cluster
  uint32_t row;              // first, sorted by expert
  uint32_t rows;

  static constexpr uint32_t kDownBit = 1u << 31;
  static constexpr uint32_t kEnd = 0xffffffffu;
  __device__ bool end() const { return expert_and_half == kEnd; }
  __device__ bool down() const { return (expert_and_half & kDownBit) != 0; }
  __device__ uint32_t expert() const { return expert_and_half & ~kDownBit; }
  __device__ uint32_t blocks(const TileArgs& args) const {
    return (down() ? args.middle : args.hidden) / kBlock;
  }
};

__device__ __forceinline__ uint32_t DivUp(uint32_t a, uint32_t b) { return (a + b - 1) / b; }

// A place in the ring of stages.
template <class T>
struct Ring {
  uint32_t stage = 0;
  uint32_t parity = 0;
  __device__ __forceinline__ void Advance() {
    if (++stage == T::kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// Addresses in shared memory.
template <class T>
struct Shared {
  uint32_t base;
  __device__ uint32_t full(uint32_t stage) const { return base + T::kFullAt + 8 * stage; }
  __device__ uint32_t empty(uint32_t stage) const { return base + T::kEmptyAt + 8 * stage; }
  __device__ uint32_t tile_full(uint32_t slot) const { return base + T::kTileFullAt + 8 * slot; }
  __device__ uint32_t tile(uint32_t slot) const { return base + T::kTilesAt + 16 * slot; }
  __device__ uint32_t staging(uint32_t group) const {
    return base + T::kStagingAt + group * T::kStagingBytes;
  }
  __device__ uint32_t weights(uint32_t stage, uint32_t block) const {
    return base + stage * T::kStageBytes + block * T::kWeightBytes;
  }
  __device__ uint32_t rows(uint32_t stage, uint32_t block) const {
    return base + stage * T::kStageBytes + T::kBlocks * T::kWeightBytes + block * T::kRowsBytes;
  }
};

// ---- Tiles ----

template <class T>
__device__ __forceinline__ Tile ClaimTile(const TileArgs& args) {
  const uint32_t index = atomicAdd(args.claimed, 1u);
  uint32_t low = 0;
  uint32_t high = 2 * args.experts;
  if (index >= args.first_tiles[high]) return {Tile::kEnd, 0, 0, 0};
  while (high - low > 1) {
    const uint32_t mid = (low + high) / 2;
    (args.first_tiles[mid] <= index ? low : high) = mid;
  }
  const bool down = low >= args.experts;
  const uint32_t expert = down ? low - args.experts : low;
  const uint32_t begin = args.offsets[expert];
  const uint32_t end = args.offsets[expert + 1];
  const uint32_t row_tiles = DivUp(end - begin, T::kTileRows);
  const uint32_t local = index - args.first_tiles[low];
  const uint32_t output = local / row_tiles * (down ? T::kDownOutputs : T::kGateOutputs);
  const uint32_t row = begin + local % row_tiles * T::kTileRows;
  const uint32_t rows = end - row < T::kTileRows ? end - row : T::kTileRows;
  return {expert | (down ? Tile::kDownBit : 0u), output, row, rows};
}

template <class T>
__device__ __forceinline__ void PublishTile(const Shared<T>& shared, uint32_t turn,
                                            const Tile& tile) {
  const uint32_t slot = turn % T::kSlots;
  const uint4 words = make_uint4(tile.expert_and_half, tile.output, tile.row, tile.rows);
  if constexpr (T::kCluster == 1) {
    StoreShared(shared.tile(slot), words);
    Arrive(shared.tile_full(slot));
  } else {
    for (uint32_t rank = 0; rank < T::kCluster; ++rank) {
      StoreAt(shared.tile(slot), rank, words);
      ArriveReleaseAt(shared.tile_full(slot), rank);
    }
  }
}

template <class T>
__device__ __forceinline__ Tile ReadTile(const Shared<T>& shared, uint32_t turn) {
  const uint32_t slot = turn % T::kSlots;
  const uint32_t parity = turn / T::kSlots % 2;
  if constexpr (T::kCluster > 1) {
    WaitCluster(shared.tile_full(slot), parity);
  } else {
    Wait(shared.tile_full(slot), parity);
  }
  const uint4 words = LoadShared(shared.tile(slot));
  return {words.x, words.y, words.z, words.w};
}

}  // namespace octet::cuda

#endif  // OCTET_KERNELS_CUDA_BF16_TILES_CUH_
