// Experts with bf16 weights on Hopper's tensor cores: a numerics profile of its own.
//
// Rows are rounded from f32 to bf16 (to nearest even). gate and up are summed by the tensor core in
// f32, 16 inputs a step, steps ascending along K in one accumulator per output; h = silu(gate) * up
// in f32 as in docs/numerics.md, rounded to bf16; down is summed likewise and stays f32. K is never
// split and nothing is added across threads. Every tiling uses the same instruction, which differs
// only in how many rows it takes at once, so the bits of a row depend on that row and the weights
// alone.
//
// Weights are read where they lie, through one tensor map for each matrix: a map for the shape is
// encoded on the host, and a small kernel, which also gathers and rounds the rows, gives each
// expert a copy with its own addresses.
#include <cuda.h>
#include <cudaTypedefs.h>
#include <cuda_bf16.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/cuda/bf16_kernel.cuh"
#include "kernels/cuda/cuda_api.h"
#include "kernels/cuda/launch.h"

namespace octet::cuda {
namespace {

struct PrepareArgs {
  const ExpertMatrices* weights;
  const uint32_t* offsets;
  const uint32_t* rows;
  const float* x;
  CUtensorMap* weight_maps;
  uint32_t* claimed;
  uint32_t* finished;
  uint32_t* first_tiles;
  uint16_t* x_rows;  // [rows][hidden] bf16, sorted by expert
  uint32_t experts;
  uint32_t hidden;
  uint32_t tile_rows;
  uint32_t gate_groups;  // tiles along the outputs
  uint32_t down_groups;
};

// By one warp.
__device__ void WriteMaps(const CUtensorMap& gate_map, const CUtensorMap& down_map,
                          const PrepareArgs& args, uint32_t expert, CUtensorMap* shared_maps) {
  const uint32_t lane = threadIdx.x % 32;
  static_assert(sizeof(CUtensorMap) == 32 * sizeof(uint32_t));
  for (int m = 0; m < 3; ++m) {
    const CUtensorMap* from = m == 2 ? &down_map : &gate_map;
    reinterpret_cast<uint32_t*>(shared_maps + m)[lane] =
        reinterpret_cast<const uint32_t*>(from)[lane];
  }
  __syncwarp();
  if (lane == 0) {
    const ExpertMatrices& w = args.weights[expert];
    SetMapAddress(SharedAddress(shared_maps), w.gate.data);
    SetMapAddress(SharedAddress(shared_maps + 1), w.up.data);
    SetMapAddress(SharedAddress(shared_maps + 2), w.down.data);
  }
  __syncwarp();
  for (int m = 0; m < 3; ++m) {
    PublishMap(args.weight_maps + 3 * expert + m, SharedAddress(shared_maps + m));
  }
}

__device__ void WriteTileStarts(const PrepareArgs& args) {
  *args.claimed = 0;
  uint32_t tile = 0;
  for (uint32_t half = 0; half < 2; ++half) {
    const uint32_t groups = half == 0 ? args.gate_groups : args.down_groups;
    for (uint32_t e = 0; e < args.experts; ++e) {
      args.finished[e] = 0;
      args.first_tiles[half * args.experts + e] = tile;
      tile += groups * DivUp(args.offsets[e + 1] - args.offsets[e], args.tile_rows);
    }
  }
  args.first_tiles[2 * args.experts] = tile;
}

// A block an entry: its row rounded to bf16. The first blocks also write what the tiles need.
__global__ void __launch_bounds__(256)
    PrepareKernel(const __grid_constant__ CUtensorMap gate_map,
                  const __grid_constant__ CUtensorMap down_map, const PrepareArgs args) {
  __shared__ alignas(128) CUtensorMap shared_maps[3];
  LetNextStart();
  const uint32_t entry = blockIdx.x;
  if (entry < args.experts && threadIdx.x < 32) {
    WriteMaps(gate_map, down_map, args, entry, shared_maps);
  }
  if (entry == 0 && threadIdx.x == 32) WriteTileStarts(args);
  if (entry >= args.offsets[args.experts]) return;
  const float4* from =
      reinterpret_cast<const float4*>(args.x + static_cast<size_t>(args.rows[entry]) * args.hidden);
  uint2* to = reinterpret_cast<uint2*>(args.x_rows + static_cast<size_t>(entry) * args.hidden);
  for (uint32_t i = threadIdx.x; i < args.hidden / 4; i += blockDim.x) {
    const float4 v = from[i];
    to[i] = make_uint2(PackPair(v.x, v.y), PackPair(v.z, v.w));
  }
}

constexpr size_t kAlignment = 256;
size_t AlignUp(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Byte offsets in the scratch memory.
struct ScratchLayout {
  ScratchLayout(size_t hidden, size_t middle, size_t experts, size_t rows)
      : words(AlignUp(3 * experts * sizeof(CUtensorMap))),
        x_rows(words + AlignUp((2 + 3 * experts) * sizeof(uint32_t))),
        middle_rows(x_rows + AlignUp(rows * hidden * 2)),
        bytes(middle_rows + AlignUp(rows * middle * 2)) {}
  size_t words;  // claimed, finished [experts], first_tiles [2 experts + 1]
  size_t x_rows;
  size_t middle_rows;
  size_t bytes;
};

PFN_cuTensorMapEncodeTiled_v12000 FindEncoder() {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result;
  if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault,
                                       &result) != cudaSuccess ||
      result != cudaDriverEntryPointSuccess) {
    return nullptr;
  }
  return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(found);
}

// A map of a row-major bf16 matrix [rows][k], read in boxes of box_rows x kBlock.
bool EncodeMap(void* data, size_t rows, size_t k, uint32_t box_rows, CUtensorMap* out) {
  static const PFN_cuTensorMapEncodeTiled_v12000 encode = FindEncoder();
  if (encode == nullptr) return false;
  const cuuint64_t dims[2] = {k, rows};
  const cuuint64_t strides[1] = {k * 2};
  const cuuint32_t box[2] = {kBlock, box_rows};
  const cuuint32_t steps[2] = {1, 1};
  return encode(out, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, data, dims, strides, box, steps,
                CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

// One call of moe_ffn_bf16.
struct Call {
  cudaStream_t stream;
  size_t hidden;
  size_t middle;
  const ExpertMatrices* weights;
  RowGroups groups;
  const float* x;
  uint8_t* scratch;
  float* y;
};

template <class T>
int LaunchTiles(const CUtensorMap& x_map, const CUtensorMap& middle_map, const TileArgs& args,
                cudaStream_t stream) {
  int device = 0;
  int multiprocessors = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  }
  if (error == cudaSuccess) {
    error = cudaFuncSetAttribute(TileKernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 T::kSharedBytes);
  }
  if (error != cudaSuccess) return error;
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim.x = T::kCluster;
  attributes[1].val.clusterDim.y = 1;
  attributes[1].val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(multiprocessors) / T::kCluster * T::kCluster);
  config.blockDim = dim3(T::kThreads);
  config.dynamicSmemBytes = T::kSharedBytes;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = T::kCluster > 1 ? 2 : 1;
  return cudaLaunchKernelEx(&config, TileKernel<T>, x_map, middle_map, args);
}

template <class T>
int Run(const Call& call) {
  const size_t experts = call.groups.experts;
  const size_t rows = call.groups.rows_max;
  const ScratchLayout layout(call.hidden, call.middle, experts, rows);
  uint8_t* const x_rows = call.scratch + layout.x_rows;
  uint8_t* const middle_rows = call.scratch + layout.middle_rows;
  // The address in the maps of weights is replaced on the device.
  CUtensorMap gate_map, down_map, x_map, middle_map;
  if (!EncodeMap(x_rows, call.middle, call.hidden, kBoxOutputs, &gate_map) ||
      !EncodeMap(x_rows, call.hidden, call.middle, kBoxOutputs, &down_map) ||
      !EncodeMap(x_rows, rows, call.hidden, T::kBoxRows, &x_map) ||
      !EncodeMap(middle_rows, rows, call.middle, T::kBoxRows, &middle_map)) {
    return cudaErrorNotSupported;
  }
  PrepareArgs prepare;
  prepare.weights = call.weights;
  prepare.offsets = call.groups.offsets;
  prepare.rows = call.groups.rows;
  prepare.x = call.x;
  prepare.weight_maps = reinterpret_cast<CUtensorMap*>(call.scratch);
  prepare.claimed = reinterpret_cast<uint32_t*>(call.scratch + layout.words);
  prepare.finished = prepare.claimed + 1;
  prepare.first_tiles = prepare.finished + experts;
  prepare.x_rows = reinterpret_cast<uint16_t*>(x_rows);
  prepare.experts = static_cast<uint32_t>(experts);
  prepare.hidden = static_cast<uint32_t>(call.hidden);
  prepare.tile_rows = T::kTileRows;
  prepare.gate_groups = CeilDiv(call.middle, T::kGateOutputs);
  prepare.down_groups = CeilDiv(call.hidden, T::kDownOutputs);
  const unsigned blocks = static_cast<unsigned>(std::max(rows, experts));
  PrepareKernel<<<blocks, 256, 0, call.stream>>>(gate_map, down_map, prepare);
  if (const int error = LaunchError(); error != 0) return error;

  TileArgs tiles;
  tiles.weight_maps = prepare.weight_maps;
  tiles.offsets = prepare.offsets;
  tiles.claimed = prepare.claimed;
  tiles.finished = prepare.finished;
  tiles.first_tiles = prepare.first_tiles;
  tiles.middle_rows = reinterpret_cast<uint16_t*>(middle_rows);
  tiles.y = call.y;
  tiles.experts = prepare.experts;
  tiles.hidden = prepare.hidden;
  tiles.middle = static_cast<uint32_t>(call.middle);
  return LaunchTiles<T>(x_map, middle_map, tiles, call.stream);
}

size_t MoeScratchBytes(size_t hidden, size_t middle, uint32_t experts, size_t rows_max) {
  return ScratchLayout(hidden, middle, experts, rows_max).bytes;
}

// Few rows: weights stream from memory, as many stages as fit, tiles of 64 outputs of down so that
// there is work for every multiprocessor. Many: two warpgroups and row tiles shared by two CTAs.
int MoeFfn(Stream stream, size_t hidden, size_t middle, const ExpertMatrices* experts,
           const RowGroups& groups, const float* x, void* scratch, float* y) {
  if (hidden == 0 || middle == 0 || hidden % kBlock != 0 || middle % kBlock != 0) {
    return cudaErrorInvalidValue;
  }
  if (groups.experts == 0 || groups.rows_max == 0 || groups.rows_of_expert_max == 0) return 0;
  const Call call = {
      StreamOf(stream), hidden, middle, experts, groups, x, static_cast<uint8_t*>(scratch), y};
  const uint32_t rows = groups.rows_of_expert_max;
  if (rows <= 8) return Run<Tiling<1, 8, 6, 2, 1>>(call);
  if (rows <= 16) return Run<Tiling<1, 16, 6, 2, 1>>(call);
  if (rows <= 32) return Run<Tiling<1, 32, 5, 2, 1>>(call);
  if (rows <= 64) return Run<Tiling<1, 64, 4, 2, 1>>(call);
  if (rows <= 128) return Run<Tiling<2, 128, 6, 1, 2>>(call);
  return Run<Tiling<2, 256, 4, 1, 2>>(call);
}

}  // namespace

void AddBf16Experts(CudaApi* api) {
  api->moe_scratch_bytes_bf16 = MoeScratchBytes;
  api->moe_ffn_bf16 = MoeFfn;
}

}  // namespace octet::cuda
