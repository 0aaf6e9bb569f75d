// Products with float weights: one accumulator an output, k ascending, fused. So nothing can be
// split along k, and the time of few outputs is that of one chain of k dependent steps. Weights and
// rows pass through shared memory in steps of k, several steps ahead, and a tile of threads takes
// its operands from there one fragment ahead of the chain.
#include <cuda_fp16.h>

#include "kernels/cuda/fused_kernels.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/layout.h"
#include "kernels/cuda/row_kernels.h"
#include "kernels/panel_layout.h"

namespace octet::cuda {
namespace {

struct Product {
  const uint8_t* w;
  size_t panel_bytes;
  uint32_t n;
  uint32_t k;
  bool wide_w;  // rows of bf16 weights start on 16 bytes
  const float* x;
  size_t x_stride;
  bool wide_x;  // rows start on 16 bytes
  uint32_t rows;
  float* y;
  size_t y_stride;
};

constexpr int Min(int a, int b) { return a < b ? a : b; }

// A block computes kRows x kOutputs. Thread (ty, tx) of kTy x kTx has kRm rows, kTy apart, and kRn
// outputs in chunks of kChunk neighbours, kTx chunks apart: so that what a warp reads at once lies
// in different banks. kLoaders more threads do nothing but load; without any, all threads load.
template <WeightKind kKindOf, int kRm, int kRn, int kTy, int kTx, int kStep, int kFrag, int kDepth,
          int kLoaders>
struct Tile {
  static constexpr WeightKind kKind = kKindOf;
  static constexpr bool kPanels = kKind != WeightKind::kBF16;
  static constexpr int kBytes = kKind == WeightKind::kF32 ? 4 : 2;
  static constexpr int kRowsEach = kRm, kOutputsEach = kRn;
  static constexpr int kColumns = kTx, kLines = kTy;
  static constexpr int kRows = kRm * kTy;
  static constexpr int kOutputs = kRn * kTx;
  static constexpr int kComputing = kTx * kTy;
  static constexpr int kThreads = kComputing + kLoaders;
  static constexpr int kLoading = kLoaders > 0 ? kLoaders : kThreads;
  static constexpr int kFirstLoader = kLoaders > 0 ? kComputing : 0;
  static constexpr int kStepK = kStep;     // inputs of a stage
  static constexpr int kFragment = kFrag;  // inputs in registers at once
  static constexpr int kStages = kDepth;
  static constexpr int kChunkWidth = kPanels ? Min(kRn, 4) : 1;

  // Bytes of a stage: rows of x, then panels as [kStepK][kWidth] or rows of bf16, all padded so
  // that neighbours start in other banks.
  static constexpr int kXStride = (kStep + 4) * 4;
  static constexpr int kWidth = Min(kOutputs, 16);
  static constexpr int kPanelStride = kStep * kWidth * kBytes + 16 * kBytes;
  static constexpr int kWeightStride = kStep * 2 + 16;
  static constexpr int kWeightBytes =
      kPanels ? kOutputs / kWidth * kPanelStride : kOutputs * kWeightStride;
  static constexpr int kWeights = kRows * kXStride;
  static constexpr int kStageBytes = kWeights + kWeightBytes;
  static constexpr int kSharedBytes = kStages * kStageBytes;
  static_assert(kComputing % 32 == 0 && kLoaders % 32 == 0 && kStep % kFrag == 0 && kStages >= 3);
  static_assert(kFrag % 4 == 0 && kStep % 8 == 0 && kOutputs % kWidth == 0);

