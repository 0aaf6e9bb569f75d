// What the multiplying warpgroups of the bf16 experts do with a tile: the sums, and where they go.
// Internal to bf16_kernel.cuh, which describes the whole.
#ifndef OCTET_KERNELS_CUDA_BF16_PRODUCTS_CUH_
#define OCTET_KERNELS_CUDA_BF16_PRODUCTS_CUH_

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/cuda/bf16_tiles.cuh"
#include "kernels/cuda/hopper.cuh"

namespace octet::cuda {

// ---- The sums ----

// One lane a CTA of each consuming warp says that the warp is done with a stage.
template <class T>
__device__ __forceinline__ void ReleaseStage(const Shared<T>& shared, uint32_t stage) {
  const uint32_t lane = threadIdx.x % 32;
  if constexpr (T::kCluster > 1) {
    if (lane < T::kCluster) ArriveAt(shared.empty(stage), lane);
  } else {
    if (lane == 0) Arrive(shared.empty(stage));
  }
}

// One block along K: first += A0 Bᵀ and, of two boxes, second += A1 Bᵀ.
template <int kColumns, int kBoxes>
__device__ __forceinline__ void MultiplyBlock(uint32_t weights, uint32_t rows,
                                              float (&first)[kColumns / 2],
                                              float (&second)[kColumns / 2]) {
  const uint64_t a0 = TileDescriptor(weights);
  const uint64_t a1 = TileDescriptor(weights + kBoxBytes);
  const uint64_t b = TileDescriptor(rows);
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    Product<kColumns>(first, a0 + 2 * step, b + 2 * step);
    if constexpr (kBoxes == 2) Product<kColumns>(second, a1 + 2 * step, b + 2 * step);
  }
}

// All of K, with `box` the first box of the weights. A stage is given back one stage late, so that
// the products of one are queued while those of the stage before still run. Of one box, `second` is
// not used.
template <class T, int kColumns, int kBoxes>
__device__ __forceinline__ void Multiply(const Shared<T>& shared, Ring<T>* ring, uint32_t box,
                                         uint32_t k_blocks, float (&first)[kColumns / 2],
                                         float (&second)[kColumns / 2]) {
#pragma unroll
  for (int i = 0; i < kColumns / 2; ++i) first[i] = 0.0f;
  if constexpr (kBoxes == 2) {
#pragma unroll
    for (int i = 0; i < kColumns / 2; ++i) second[i] = 0.0f;
  }
  uint32_t previous = 0;
  for (uint32_t k = 0; k < k_blocks; k += T::kBlocks) {
    const uint32_t stage = ring->stage;
    Wait(shared.full(stage), ring->parity);
    BeginProducts();
#pragma unroll
    for (uint32_t b = 0; b < T::kBlocks; ++b) {
      if (b > 0 && k + b >= k_blocks) break;
      MultiplyBlock<kColumns, kBoxes>(shared.weights(stage, b) + box * kBoxBytes,
                                      shared.rows(stage, b), first, second);
    }
    CommitProducts();
    if (k > 0) {
      WaitProducts<1>();
      ReleaseStage(shared, previous);
    }
    previous = stage;
    ring->Advance();
  }
  WaitProducts<0>();
  PinAccumulators(first);
  if constexpr (kBoxes == 2) PinAccumulators(second);
  ReleaseStage(shared, previous);
}

// ---- The first half's results ----

// SiluMul of device_math.cuh, the same bits but for the sign of zeros and for infinite gates,
// without branches, so that many run at once. The exponent is added to the bits of the mantissa
// (the result is normal). The quotient is a reciprocal, refined, and one correction by its exact
// remainder, which rounds correctly; divisors past 2^64 are scaled to keep the reciprocal normal.
__device__ __forceinline__ float SiluMulManyAtOnce(float gate, float up) {
  constexpr float kExpMax = 0x1.62e42ep+6f;
  constexpr float kMagic = 12582912.0f;
  const float x = fminf(fmaxf(-gate, -0x1.5d589ep+6f), kExpMax);
  const float shifted = __fmaf_rn(x, 0x1.715476p+0f, kMagic);
  const float n = __fsub_rn(shifted, kMagic);
  float r = __fmaf_rn(n, -0x1.62e400p-1f, x);
  r = __fmaf_rn(n, -0x1.7f7d1cp-20f, r);
  float p = 1.0f / 5040;
  p = __fmaf_rn(p, r, 1.0f / 720);
  p = __fmaf_rn(p, r, 1.0f / 120);
  p = __fmaf_rn(p, r, 1.0f / 24);
  p = __fmaf_rn(p, r, 1.0f / 6);
  p = __fmaf_rn(p, r, 0.5f);
  p = __fmaf_rn(p, r, 1.0f);
  p = __fmaf_rn(p, r, 1.0f);
  // The low nine bits of kMagic are zero, so the shift leaves the exponent alone.
  const float e = __uint_as_float(__float_as_uint(p) + (__float_as_uint(shifted) << 23));
  const float divisor = __fadd_rn(1.0f, e);
  const float scale = divisor > 0x1p64f ? 0x1p-64f : 1.0f;
  const float scaled = __fmul_rn(divisor, scale);
  float inverse;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(scaled));
  inverse = __fmaf_rn(inverse, __fmaf_rn(-scaled, inverse, 1.0f), inverse);
  float silu = __fmul_rn(gate, inverse);
  silu = __fmaf_rn(__fmaf_rn(-scaled, silu, gate), inverse, silu);
  silu = __fmul_rn(silu, scale);
  if (-gate > kExpMax) silu = __fmul_rn(gate, 0.0f);
  return __fmul_rn(silu, up);
}

