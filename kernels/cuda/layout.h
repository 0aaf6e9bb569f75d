// How a matrix W [n, k] lies in device memory. What no faster kernel wants another way stays in the
// panels of packed_weights.h. Internal to kernels/cuda/, host and device.
//
//   kF32, kF16, and integer formats other than those below: the panels as they are.
//   kBF16: row-major [n][k].
//   Tiled, for 4-bit codes with offset 8 and signed 8-bit codes, f16 scales or w4x factors: blocks
//   of 128 outputs, 8 panels of 16, the last one filled up with zero weights, and k padded with
//   zeros to kChunk. A block is a run of chunks of 128 inputs and, for w4x, [128] f32 scales after
//   them; a chunk of a block is that of its 8 panels one after another; and that of a panel is its
//   values and then its scales, [kChunk / group][16] f16 (w4x: i8 factors), rounded up to 32 bytes.
//   So threads that share a block read one stream from end to end, in large pieces.
//   Values lie in the order in which the lanes of a warp feed them to the tensor cores as the A
//   operand of m16n8k32: lane (g, t) with g = lane / 4, t = lane % 4 has outputs g and g + 8. Step
//   s of 4, half h of 2 are inputs 32 s + 8 t + 4 h .. + 3. So the B fragment of a row-major int8
//   row is 8 consecutive bytes at 32 s + 8 t.
//     4 bits: [output half][lane][s] words; byte i of a word holds in its low nibble input
//     32 s + 8 t + i (h = 0), in its high one 32 s + 8 t + 4 + i (h = 1), as two's complement
//     (code - 8). 1,024 bytes.
//     8 bits: [output half][s / 2][lane][s % 2][h] words, byte i as above. 2,048 bytes.
#ifndef OCTET_KERNELS_CUDA_LAYOUT_H_
#define OCTET_KERNELS_CUDA_LAYOUT_H_

#include <cstddef>
#include <cstdint>

#include "core/weight_format.h"

#ifdef __CUDACC__
#define OCTET_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define OCTET_HOST_DEVICE inline
#endif

namespace octet::cuda {

inline constexpr size_t kTileOutputs = 16;
inline constexpr size_t kChunk = 128;
inline constexpr size_t kBlockPanels = 8;

enum class Layout : uint8_t { kPanels, kRowMajor, kTiled };

OCTET_HOST_DEVICE Layout LayoutOf(const WeightFormat& f) {
  if (f.kind == WeightKind::kBF16) return Layout::kRowMajor;
  if (f.kind != WeightKind::kInt || f.minimum) return Layout::kPanels;
  const bool int4 = f.bits == 4 && f.offset == 8;
  const bool int8 = f.bits == 8 && f.offset == 0;
  if (f.scale == ScaleEncoding::kF16 && (int4 || int8)) return Layout::kTiled;
  if (f.scale == ScaleEncoding::kF32xI4 && int4) return Layout::kTiled;
  return Layout::kPanels;
}

// Sizes and offsets in bytes.
struct TiledLayout {
  size_t chunks;
  size_t value_bytes;        // of a panel's chunk, before its scales
  size_t chunk_bytes;        // of a panel's chunk
  size_t block_chunk_bytes;  // of a block's chunk
  size_t scales;             // where the f32 scales of w4x start in a block
  size_t block_bytes;        // a multiple of 32

  // Where chunk `chunk` of panel `panel` starts in the matrix.
  OCTET_HOST_DEVICE size_t ChunkAt(size_t panel, size_t chunk) const {
    return panel / kBlockPanels * block_bytes + chunk * block_chunk_bytes +
           panel % kBlockPanels * chunk_bytes;
  }
  // Where its w4x scales do.
  OCTET_HOST_DEVICE size_t ScalesAt(size_t panel) const {
    return panel / kBlockPanels * block_bytes + scales + panel % kBlockPanels * kTileOutputs * 4;
  }
};

OCTET_HOST_DEVICE TiledLayout MakeTiledLayout(const WeightFormat& f, size_t k) {
  TiledLayout l{};
  l.chunks = (k + kChunk - 1) / kChunk;
  l.value_bytes = kTileOutputs * kChunk * f.bits / 8;
  const bool w4x = f.scale == ScaleEncoding::kF32xI4;
  const size_t scale_bytes = kChunk / f.group * kTileOutputs * (w4x ? 1 : 2);
  l.chunk_bytes = l.value_bytes + (scale_bytes + 31) / 32 * 32;
  l.block_chunk_bytes = kBlockPanels * l.chunk_bytes;
  l.scales = l.chunks * l.block_chunk_bytes;
  l.block_bytes = l.scales + (w4x ? kBlockPanels * kTileOutputs * 4 : 0);
  return l;
}

OCTET_HOST_DEVICE size_t TiledBlocks(size_t n) {
  return (n + kBlockPanels * kTileOutputs - 1) / (kBlockPanels * kTileOutputs);
}

}  // namespace octet::cuda

#endif  // OCTET_KERNELS_CUDA_LAYOUT_H_