  // Where output i of column tx lies within the tile.
  __device__ static __forceinline__ int Output(int tx, int i) {
    return i / kChunkWidth * (kTx * kChunkWidth) + tx * kChunkWidth + i % kChunkWidth;
  }
};

// ---- Loading ----

template <int kBytes>
__device__ __forceinline__ void CopyAsync(uint8_t* to, const void* from) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(from) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(address), "l"(from) : "memory");
  }
}
__device__ __forceinline__ void CommitCopies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// Until at most kPending groups of this thread are under way.
template <int kPending>
__device__ __forceinline__ void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Inputs k0 .. of the tile's rows. Past k lies -0: with weights of +0 there, a fused step changes
// no accumulator, not even one that is -0. Rows past the last are left as they are: what comes of
// them is not stored. The same goes for outputs.
template <typename T>
__device__ __forceinline__ void LoadInputs(const Product& p, uint32_t row_begin, uint32_t k0,
                                           int loader, uint8_t* stage) {
  constexpr int kVectors = T::kStepK / 4;
  for (int i = loader; i < T::kRows * kVectors; i += T::kLoading) {
    const int row = i / kVectors;
    const uint32_t k = k0 + i % kVectors * 4;
    if (row_begin + row >= p.rows) break;
    const float* from = p.x + (row_begin + row) * p.x_stride + k;
    uint8_t* to = stage + row * T::kXStride + i % kVectors * 16;
    if (p.wide_x && k + 4 <= p.k) {
      CopyAsync<16>(to, from);
      continue;
    }
    for (uint32_t j = 0; j < 4; ++j) {
      if (k + j < p.k) {
        CopyAsync<4>(to + 4 * j, from + j);
      } else {
        *reinterpret_cast<float*>(to + 4 * j) = -0.0f;
      }
    }
  }
}

template <typename T>
__device__ __forceinline__ void LoadPanels(const Product& p, uint32_t output_begin, uint32_t k0,
                                           int loader, uint8_t* stage) {
  // A thread copies the same places of every kAtOnce-th panel.
  constexpr int kVectorsOfK = T::kWidth * T::kBytes / 16;
  constexpr int kVectors = T::kStepK * kVectorsOfK;
  constexpr int kAtOnce = kVectors >= T::kLoading ? 1 : T::kLoading / kVectors;
  constexpr int kOfPanel = kVectors >= T::kLoading ? kVectors / T::kLoading : 1;
  static_assert(kAtOnce * kVectors == kOfPanel * T::kLoading && T::kLoading % kVectorsOfK == 0);
  const uint32_t first = output_begin / 16 + loader / (T::kLoading / kAtOnce);
  const uint32_t vector = loader % (T::kLoading / kAtOnce);
  const uint32_t vectors_left = (p.k - k0) * kVectorsOfK;
  const uint8_t* from = p.w + first * p.panel_bytes +
                        size_t{k0 + vector / kVectorsOfK} * (16 * T::kBytes) +
                        vector % kVectorsOfK * 16;
  uint8_t* to = stage + loader / (T::kLoading / kAtOnce) * T::kPanelStride + vector * 16;
  const uint32_t panels = (p.n + 15) / 16;
#pragma unroll
  for (int panel = 0; panel < T::kOutputs / T::kWidth; panel += kAtOnce) {
    if (first + panel >= panels) break;
#pragma unroll
    for (int v = 0; v < kOfPanel; ++v) {
      if (vector + v * T::kLoading < vectors_left) {
        CopyAsync<16>(to + v * (T::kLoading * 16),
                      from + v * (T::kLoading / kVectorsOfK * 16 * T::kBytes));
      } else {
        *reinterpret_cast<uint4*>(to + v * (T::kLoading * 16)) = uint4{0, 0, 0, 0};
      }
    }
    from += kAtOnce * p.panel_bytes;
    to += kAtOnce * T::kPanelStride;
  }
}

template <typename T>
__device__ __forceinline__ void LoadWeightRows(const Product& p, uint32_t output_begin, uint32_t k0,
                                               int loader, uint8_t* stage) {
  constexpr int kVectors = T::kStepK / 8;
  static_assert(T::kLoading % kVectors == 0 && T::kOutputs * kVectors % T::kLoading == 0);
  constexpr int kAtOnce = T::kLoading / kVectors;
  const int first = loader / kVectors;
  const uint32_t k = k0 + loader % kVectors * 8;
  const auto* from =
      reinterpret_cast<const uint16_t*>(p.w) + size_t{output_begin + first} * p.k + k;
  uint8_t* to = stage + first * T::kWeightStride + loader % kVectors * 16;
#pragma unroll 4
  for (int output = first; output < T::kOutputs; output += kAtOnce) {
    if (output_begin + output >= p.n) break;
    if (k >= p.k) {
      *reinterpret_cast<uint4*>(to) = uint4{0, 0, 0, 0};
    } else if (p.wide_w) {
      CopyAsync<16>(to, from);
    } else {
      for (uint32_t j = 0; j < 8; ++j) {
        reinterpret_cast<uint16_t*>(to)[j] = k + j < p.k ? from[j] : uint16_t{0};
      }
    }
    from += size_t{kAtOnce} * p.k;
    to += kAtOnce * T::kWeightStride;
  }
}

