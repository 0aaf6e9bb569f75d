// The product of at most 8 f32 outputs with few rows, y = W x in ascending k. Its time is that of a
// chain of k dependent fused steps, so that nothing may hold the chain up: a warp has one row, 8 of
// its lanes an output each, and shared memory takes all of W and the block's rows, so that no place
// is used twice and nobody waits for it to be free. W is turned there, [output][k], so that a read
// brings four steps. More lanes a warp would ask more of shared memory than it delivers in time.
#include "kernels/cuda/fused_kernels.h"
#include "kernels/cuda/launch_early.cuh"
#include "kernels/cuda/layout.h"
#include "kernels/cuda/pipeline.cuh"
#include "kernels/cuda/row_kernels.h"

namespace octet::cuda {
namespace {

constexpr uint32_t kOutputs = 8;
constexpr uint32_t kPanelWidth = 16;  // floats of one k in the weights (kernels/panel_layout.h)
constexpr uint32_t kStage = 512;      // inputs that arrive together
constexpr uint32_t kBatch = 128;      // inputs of a round of the chain
constexpr uint32_t kAhead = 8;        // vectors of steps whose operands a lane holds
constexpr uint32_t kMultiplyWarps = 4;
constexpr uint32_t kWeightWarps = 4;
constexpr uint32_t kWeightThreads = kWeightWarps * 32;
constexpr uint32_t kThreads = (kMultiplyWarps + kWeightWarps + 1) * 32;  // the last for rows
constexpr uint32_t kSharedMax = 227 * 1024;
constexpr uint32_t kMultiprocessors = 132;

struct GateShape {
  const float* w;
  const float* x;
  size_t x_stride;
  float* y;
  size_t y_stride;
  uint32_t rows;
  uint32_t n;
  uint32_t k;          // a multiple of kBatch
  uint32_t rows_each;  // of a block, at most kMultiplyWarps
};

// Of an output in shared memory, in floats: the 8 outputs' vectors of one k lie in different banks.
OCTET_HOST_DEVICE uint32_t WeightStride(uint32_t k) { return k + 4; }
OCTET_HOST_DEVICE uint32_t Stages(uint32_t k) { return (k + kStage - 1) / kStage; }

// Of a block: outputs, rows, a barrier for every stage.
size_t SharedBytes(size_t k, size_t rows_each) {
  return 4 * (kOutputs * (k + 4) + rows_each * k) + 8 * ((k + kStage - 1) / kStage);
}

struct GateMemory {
  float* weights;
  float* rows;
  uint64_t* full;
  __device__ __forceinline__ GateMemory(uint8_t* memory, const GateShape& s)
      : weights(reinterpret_cast<float*>(memory)),
        rows(weights + kOutputs * WeightStride(s.k)),
        full(reinterpret_cast<uint64_t*>(rows + s.rows_each * s.k)) {}
};

// Four inputs of four outputs, turned on the way from panels to shared memory.
struct WeightPiece {
  float4 of_k[4];

  __device__ __forceinline__ void Load(const float* from) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      of_k[i] = __ldg(reinterpret_cast<const float4*>(from + i * kPanelWidth));
    }
  }
  __device__ __forceinline__ void Store(float* to, uint32_t stride) const {
    auto* out = reinterpret_cast<float4*>(to);
    const uint32_t next = stride / 4;
    out[0] = {of_k[0].x, of_k[1].x, of_k[2].x, of_k[3].x};
    out[next] = {of_k[0].y, of_k[1].y, of_k[2].y, of_k[3].y};
    out[2 * next] = {of_k[0].z, of_k[1].z, of_k[2].z, of_k[3].z};
    out[3 * next] = {of_k[0].w, of_k[1].w, of_k[2].w, of_k[3].w};
  }
};

// The pieces of one stage of one thread. Neighbours take the two halves of the outputs.
struct WeightStage {
  static constexpr uint32_t kPieces = kStage / 4 * 2 / kWeightThreads;
  WeightPiece pieces[kPieces];

