// GGUF blocks to panels. Each decoder turns one block of one row into codes and scales; the
// formulas are those of the GGUF v3 block formats.
#include <cstring>

#include "absl/strings/str_cat.h"
#include "core/check.h"
#include "kernels/packed_weights.h"
#include "kernels/panel_layout.h"

namespace octet {
namespace {

// One block: what a row contributes to one run of `values` weights.
struct Block {
  uint8_t codes[kSuperBlock];
  uint16_t d = 0;              // f16
  uint16_t m = 0;              // f16: minimum, or dmin
  uint8_t factors[16] = {};    // u6 or i8
  uint8_t m_factors[16] = {};  // u6
};

uint16_t LoadU16(const uint8_t* p) {
  uint16_t v;
  std::memcpy(&v, p, 2);
  return v;
}

// Low nibbles are elements 0..15, high ones 16..31; with `fifth` the fifth bits.
void DecodeNibbles32(const uint8_t* qs, uint32_t fifth, uint8_t* codes) {
  for (int j = 0; j < 16; ++j) {
    codes[j] = static_cast<uint8_t>((qs[j] & 15) | (fifth >> j & 1) << 4);
    codes[j + 16] = static_cast<uint8_t>((qs[j] >> 4) | (fifth >> (j + 16) & 1) << 4);
  }
}

void DecodeBlock32(const WeightFormat& format, const uint8_t* p, Block* out) {
  out->d = LoadU16(p);
  p += 2;
  if (format.minimum) {
    out->m = LoadU16(p);
    p += 2;
  }
  if (format.bits == 8) {
    std::memcpy(out->codes, p, 32);
    return;
  }
  uint32_t fifth = 0;
  if (format.bits == 5) {
    std::memcpy(&fifth, p, 4);
    p += 4;
  }
  DecodeNibbles32(p, fifth, out->codes);
}

// Q4_K and Q5_K: eight 6-bit (scale, minimum) pairs in 12 bytes, then per 64 values 32 bytes.
void DecodeBlockU6(const WeightFormat& format, const uint8_t* p, Block* out) {
  out->d = LoadU16(p);
  out->m = LoadU16(p + 2);
  const uint8_t* s = p + 4;
  for (int j = 0; j < 4; ++j) {
    out->factors[j] = s[j] & 63;
    out->m_factors[j] = s[j + 4] & 63;
    out->factors[j + 4] = static_cast<uint8_t>((s[j + 8] & 15) | (s[j] >> 6) << 4);
    out->m_factors[j + 4] = static_cast<uint8_t>((s[j + 8] >> 4) | (s[j + 4] >> 6) << 4);
  }
  const uint8_t* qh = p + 16;
  const uint8_t* qs = format.bits == 5 ? p + 48 : p + 16;
  for (int i = 0; i < 4; ++i) {
    for (int l = 0; l < 32; ++l) {
      const int high = format.bits == 5 ? qh[l] >> (2 * i) : 0;
      const uint8_t q = qs[32 * i + l];
      out->codes[64 * i + l] = static_cast<uint8_t>((q & 15) | (high & 1) << 4);
      out->codes[64 * i + 32 + l] = static_cast<uint8_t>((q >> 4) | (high >> 1 & 1) << 4);
    }
  }
}

// Q6_K: low nibbles, then pairs of high bits, then i8 factors of groups of 16.
void DecodeBlockI8(const uint8_t* p, Block* out) {
  for (int half = 0; half < 2; ++half) {
    const uint8_t* ql = p + 64 * half;
    const uint8_t* qh = p + 128 + 32 * half;
    uint8_t* codes = out->codes + 128 * half;
    for (int l = 0; l < 32; ++l) {
      codes[l] = static_cast<uint8_t>((ql[l] & 15) | (qh[l] & 3) << 4);
      codes[l + 32] = static_cast<uint8_t>((ql[l + 32] & 15) | (qh[l] >> 2 & 3) << 4);
      codes[l + 64] = static_cast<uint8_t>((ql[l] >> 4) | (qh[l] >> 4 & 3) << 4);
      codes[l + 96] = static_cast<uint8_t>((ql[l + 32] >> 4) | (qh[l] >> 6) << 4);
    }
  }
  std::memcpy(out->factors, p + 192, 16);
  out->d = LoadU16(p + 208);
}

void PutBlock(const WeightFormat& format, const PanelLayout& layout, const Block& block,
              size_t values, size_t k_begin, size_t lane, uint8_t* panel) {
  uint8_t* second = panel + layout.second;
  const size_t super = k_begin / kSuperBlock;
  const size_t group = k_begin / format.group;
  switch (format.scale) {
    case ScaleEncoding::kF16:
      std::memcpy(panel + (group * 16 + lane) * 2, &block.d, 2);
      if (format.minimum) std::memcpy(second + (group * 16 + lane) * 2, &block.m, 2);
      break;
    case ScaleEncoding::kF16xU6:
      std::memcpy(panel + super * 64 + lane * 2, &block.d, 2);
      std::memcpy(panel + super * 64 + 32 + lane * 2, &block.m, 2);
      for (size_t g = 0; g < values / format.group; ++g) {
        second[(group + g) * 32 + lane] = block.factors[g];
        second[(group + g) * 32 + 16 + lane] = block.m_factors[g];
      }
      break;
    case ScaleEncoding::kF16xI8:
      std::memcpy(panel + super * 32 + lane * 2, &block.d, 2);
      for (size_t g = 0; g < values / format.group; ++g) {
        second[(group + g) * 16 + lane] = block.factors[g];
      }
      break;
    case ScaleEncoding::kF32xI4:
    case ScaleEncoding::kNone:
    case ScaleEncoding::kF32:
      OCTET_CHECK(false) << "no GGUF format has this scale encoding";
  }
  for (size_t i = 0; i < values; ++i) {
    SetCode(format, panel + layout.values, k_begin + i, lane, block.codes[i]);
  }
}

struct BlockShape {
  size_t values = 0;  // 0: GGUF has no such format
  size_t bytes = 0;
};

BlockShape GgufBlockShape(const WeightFormat& format) {
  switch (format.kind) {
    case WeightKind::kF32:
      return {1, 4};
    case WeightKind::kF16:
    case WeightKind::kBF16:
      return {1, 2};
    case WeightKind::kInt:
      break;
  }
  switch (format.scale) {
    case ScaleEncoding::kF16: {
      if (format.group != 32) return {};
      const size_t scales = format.minimum ? 4 : 2;
      return {32, scales + 4 * static_cast<size_t>(format.bits)};
    }
    case ScaleEncoding::kF16xU6:
      return {256, format.bits == 5 ? size_t{176} : size_t{144}};
    case ScaleEncoding::kF16xI8:
      return {256, 210};
    case ScaleEncoding::kF32xI4:
    case ScaleEncoding::kNone:
    case ScaleEncoding::kF32:
      return {};
  }
  return {};
}

void PackFloatKind(const WeightFormat& format, size_t k, const uint8_t* row, size_t lane,
                   uint8_t* panel) {
  const size_t bytes = FloatWeightBytes(format);
  for (size_t i = 0; i < k; ++i) {
    std::memcpy(panel + (i * kPanelOutputs + lane) * bytes, row + i * bytes, bytes);
  }
}

}  // namespace

size_t GgufRowBytes(const WeightFormat& format, size_t k) {
  const BlockShape shape = GgufBlockShape(format);
  return shape.values == 0 ? 0 : k / shape.values * shape.bytes;
}

absl::Status PackGgufBlocks(const WeightFormat& format, size_t n, size_t k, const uint8_t* blocks,
                            uint8_t* out) {
  const BlockShape shape = GgufBlockShape(format);
  if (shape.values == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("GGUF has no weight format \"", WeightFormatName(format), "\""));
  }
  if (k % shape.values != 0) {
    return absl::InvalidArgumentError(absl::StrCat("row of ", k, " weights is not a multiple of ",
                                                   shape.values, ", the block of ",
                                                   WeightFormatName(format)));
  }
  const PanelLayout layout = MakePanelLayout(format, k);
  std::memset(out, 0, PanelCount(n) * layout.bytes);
  const size_t row_bytes = GgufRowBytes(format, k);
  for (size_t row = 0; row < n; ++row) {
    const uint8_t* source = blocks + row * row_bytes;
    uint8_t* panel = out + row / kPanelOutputs * layout.bytes;
    const size_t lane = row % kPanelOutputs;
    if (!format.is_integer()) {
      PackFloatKind(format, k, source, lane, panel);
      continue;
    }
    for (size_t begin = 0; begin < k; begin += shape.values, source += shape.bytes) {
      Block block;
      if (format.scale == ScaleEncoding::kF16) {
        DecodeBlock32(format, source, &block);
      } else if (format.scale == ScaleEncoding::kF16xU6) {
        DecodeBlockU6(format, source, &block);
      } else {
        DecodeBlockI8(source, &block);
      }
      PutBlock(format, layout, block, shape.values, begin, lane, panel);
    }
  }
  return absl::OkStatus();
}

}  // namespace octet