template <typename T>
__device__ __forceinline__ void LoadStage(const Product& p, uint32_t step, uint8_t* stage) {
  const int loader = static_cast<int>(threadIdx.x) - T::kFirstLoader;
  if (loader < 0) return;
  const uint32_t k0 = step * T::kStepK;
  LoadInputs<T>(p, blockIdx.y * T::kRows, k0, loader, stage);
  if constexpr (T::kPanels) {
    LoadPanels<T>(p, blockIdx.x * T::kOutputs, k0, loader, stage + T::kWeights);
  } else {
    LoadWeightRows<T>(p, blockIdx.x * T::kOutputs, k0, loader, stage + T::kWeights);
  }
}

// ---- Computing ----

// kBytes of shared memory as words; two bytes go into the low half of one.
template <int kBytes>
__device__ __forceinline__ void ReadWords(const uint8_t* from, uint32_t* words) {
  if constexpr (kBytes == 16) {
    const uint4 v = *reinterpret_cast<const uint4*>(from);
    words[0] = v.x;
    words[1] = v.y;
    words[2] = v.z;
    words[3] = v.w;
  } else if constexpr (kBytes == 8) {
    const uint2 v = *reinterpret_cast<const uint2*>(from);
    words[0] = v.x;
    words[1] = v.y;
  } else if constexpr (kBytes == 4) {
    words[0] = *reinterpret_cast<const uint32_t*>(from);
  } else {
    static_assert(kBytes == 2);
    words[0] = *reinterpret_cast<const uint16_t*>(from);
  }
}

// The operands of kFragment steps of one thread, weights as stored.
template <typename T>
struct Fragment {
  static constexpr int kK = T::kFragment;
  static constexpr int kChunks = T::kOutputsEach / T::kChunkWidth;
  static constexpr int kChunkBytes = T::kChunkWidth * T::kBytes;
  static constexpr int kChunkWords = (kChunkBytes + 3) / 4;
  static constexpr int kWords =
      T::kPanels ? kK * kChunks * kChunkWords : T::kOutputsEach * (kK / 2);

  uint32_t x[T::kRowsEach][kK];
  uint32_t w[kWords];

  __device__ __forceinline__ void Read(const uint8_t* stage, int k, int ty, int tx) {
#pragma unroll
    for (int r = 0; r < T::kRowsEach; ++r) {
#pragma unroll
      for (int f = 0; f < kK; f += 4) {
        ReadWords<16>(stage + (ty + r * T::kLines) * T::kXStride + (k + f) * 4, &x[r][f]);
      }
    }
    const uint8_t* weights = stage + T::kWeights;
    if constexpr (T::kPanels) {
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        const int output = T::Output(tx, c * T::kChunkWidth);
        const uint8_t* chunk = weights + output / T::kWidth * T::kPanelStride +
                               (k * T::kWidth + output % T::kWidth) * T::kBytes;
#pragma unroll
        for (int f = 0; f < kK; ++f) {
          ReadWords<kChunkBytes>(chunk + f * (T::kWidth * T::kBytes),
                                 &w[(f * kChunks + c) * kChunkWords]);
        }
      }
    } else {
      constexpr int kRead = kK % 8 == 0 ? 8 : 4;
#pragma unroll
      for (int i = 0; i < T::kOutputsEach; ++i) {
        const uint8_t* row = weights + T::Output(tx, i) * T::kWeightStride + k * 2;
#pragma unroll
        for (int f = 0; f < kK; f += kRead) {
          ReadWords<kRead * 2>(row + f * 2, &w[i * (kK / 2) + f / 2]);
        }
      }
    }
  }

  // Weight of step f and output i of this thread.
  __device__ __forceinline__ float Weight(int f, int i) const {
    if constexpr (!T::kPanels) {
      const uint32_t pair = w[i * (kK / 2) + f / 2];
      return __uint_as_float(f % 2 == 0 ? pair << 16 : pair & 0xffff0000u);
    } else {
      const int c = i / T::kChunkWidth, j = i % T::kChunkWidth;
      const uint32_t* words = &w[(f * kChunks + c) * kChunkWords];
      if constexpr (T::kKind == WeightKind::kF32) {
        return __uint_as_float(words[j]);
      } else {
        const uint32_t half = j % 2 == 0 ? words[j / 2] & 0xffffu : words[j / 2] >> 16;
        return __half2float(__ushort_as_half(static_cast<uint16_t>(half)));
      }
    }
  }

  __device__ __forceinline__ void Accumulate(float (&acc)[T::kRowsEach][T::kOutputsEach]) const {
#pragma unroll
    for (int f = 0; f < kK; ++f) {
      float weight[T::kOutputsEach];
#pragma unroll
      for (int i = 0; i < T::kOutputsEach; ++i) weight[i] = Weight(f, i);
#pragma unroll
      for (int r = 0; r < T::kRowsEach; ++r) {
#pragma unroll
        for (int i = 0; i < T::kOutputsEach; ++i) {
          acc[r][i] = __fmaf_rn(__uint_as_float(x[r][f]), weight[i], acc[r][i]);
        }
      }
    }
  }
};