  __device__ static __forceinline__ uint32_t FirstK(uint32_t stage, uint32_t piece,
                                                    uint32_t thread) {
    return stage * kStage + (thread + piece * kWeightThreads) / 2 * 4;
  }
  __device__ __forceinline__ void Load(const GateShape& s, uint32_t stage, uint32_t thread) {
#pragma unroll
    for (uint32_t p = 0; p < kPieces; ++p) {
      const uint32_t k = FirstK(stage, p, thread);
      if (k < s.k) pieces[p].Load(s.w + size_t{k} * kPanelWidth + thread % 2 * 4);
    }
  }
  __device__ __forceinline__ void Store(const GateShape& s, uint32_t stage, uint32_t thread,
                                        float* weights) const {
    const uint32_t stride = WeightStride(s.k);
#pragma unroll
    for (uint32_t p = 0; p < kPieces; ++p) {
      const uint32_t k = FirstK(stage, p, thread);
      if (k < s.k) pieces[p].Store(weights + thread % 2 * 4 * stride + k, stride);
    }
  }
};

// Weights do not depend on the launch ahead, so that they are on their way before it has ended.
__device__ __forceinline__ void LoadWeights(const GateShape& s, const GateMemory& memory,
                                            uint32_t thread) {
  const uint32_t stages = Stages(s.k);
  WeightStage now;
  now.Load(s, 0, thread);
  for (uint32_t stage = 0; stage < stages; ++stage) {
    WeightStage next;
    if (stage + 1 < stages) next.Load(s, stage + 1, thread);
    now.Store(s, stage, thread, memory.weights);
    __syncwarp();
    if (thread % 32 == 0) Arrive(&memory.full[stage]);
    now = next;
  }
}

__device__ __forceinline__ void LoadRows(const GateShape& s, const GateMemory& memory,
                                         uint32_t first_row) {
  const uint32_t rows = min(s.rows_each, s.rows - first_row);
  for (uint32_t stage = 0; stage < Stages(s.k); ++stage) {
    const uint32_t k = stage * kStage;
    const uint32_t bytes = 4 * min(kStage, s.k - k);
    ArriveExpecting(&memory.full[stage], bytes * rows);
    for (uint32_t r = 0; r < rows; ++r) {
      CopyBulk(memory.rows + r * s.k + k, s.x + (first_row + r) * s.x_stride + k, bytes,
               &memory.full[stage]);
    }
  }
}

// What a lane holds: the operands of the next kAhead vectors of steps. What has been used is read
// anew at once, so that reads lie between the steps of the chain, which leave room for them.
struct Operands {
  float4 x[kAhead];
  float4 w[kAhead];

  __device__ __forceinline__ void Read(uint32_t i, const float* row, const float* weights) {
    x[i] = *reinterpret_cast<const float4*>(row + 4 * i);
    w[i] = *reinterpret_cast<const float4*>(weights + 4 * i);
  }
  __device__ __forceinline__ float AddTo(uint32_t i, float acc) const {
    acc = __fmaf_rn(x[i].x, w[i].x, acc);
    acc = __fmaf_rn(x[i].y, w[i].y, acc);
    acc = __fmaf_rn(x[i].z, w[i].z, acc);
    return __fmaf_rn(x[i].w, w[i].w, acc);
  }
};

