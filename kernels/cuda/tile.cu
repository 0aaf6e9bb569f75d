// From the host's panels to the device's layout (layout.h), and single rows of it as floats.
#include <cuda_fp16.h>

#include "kernels/cuda/int_kernels.h"
#include "kernels/cuda/layout.h"
#include "kernels/packed_weights.h"

namespace octet::cuda {
namespace {

constexpr unsigned kThreads = 256;

// One thread a 32-bit word of values.
__global__ void TileValues(WeightFormat format, PanelLayout from, TiledLayout to, uint32_t panels,
                           const uint8_t* packed, uint8_t* out) {
  const uint32_t words = static_cast<uint32_t>(to.value_bytes / 4);
  const size_t i = size_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const size_t all = (panels + kBlockPanels - 1) / kBlockPanels * kBlockPanels;
  if (i >= all * to.chunks * words) return;
  const size_t panel = i / (to.chunks * words);
  const bool padding = panel >= panels;
  const uint32_t chunk = static_cast<uint32_t>(i / words % to.chunks);
  const uint32_t word = static_cast<uint32_t>(i % words);
  const uint8_t* values = packed + panel * from.bytes + from.values;
  uint32_t bits = 0;
  if (format.bits == 4) {
    const uint32_t s = word % 4, lane = word / 4 % 32, half = word / 128;
    const uint32_t k = chunk * kChunk + 32 * s + 8 * (lane % 4);
    const uint32_t output = lane / 4 + 8 * half;
    if (!padding && k < from.padded_k) {
      bits = *reinterpret_cast<const uint32_t*>(values + k / 8 * 64 + output * 4) ^ 0x88888888u;
    }
  } else {
    const uint32_t h = word % 2, lane = word / 4 % 32, half = word / 256;
    const uint32_t s = word / 128 % 2 * 2 + word / 2 % 2;
    const uint32_t k = chunk * kChunk + 32 * s + 8 * (lane % 4) + 4 * h;
    const uint32_t output = lane / 4 + 8 * half;
    if (!padding && k < from.padded_k) {
      bits = *reinterpret_cast<const uint32_t*>(values + k / 4 * 64 + output * 4);
    }
  }
  reinterpret_cast<uint32_t*>(out + to.ChunkAt(panel, chunk))[word] = bits;
}

// One thread a (panel, group, output); groups and panels past the matrix get zeros.
__global__ void TileScales(WeightFormat format, PanelLayout from, TiledLayout to, uint32_t panels,
                           const uint8_t* packed, uint8_t* out) {
  const uint32_t per_chunk = static_cast<uint32_t>(kChunk / format.group);
  const uint32_t groups = static_cast<uint32_t>(to.chunks) * per_chunk;
  const size_t i = size_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const size_t all = (panels + kBlockPanels - 1) / kBlockPanels * kBlockPanels;
  if (i >= all * groups * kTileOutputs) return;
  const size_t panel = i / (groups * kTileOutputs);
  const bool padding = panel >= panels;
  const uint32_t group = static_cast<uint32_t>(i / kTileOutputs % groups);
  const uint32_t output = static_cast<uint32_t>(i % kTileOutputs);
  const bool present = !padding && group * format.group < from.padded_k;
  const uint8_t* source = packed + panel * from.bytes;
  uint8_t* scales = out + to.ChunkAt(panel, group / per_chunk) + to.value_bytes;
  const uint32_t index = group % per_chunk * kTileOutputs + output;
  if (format.scale == ScaleEncoding::kF32xI4) {
    scales[index] = present ? source[from.second + group * kTileOutputs + output] : 0;
    if (group == 0) {
      reinterpret_cast<float*>(out + to.ScalesAt(panel))[output] =
          padding ? 0.0f : reinterpret_cast<const float*>(source)[output];
    }
  } else {
    reinterpret_cast<uint16_t*>(scales)[index] =
        present ? reinterpret_cast<const uint16_t*>(source)[group * kTileOutputs + output] : 0;
  }
}

__global__ void ToRowMajor(size_t n, size_t k, size_t panel_bytes, const uint8_t* packed,
                           uint16_t* out) {
  const size_t i = size_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= n * k) return;
  const size_t row = i / k, column = i % k;
  const auto* panel = reinterpret_cast<const uint16_t*>(packed + row / kTileOutputs * panel_bytes);
  out[i] = panel[column * kTileOutputs + row % kTileOutputs];
}

size_t MatrixBytes(const WeightFormat& format, size_t n, size_t k) {
  if (format.scale == ScaleEncoding::kF32) return 0;
  size_t bytes = 0;
  switch (LayoutOf(format)) {
    case Layout::kPanels:
      bytes = PackedBytes(format, n, k);
      break;
    case Layout::kRowMajor:
      bytes = n * k * 2;
      break;
    case Layout::kTiled:
      bytes = TiledBlocks(n) * MakeTiledLayout(format, k).block_bytes;
      break;
  }
  return (bytes + 255) / 256 * 256;
}

int TileMatrix(Stream stream, const WeightFormat& format, size_t n, size_t k, const uint8_t* packed,
               uint8_t* out) {
  const PanelLayout from = MakePanelLayout(format, k);
  const cudaStream_t s = StreamOf(stream);
  switch (LayoutOf(format)) {
    case Layout::kPanels:
      return cudaMemcpyAsync(out, packed, PackedBytes(format, n, k), cudaMemcpyDeviceToDevice, s);
    case Layout::kRowMajor:
      ToRowMajor<<<CeilDiv(n * k, kThreads), kThreads, 0, s>>>(n, k, from.bytes, packed,
                                                               reinterpret_cast<uint16_t*>(out));
      return LaunchError();
    case Layout::kTiled:
      break;
  }
  const TiledLayout to = MakeTiledLayout(format, k);
  const auto panels = static_cast<uint32_t>(PanelCount(n));
  const size_t all = TiledBlocks(n) * kBlockPanels;
  const size_t words = all * to.chunks * (to.value_bytes / 4);
  TileValues<<<CeilDiv(words, kThreads), kThreads, 0, s>>>(format, from, to, panels, packed, out);
  const size_t scales = all * to.chunks * (kChunk / format.group) * kTileOutputs;
  TileScales<<<CeilDiv(scales, kThreads), kThreads, 0, s>>>(format, from, to, panels, packed, out);
  return LaunchError();
}

// The value of one weight, as UnpackRow of packed_weights.h.
__device__ float TiledWeight(const WeightFormat& format, const TiledLayout& tiled,
                             const uint8_t* data, size_t panel, uint32_t k, uint32_t output) {
  const uint32_t in = k % kChunk, s = in / 32, t = in / 8 % 4, h = in / 4 % 2, byte = in % 4;
  const uint32_t lane = output % 8 * 4 + t, half = output / 8;
  const uint8_t* chunk = data + tiled.ChunkAt(panel, k / kChunk);
  int code;
  if (format.bits == 4) {
    const int two = chunk[((half * 32 + lane) * 4 + s) * 4 + byte];
    code = static_cast<int8_t>(h == 0 ? two << 4 : two & 0xf0) >> 4;
  } else {
    const uint32_t word = ((half * 2 + s / 2) * 32 + lane) * 4 + s % 2 * 2 + h;
    code = static_cast<int8_t>(chunk[word * 4 + byte]);
  }
  const uint8_t* scales = chunk + tiled.value_bytes;
  const uint32_t index = in / format.group * kTileOutputs + output;
  if (format.scale == ScaleEncoding::kF32xI4) {
    const int factor = static_cast<int8_t>(scales[index]);
    return __fmul_rn(static_cast<float>(factor * code),
                     reinterpret_cast<const float*>(data + tiled.ScalesAt(panel))[output]);
  }
  return __fmul_rn(static_cast<float>(code),
                   __half2float(reinterpret_cast<const __half*>(scales)[index]));
}

__global__ void EmbedRowsKernel(Matrix table, PanelLayout panels, TiledLayout tiled,
                                const int32_t* ids, float* y) {
  const uint32_t row = static_cast<uint32_t>(ids[blockIdx.x]);
  float* out = y + size_t{blockIdx.x} * table.k;
  const Layout layout = LayoutOf(table.format);
  const uint32_t output = row % kTileOutputs;
  const size_t panel = row / kTileOutputs;
  for (uint32_t k = blockIdx.y * blockDim.x + threadIdx.x; k < table.k;
       k += gridDim.y * blockDim.x) {
    if (layout == Layout::kTiled) {
      out[k] = TiledWeight(table.format, tiled, table.data, panel, k, output);
    } else if (layout == Layout::kRowMajor) {
      const uint16_t bits = reinterpret_cast<const uint16_t*>(table.data)[row * table.k + k];
      out[k] = __uint_as_float(uint32_t{bits} << 16);
    } else {
      out[k] = PanelWeight(table.format, panels, table.data + panel * panels.bytes, k, output);
    }
  }
}

int EmbedRows(Stream stream, const Matrix& table, const int32_t* ids, size_t rows, float* y) {
  if (rows == 0) return 0;
  const bool tiled = LayoutOf(table.format) == Layout::kTiled;
  const dim3 grid(static_cast<unsigned>(rows), CeilDiv(table.k, 4 * kThreads));
  EmbedRowsKernel<<<grid, kThreads, 0, StreamOf(stream)>>>(
      table, MakePanelLayout(table.format, table.k),
      tiled ? MakeTiledLayout(table.format, table.k) : TiledLayout{}, ids, y);
  return LaunchError();
}

}  // namespace

void AddMatrices(CudaApi* api) {
  api->matrix_bytes = MatrixBytes;
  api->tile_matrix = TileMatrix;
  api->embed_rows = EmbedRows;
}

}  // namespace octet::cuda