template <typename T>
__device__ __forceinline__ void StoreTile(const Product& p, int ty, int tx,
                                          const float (&acc)[T::kRowsEach][T::kOutputsEach]) {
#pragma unroll
  for (int r = 0; r < T::kRowsEach; ++r) {
    const uint32_t row = blockIdx.y * T::kRows + ty + r * T::kLines;
    if (row >= p.rows) break;
#pragma unroll
    for (int i = 0; i < T::kOutputsEach; ++i) {
      const uint32_t output = blockIdx.x * T::kOutputs + T::Output(tx, i);
      if (output < p.n) p.y[row * p.y_stride + output] = acc[r][i];
    }
  }
}

// At the top of step s, stages s and s + 1 are there, later ones under way, and the stage of step
// s - 1 is free. The last fragment of a step reads ahead into the next one; past the last step it
// reads what is not used.
template <typename T>
__global__ void __launch_bounds__(T::kThreads) FloatProductKernel(const Product p) {
  extern __shared__ __align__(16) uint8_t memory[];
  constexpr int kStages = T::kStages;
  const int ty = threadIdx.x / T::kColumns;
  const int tx = threadIdx.x % T::kColumns;
  // Of a warp as a whole: its first thread has its first row.
  const uint32_t first_row = blockIdx.y * T::kRows + threadIdx.x / 32 * 32 / T::kColumns;
  const bool computes = threadIdx.x < T::kComputing && first_row < p.rows;
  const uint32_t steps = (p.k + T::kStepK - 1) / T::kStepK;
  for (uint32_t s = 0; s + 1 < kStages; ++s) {
    if (s < steps) LoadStage<T>(p, s, memory + s * T::kStageBytes);
    CommitCopies();
  }
  float acc[T::kRowsEach][T::kOutputsEach] = {};
  Fragment<T> now;
  WaitForCopies<kStages - 2>();
  __syncthreads();
  if (computes) now.Read(memory, 0, ty, tx);
  uint32_t at = 0;
  uint32_t spare = kStages - 1;
  for (uint32_t s = 0; s < steps; ++s) {
    const uint32_t next_at = at + 1 == kStages ? 0 : at + 1;
    WaitForCopies<kStages - 3>();
    __syncthreads();
    if (s + kStages - 1 < steps) {
      LoadStage<T>(p, s + kStages - 1, memory + spare * T::kStageBytes);
    }
    CommitCopies();
    if (computes) {
      const uint8_t* stage = memory + at * T::kStageBytes;
      const uint8_t* next_stage = memory + next_at * T::kStageBytes;
#pragma unroll
      for (int k = 0; k < T::kStepK; k += T::kFragment) {
        Fragment<T> next;
        if (k + T::kFragment < T::kStepK) {
          next.Read(stage, k + T::kFragment, ty, tx);
        } else {
          next.Read(next_stage, 0, ty, tx);
        }
        now.Accumulate(acc);
        now = next;
      }
    }
    spare = at;
    at = next_at;
  }
  WaitForCopies<0>();
  if (computes) StoreTile<T>(p, ty, tx, acc);
}