// The sum over kBatch inputs and more: `row` and `weights` are in shared memory.
__device__ __forceinline__ float Chain(uint64_t* full, const float* row, const float* weights,
                                       uint32_t k_end) {
  constexpr uint32_t kHeld = 4 * kAhead;
  static_assert(kBatch % kHeld == 0 && kStage % kBatch == 0);
  Operands held;
  float acc = 0.0f;
  WaitParity(&full[0], 0);
#pragma unroll
  for (uint32_t i = 0; i < kAhead; ++i) held.Read(i, row, weights);
  // A round adds a batch and reads what lies kHeld after it, the last kHeld of it in the next one.
  for (uint32_t next = kBatch; next < k_end; next += kBatch) {
    if (next % kStage == 0) WaitParity(&full[next / kStage], 0);
#pragma unroll
    for (uint32_t part = 0; part < kBatch; part += kHeld) {
      row += kHeld;
      weights += kHeld;
#pragma unroll
      for (uint32_t i = 0; i < kAhead; ++i) {
        acc = held.AddTo(i, acc);
        held.Read(i, row, weights);
      }
    }
  }
#pragma unroll
  for (uint32_t part = 0; part < kBatch; part += kHeld) {
    row += kHeld;
    weights += kHeld;
#pragma unroll
    for (uint32_t i = 0; i < kAhead; ++i) {
      acc = held.AddTo(i, acc);
      if (part + kHeld < kBatch) held.Read(i, row, weights);
    }
  }
  return acc;
}

__global__ void __launch_bounds__(kThreads) GateProductKernel(const __grid_constant__ GateShape s) {
  extern __shared__ __align__(128) uint8_t dynamic[];
  static_assert(kStage / 2 % kWeightThreads == 0);
  const GateMemory memory(dynamic, s);
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const uint32_t first_row = blockIdx.x * s.rows_each;
  if (threadIdx.x == 0) {
    for (uint32_t i = 0; i < Stages(s.k); ++i) InitBarrier(&memory.full[i], kWeightWarps + 1);
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  }
  __syncthreads();
  if (warp >= kMultiplyWarps && warp < kMultiplyWarps + kWeightWarps) {
    LoadWeights(s, memory, threadIdx.x - kMultiplyWarps * 32);
    return;
  }
  GridWait();
  GridTrigger();
  if (warp == kMultiplyWarps + kWeightWarps) {
    if (lane == 0) LoadRows(s, memory, first_row);
    return;
  }
  const uint32_t row = first_row + warp;
  if (warp >= s.rows_each || row >= s.rows || lane >= kOutputs) return;
  const float sum =
      Chain(memory.full, memory.rows + warp * s.k, memory.weights + lane * WeightStride(s.k), s.k);
  if (lane < s.n) s.y[row * s.y_stride + lane] = sum;
}

// Rows of a block, so that all blocks run at once: few, so that their warps leave each other
// shared memory's time, but not one, so that not every multiprocessor reads all weights. 0 where
// there is no such number.
uint32_t RowsEach(size_t rows, size_t k) {
  for (const uint32_t each : {2u, 1u, 4u}) {
    if (rows <= each * kMultiprocessors && SharedBytes(k, each) <= kSharedMax) return each;
  }
  return 0;
}

bool Aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

}  // namespace

bool GateProductFits(const GateProduct& call) {
  const Matrix& w = call.w;
  return w.format.kind == WeightKind::kF32 && w.n >= 1 && w.n <= kOutputs && w.k >= kBatch &&
         w.k % kBatch == 0 && call.rows >= 1 && call.x_stride % 4 == 0 && Aligned(call.x) &&
         Aligned(w.data) && RowsEach(call.rows, w.k) > 0;
}

int LaunchGateProduct(Stream stream, const GateProduct& call) {
  const auto k = static_cast<uint32_t>(call.w.k);
  const uint32_t each = RowsEach(call.rows, k);
  const GateShape shape{reinterpret_cast<const float*>(call.w.data),
                        call.x,
                        call.x_stride,
                        call.y,
                        call.y_stride,
                        static_cast<uint32_t>(call.rows),
                        static_cast<uint32_t>(call.w.n),
                        k,
                        each};
  return LaunchEarly(GateProductKernel, dim3(CeilDiv(call.rows, each)), kThreads,
                     SharedBytes(k, each), StreamOf(stream), call.early, shape);
}

int MatMulGate(Stream stream, const GateProduct& call) {
  if (GateProductFits(call)) return LaunchGateProduct(stream, call);
  return MatMulFloat(stream, call.w, call.x, call.rows, call.x_stride, call.y, call.y_stride);
}

}  // namespace octet::cuda