__device__ __forceinline__ uint32_t PackPair(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// Writes h of 64 outputs and this warpgroup's `rows` rows, the first being `row`, to middle_rows.
// packed[2 i + half] is the thread's pair of the 8x8 matrix of outputs 8 * half, rows 8 i. By way
// of shared memory, so that whole 128-byte pieces of rows are written.
template <class T, int kRegisters>
__device__ __forceinline__ void StoreMiddle(const Shared<T>& shared, const TileArgs& args,
                                            uint32_t group, uint32_t output, uint32_t row,
                                            uint32_t rows, const uint32_t (&packed)[kRegisters]) {
  const uint32_t thread = threadIdx.x % 128;
  const uint32_t in_eight = thread % 8;
  const uint32_t unit = 2 * (thread / 32) + thread / 8 % 2;
  const uint32_t staging = shared.staging(group);
  const uint32_t to = staging + in_eight * kRowBytes + (unit ^ in_eight) * 16;
#pragma unroll
  for (int i = 0; i < kRegisters / 2; ++i) {
    StoreTransposed(to + 8 * i * kRowBytes, packed[2 * i], packed[2 * i + 1]);
  }
  NamedBarrier<128>(1 + group);
  uint16_t* const out = args.middle_rows + static_cast<size_t>(row) * args.middle + output;
  for (uint32_t r = thread / 8; r < rows; r += 16) {
    const uint4 v = LoadShared(staging + r * kRowBytes + (in_eight ^ r % 8) * 16);
    *reinterpret_cast<uint4*>(out + static_cast<size_t>(r) * args.middle + 8 * in_eight) = v;
  }
  // The copy engine of any CTA may read them next; the release after the barrier covers all
  // threads.
  FenceAsyncGlobal();
  NamedBarrier<128>(1 + group);
}

// h from sums of which this warpgroup holds all of gate and up.
template <int kColumns>
__device__ __forceinline__ void PackMiddle(const float (&gate)[kColumns / 2],
                                           const float (&up)[kColumns / 2],
                                           uint32_t (&packed)[kColumns / 4]) {
#pragma unroll
  for (int i = 0; i < kColumns / 4; ++i) {
    packed[i] = PackPair(SiluMulManyAtOnce(gate[2 * i], up[2 * i]),
                         SiluMulManyAtOnce(gate[2 * i + 1], up[2 * i + 1]));
  }
}

// h where the first warpgroup holds gate and the second up, of the same outputs and rows: they
// trade halves through shared memory, so that the first has both for the first half of the rows and
// the second for the others. Equal threads of the two hold equal places.
template <class T, int kColumns>
__device__ __forceinline__ void TradeAndPackMiddle(const Shared<T>& shared, uint32_t group,
                                                   const float (&sums)[kColumns / 2],
                                                   uint32_t (&packed)[kColumns / 8]) {
  constexpr int kHalf = kColumns / 4;
  constexpr int kFits = static_cast<int>(T::kStagingBytes / (128 * sizeof(float)));
  constexpr int kChunk = kHalf < kFits ? kHalf : kFits;
  const bool first = group == 0;
  const uint32_t at = threadIdx.x % 128 * 16;
#pragma unroll
  for (int begin = 0; begin < kHalf; begin += kChunk) {
#pragma unroll
    for (int i = 0; i < kChunk; i += 4) {
      float v[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        v[j] = first ? sums[kHalf + begin + i + j] : sums[begin + i + j];
      }
      StoreShared(shared.staging(group) + at + i / 4 * 2048,
                  make_uint4(__float_as_uint(v[0]), __float_as_uint(v[1]), __float_as_uint(v[2]),
                             __float_as_uint(v[3])));
    }
    NamedBarrier<256>(3);
#pragma unroll
    for (int i = 0; i < kChunk; i += 4) {
      const uint4 words = LoadShared(shared.staging(1 - group) + at + i / 4 * 2048);
      const float theirs[4] = {__uint_as_float(words.x), __uint_as_float(words.y),
                               __uint_as_float(words.z), __uint_as_float(words.w)};
      float h[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float own = first ? sums[begin + i + j] : sums[kHalf + begin + i + j];
        h[j] = SiluMulManyAtOnce(first ? own : theirs[j], first ? theirs[j] : own);
      }
      packed[(begin + i) / 2] = PackPair(h[0], h[1]);
      packed[(begin + i) / 2 + 1] = PackPair(h[2], h[3]);
    }
    // The next stores go where the other warpgroup read.
    NamedBarrier<256>(3);
  }
}

// ---- The second half's results ----

// 64 outputs of `rows` rows to y. The eight lanes that share a row write 32 bytes of it.
template <int kColumns>
__device__ __forceinline__ void StoreOutputs(const TileArgs& args, uint32_t output, uint32_t row,
                                             uint32_t rows, const float (&sums)[kColumns / 2]) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t column = 2 * (lane % 4);
  float* out = args.y + static_cast<size_t>(row + column) * args.hidden + output +
               threadIdx.x % 128 / 32 * 16 + lane / 4;
#pragma unroll
  for (int i = 0; i < kColumns / 8; ++i, out += 8 * static_cast<size_t>(args.hidden)) {
    if (8 * i + column < rows) {
      out[0] = sums[4 * i];
      out[8] = sums[4 * i + 2];
    }
    if (8 * i + column + 1 < rows) {
      out[args.hidden] = sums[4 * i + 1];
      out[args.hidden + 8] = sums[4 * i + 3];
    }
  }
}