// ---- Which tile ----

template <typename T>
int Launch(cudaStream_t stream, const Product& p) {
  const cudaError_t error = cudaFuncSetAttribute(
      FloatProductKernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, T::kSharedBytes);
  if (error != cudaSuccess) return static_cast<int>(error);
  const dim3 grid(CeilDiv(p.n, T::kOutputs), CeilDiv(p.rows, T::kRows));
  FloatProductKernel<T><<<grid, T::kThreads, T::kSharedBytes, stream>>>(p);
  return LaunchError();
}

// Blocks that keep every multiprocessor of a large device busy.
constexpr size_t kManyBlocks = 128;
// Outputs of all rows that one thread each still computes faster than tiles that reuse operands.
constexpr size_t kChainsMax = 32768;
// Columns from which a tile of 128 of them each makes blocks enough for few rows.
constexpr size_t kWideOutputs = 8192;

template <WeightKind kKind>
int Run(cudaStream_t stream, const Product& p) {
  constexpr int kStep = kKind == WeightKind::kF32 ? 32 : 64;
  using Gate = Tile<kKind, 1, 1, 8, 8, 128, 16, 6, 64>;
  using Chains = Tile<kKind, 1, 1, 8, 16, 128, 16, 5, 64>;
  using OneRow = Tile<kKind, 1, 2, 1, 64, kStep, 16, 4, 0>;
  using FewRows = Tile<kKind, 8, 2, 1, 64, kStep, 4, 4, 0>;
  using Middle = Tile<kKind, 4, 4, 4, 16, kStep, 4, 4, 0>;
  using Large = Tile<kKind, 8, 8, 8, 16, 32, 4, 3, 0>;
  if (p.n <= 8) return Launch<Gate>(stream, p);
  const size_t outputs = size_t{p.rows} * p.n;
  if (outputs <= kChainsMax && p.n <= kWideOutputs) return Launch<Chains>(stream, p);
  if (p.rows <= 8 && p.n <= kWideOutputs) return Launch<Chains>(stream, p);
  if (p.rows == 1) return Launch<OneRow>(stream, p);
  if (p.rows <= 8) return Launch<FewRows>(stream, p);
  const size_t large_blocks = size_t{CeilDiv(p.rows, Large::kRows)} * CeilDiv(p.n, Large::kOutputs);
  if (p.rows > 32 && large_blocks >= kManyBlocks) return Launch<Large>(stream, p);
  return Launch<Middle>(stream, p);
}

}  // namespace

int MatMulFloat(Stream stream, const Matrix& w, const float* x, size_t rows, size_t x_stride,
                float* y, size_t y_stride) {
  if (w.format.is_integer()) return cudaErrorInvalidValue;
  if (rows == 0 || w.n == 0) return 0;
  const GateProduct gate{w, x, rows, x_stride, y, y_stride};
  if (GateProductFits(gate)) return LaunchGateProduct(stream, gate);
  const bool wide_x = x_stride % 4 == 0 && reinterpret_cast<uintptr_t>(x) % 16 == 0;
  const bool wide_w = w.k % 8 == 0 && reinterpret_cast<uintptr_t>(w.data) % 16 == 0;
  const Product p{w.data,
                  MakePanelLayout(w.format, w.k).bytes,
                  static_cast<uint32_t>(w.n),
                  static_cast<uint32_t>(w.k),
                  wide_w,
                  x,
                  x_stride,
                  wide_x,
                  static_cast<uint32_t>(rows),
                  y,
                  y_stride};
  switch (w.format.kind) {
    case WeightKind::kF32:
      return Run<WeightKind::kF32>(StreamOf(stream), p);
    case WeightKind::kF16:
      return Run<WeightKind::kF16>(StreamOf(stream), p);
    default:
      return Run<WeightKind::kBF16>(StreamOf(stream), p);
  }
}

}  // namespace octet::cuda
