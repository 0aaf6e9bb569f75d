// Images of rows for int_wide.cuh, and the launches of both products of an expert.
#include "kernels/cuda/int_wide_calls.h"
#include "kernels/cuda/quantize.cuh"

namespace octet::cuda {
namespace {

constexpr unsigned kThreads = 256;

size_t AlignUp(size_t bytes) { return (bytes + 255) / 256 * 256; }
// Row tiles that `entries` rows of `experts` matrices can take.
size_t TilesMax(uint32_t experts, size_t entries) {
  return entries / kImageRows + (experts < entries ? experts : entries);
}
uint32_t ChunksOf(size_t padded_k) { return CeilDiv(padded_k, kChunk); }
// Activation group of an image's scales; 0 where one scale covers the row.
uint32_t ImageGroup(const WeightFormat& format) {
  return format.activation_group == kWholeRow ? 0 : format.activation_group;
}
uint32_t ScalesOf(uint32_t group) { return group == 0 ? 0 : static_cast<uint32_t>(kChunk) / group; }

// The expert and the first entry of row tile `tile`; false past the last.
struct TileRows {
  uint32_t first;
  uint32_t count;
};
__device__ bool FindTile(const EntryMap& map, uint32_t experts, uint32_t tile, TileRows* out) {
  uint32_t before = 0;
  for (uint32_t e = 0; e < experts; ++e) {
    const uint32_t begin = map.begin(e), end = map.end(e);
    const uint32_t tiles = (end - begin + kImageRows - 1) / kImageRows;
    if (tile < before + tiles) {
      out->first = begin + (tile - before) * kImageRows;
      out->count = min(end - out->first, kImageRows);
      return true;
    }
    before += tiles;
  }
  return false;
}

// Block (chunk, tile): gathers a tile of rows x 128 inputs and their scales.
__global__ void GatherImage(EntryMap map, uint32_t experts, QuantRows x, uint32_t scales_per_chunk,
                            uint8_t* image, float* row_scales) {
  TileRows tile;
  if (!FindTile(map, experts, blockIdx.y, &tile)) return;
  const uint32_t chunk = blockIdx.x;
  const size_t block_bytes = kImageRows * 128 + scales_per_chunk * kImageRows * 4;
  uint8_t* out = image + (size_t{blockIdx.y} * gridDim.x + chunk) * block_bytes;
  for (uint32_t i = threadIdx.x; i < kImageRows * 4; i += blockDim.x) {
    const uint32_t row = i / 4, step = i % 4;
    const uint32_t k = chunk * kChunk + step * 32;
    uint4 in[2] = {};
    if (row < tile.count && k < x.padded_k) {
      const auto* from =
          reinterpret_cast<const uint4*>(x.q + size_t{map.row(tile.first + row)} * x.padded_k + k);
      in[0] = from[0];
      in[1] = from[1];
    }
    auto* to = reinterpret_cast<uint4*>(out + row * 128);
    to[(2 * step) ^ (row % 8)] = make_uint4(in[0].x, in[0].z, in[1].x, in[1].z);
    to[(2 * step + 1) ^ (row % 8)] = make_uint4(in[0].y, in[0].w, in[1].y, in[1].w);
  }
  auto* scales = reinterpret_cast<float*>(out + kImageRows * 128);
  for (uint32_t i = threadIdx.x; i < scales_per_chunk * kImageRows; i += blockDim.x) {
    const uint32_t row = i % kImageRows, group = chunk * scales_per_chunk + i / kImageRows;
    const bool present = row < tile.count && group < x.groups;
    scales[i] = present ? x.scales[size_t{map.row(tile.first + row)} * x.groups + group] : 0.0f;
  }
  if (scales_per_chunk == 0 && chunk == 0) {
    for (uint32_t row = threadIdx.x; row < kImageRows; row += blockDim.x) {
      row_scales[blockIdx.y * kImageRows + row] =
          row < tile.count ? x.scales[map.row(tile.first + row)] : 0.0f;
    }
  }
}

// Block (row, tile): one middle row of floats, quantised with one scale, to its image.
__global__ void QuantizeToImage(EntryMap map, uint32_t experts, const float* h, uint32_t middle,
                                uint32_t chunks, uint8_t* image, float* row_scales) {
  __shared__ uint32_t greatest;
  TileRows tile;
  if (!FindTile(map, experts, blockIdx.y, &tile)) return;
  const uint32_t row = blockIdx.x;
  const float* x = h + size_t{tile.first + row} * middle;
  const uint32_t length = row < tile.count ? middle : 0;
  if (threadIdx.x == 0) greatest = 0;
  __syncthreads();
  uint32_t magnitude = 0;
  for (uint32_t k = threadIdx.x; k < length; k += blockDim.x) {
    magnitude = max(magnitude, MagnitudeBits(x[k]));
  }
  atomicMax(&greatest, magnitude);  // a maximum does not depend on the order
  __syncthreads();
  const GroupQuant quant = MakeGroupQuant(greatest);
  if (threadIdx.x == 0) row_scales[blockIdx.y * kImageRows + row] = length > 0 ? quant.scale : 0.0f;
  for (uint32_t k = threadIdx.x; k < chunks * kChunk; k += blockDim.x) {
    const int q = k < length ? QuantizeValue(quant, x[k]) : 0;
    uint8_t* block = image + (size_t{blockIdx.y} * chunks + k / kChunk) * (kImageRows * 128);
    block[ImageByte(row, k % kChunk)] = static_cast<uint8_t>(q);
  }
}

// Where the parts of an image lie: blocks, then row scales.
struct Image {
  uint8_t* blocks;
  float* row_scales;
  uint32_t chunks;
  uint32_t scales_per_chunk;
};
Image MakeImage(uint8_t* memory, uint32_t experts, size_t entries, size_t padded_k,
                uint32_t group) {
  Image out{memory, nullptr, ChunksOf(padded_k), ScalesOf(group)};
  const size_t block = kImageRows * 128 + out.scales_per_chunk * kImageRows * 4;
  out.row_scales =
      reinterpret_cast<float*>(memory + AlignUp(TilesMax(experts, entries) * out.chunks * block));
  return out;
}

int Blocks() {
  int device = 0, count = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  return count;
}

int Launch(cudaStream_t stream, const WeightFormat& format, const WideCall& call) {
  const auto blocks = static_cast<uint32_t>(Blocks());
  if (format.scale == ScaleEncoding::kF32xI4) {
    return LaunchWideW4x(format.group, stream, call, blocks);
  }
  return format.bits == 4 ? LaunchWideInt4(format.group, stream, call, blocks)
                          : LaunchWideInt8(format.group, stream, call, blocks);
}

WideShape ShapeOf(const Matrix& m, bool gate_up) {
  WideShape s;
  s.layout = MakeTiledLayout(m.format, m.k);
  s.gate_up = gate_up;
  s.n = static_cast<uint32_t>(m.n);
  s.panels = CeilDiv(m.n, kTileOutputs);
  s.output_tiles = CeilDiv(m.n, gate_up ? 128 : 256);
  s.chunks = static_cast<uint32_t>(s.layout.chunks);
  s.weight_groups = static_cast<uint32_t>(PaddedK(m.format, m.k) / m.format.group);
  return s;
}

int Gather(cudaStream_t stream, const EntryMap& map, uint32_t experts, size_t entries_max,
           const QuantRows& x, const Image& image) {
  const dim3 grid(image.chunks, static_cast<unsigned>(TilesMax(experts, entries_max)));
  GatherImage<<<grid, kThreads, 0, stream>>>(map, experts, x, image.scales_per_chunk, image.blocks,
                                             image.row_scales);
  return LaunchError();
}

}  // namespace

bool WideSupports(const WeightFormat& format) {
  static const bool hopper = [] {
    int device = 0, major = 0, minor = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    return major == 9 && minor == 0;
  }();
  return hopper && LayoutOf(format) == Layout::kTiled;
}

size_t WideImageBytes(const WeightFormat& format, uint32_t experts, size_t entries, size_t k) {
  const size_t tiles = TilesMax(experts, entries);
  const size_t block = kImageRows * 128 + ScalesOf(ImageGroup(format)) * kImageRows * 4;
  return AlignUp(tiles * ChunksOf(PaddedK(format, k)) * block) + AlignUp(tiles * kImageRows * 4);
}

int WideProduct(cudaStream_t stream, const MatrixSet& w, uint32_t experts, const EntryMap& map,
                uint32_t entries_max, const QuantRows& x, uint8_t* memory, float* y,
                size_t y_stride) {
  const Image image =
      MakeImage(memory, experts, entries_max, x.padded_k, ImageGroup(w.single.format));
  if (const int error = Gather(stream, map, experts, entries_max, x, image)) return error;
  WideCall call;
  call.w[0] = call.w[1] = w;
  call.shape = ShapeOf(w.single, false);
  call.experts = experts;
  call.map = map;
  call.image = image.blocks;
  call.row_scales = image.row_scales;
  call.y = y;
  call.y_stride = y_stride;
  return Launch(stream, w.single.format, call);
}

int WideExperts(cudaStream_t stream, const WideFfn& f) {
  const WeightFormat& gate = f.gate.single.format;
  const WeightFormat& down = f.down.single.format;
  const Image image = MakeImage(f.image, f.experts, f.entries_max, f.x.padded_k, ImageGroup(gate));
  if (const int error = Gather(stream, f.map, f.experts, f.entries_max, f.x, image)) return error;
  const size_t middle = f.down.single.k;
  const Image hidden =
      MakeImage(f.middle_image, f.experts, f.entries_max, PaddedK(down, middle), ImageGroup(down));
  WideCall call;
  call.w[0] = f.gate;
  call.w[1] = f.up;
  call.shape = ShapeOf(f.gate.single, true);
  call.experts = f.experts;
  call.map = f.map;
  call.image = image.blocks;
  call.row_scales = image.row_scales;
  if (ImageGroup(down) != 0) {
    call.middle_image = hidden.blocks;
    call.middle_chunks = hidden.chunks;
    call.middle_group = ImageGroup(down);
  } else {
    call.y = f.h;
    call.y_stride = middle;
  }
  if (const int error = Launch(stream, gate, call)) return error;
  if (ImageGroup(down) == 0) {
    const dim3 grid(kImageRows, static_cast<unsigned>(TilesMax(f.experts, f.entries_max)));
    QuantizeToImage<<<grid, kThreads, 0, stream>>>(f.map, f.experts, f.h,
                                                   static_cast<uint32_t>(middle), hidden.chunks,
                                                   hidden.blocks, hidden.row_scales);
    if (const int error = LaunchError()) return error;
  }
  call = WideCall{};
  call.w[0] = call.w[1] = f.down;
  call.shape = ShapeOf(f.down.single, false);
  call.experts = f.experts;
  call.map = f.map;
  call.image = hidden.blocks;
  call.row_scales = hidden.row_scales;
  call.y = f.y;
  call.y_stride = f.down.single.n;
  return Launch(stream, down, call);
}

}  // namespace octet::cuda