// ---- Tiles ----

// By the only consuming warpgroup.
template <class T>
__device__ __forceinline__ void ConsumeAlone(const Shared<T>& shared, const TileArgs& args,
                                             Ring<T>* ring, const Tile& tile, uint32_t rank) {
  constexpr int kColumns = T::kTileRows;
  const uint32_t output = tile.output + rank * kBoxOutputs;
  float first[kColumns / 2];
  float second[kColumns / 2];
  if (tile.down()) {
    Multiply<T, kColumns, 1>(shared, ring, 0, tile.blocks(args), first, second);
    if (output < args.hidden) StoreOutputs<kColumns>(args, output, tile.row, tile.rows, first);
    return;
  }
  Multiply<T, kColumns, 2>(shared, ring, 0, tile.blocks(args), first, second);
  if (output >= args.middle) return;
  uint32_t packed[kColumns / 4];
  PackMiddle<kColumns>(first, second, packed);
  StoreMiddle(shared, args, 0, output, tile.row, tile.rows, packed);
}

// By two warpgroups, over the first kColumns rows of the tile (there are no more).
template <class T, int kColumns>
__device__ __forceinline__ void ConsumeTogether(const Shared<T>& shared, const TileArgs& args,
                                                Ring<T>* ring, const Tile& tile, uint32_t group,
                                                uint32_t rank) {
  float sums[kColumns / 2];
  Multiply<T, kColumns, 1>(shared, ring, group, tile.blocks(args), sums, sums);
  if (tile.down()) {
    const uint32_t output = tile.output + (2 * rank + group) * kBoxOutputs;
    if (output < args.hidden) StoreOutputs<kColumns>(args, output, tile.row, tile.rows, sums);
    return;
  }
  const uint32_t output = tile.output + rank * kBoxOutputs;
  if (output >= args.middle) return;
  uint32_t packed[kColumns / 8];
  TradeAndPackMiddle<T, kColumns>(shared, group, sums, packed);
  const uint32_t before = group * (kColumns / 2);
  const uint32_t left = tile.rows > before ? tile.rows - before : 0;
  const uint32_t rows = left < kColumns / 2 ? left : kColumns / 2;
  StoreMiddle(shared, args, group, output, tile.row + before, rows, packed);
}

template <class T>
__device__ __forceinline__ void Consume(const Shared<T>& shared, const TileArgs& args,
                                        uint32_t group, uint32_t rank) {
  Ring<T> ring;
  for (uint32_t turn = 0;; ++turn) {
    const Tile tile = ReadTile(shared, turn);
    if (tile.end()) return;
    if constexpr (T::kConsumers == 1) {
      ConsumeAlone(shared, args, &ring, tile, rank);
    } else {
      // Fewer columns cost less where the tile isn't full.
      if (tile.rows <= 64) {
        ConsumeTogether<T, 64>(shared, args, &ring, tile, group, rank);
      } else if (T::kTileRows == 128 || tile.rows <= 128) {
        ConsumeTogether<T, 128>(shared, args, &ring, tile, group, rank);
      } else {
        ConsumeTogether<T, T::kTileRows>(shared, args, &ring, tile, group, rank);
      }
    }
    if (!tile.down() && threadIdx.x % 128 == 0) AddRelease(args.finished + tile.expert(), 1);
  }
}

}  // namespace octet::cuda

#endif  // OCTET_KERNELS_CUDA_BF16_PRODUCTS_CUH_
