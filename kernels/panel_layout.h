// Where the parts of a panel lie (see packed_weights.h). Internal to kernels/.
#ifndef OCTET_KERNELS_PANEL_LAYOUT_H_
#define OCTET_KERNELS_PANEL_LAYOUT_H_

#include <cstddef>
#include <cstdint>

#include "core/weight_format.h"

namespace octet {

inline constexpr size_t kPanelOutputs = 16;
// Weights along K that share the f16 factors of the two-level scale encodings.
inline constexpr size_t kSuperBlock = 256;

// Byte offsets inside one panel. The first section starts at 0; `second` is the minima (kF16), the
// u6 pairs (kF16xU6) or the i8 factors (kF16xI8, kF32xI4).
struct PanelLayout {
  size_t padded_k = 0;
  size_t second = 0;
  size_t values = 0;
  size_t bytes = 0;
};

PanelLayout MakePanelLayout(const WeightFormat& format, size_t k);
inline size_t PanelCount(size_t n) { return (n + kPanelOutputs - 1) / kPanelOutputs; }

// Bytes of one weight of a float kind.
inline size_t FloatWeightBytes(const WeightFormat& format) {
  return format.kind == WeightKind::kF32 ? 4 : 2;
}

// The byte that holds element (k, lane) of a value area, and for 4 bits which nibble.
inline size_t CodeByte(bool nibbles, size_t k, size_t lane) {
  return nibbles ? k / 8 * 64 + lane * 4 + k % 4 : k / 4 * 64 + lane * 4 + k % 4;
}
inline int CodeShift(bool nibbles, size_t k) { return nibbles && k % 8 >= 4 ? 4 : 0; }

// The stored code of element (k, lane): unsigned, or signed where bits = 8 and offset = 0.
inline int GetCode(const WeightFormat& format, const uint8_t* values, size_t k, size_t lane) {
  if (format.bits == 4) return values[CodeByte(true, k, lane)] >> CodeShift(true, k) & 15;
  const uint8_t byte = values[CodeByte(false, k, lane)];
  return format.bits == 8 && format.offset == 0 ? static_cast<int8_t>(byte) : byte;
}
// Adds the bits of a code to a value area that is zero there.
inline void SetCode(const WeightFormat& format, uint8_t* values, size_t k, size_t lane, int code) {
  if (format.bits == 4) {
    values[CodeByte(true, k, lane)] |= static_cast<uint8_t>(code << CodeShift(true, k));
  } else {
    values[CodeByte(false, k, lane)] = static_cast<uint8_t>(code);
  }
}

// Scale and minimum of a weight group as floats: w = (q - offset) * scale + minimum.
struct GroupScale {
  float scale = 0;
  float minimum = 0;
};
GroupScale GetGroupScale(const WeightFormat& format, const PanelLayout& layout,
                         const uint8_t* panel, size_t group_index, size_t lane);

// kF32xI4: w = float(factor * (q - offset)) * scale.
inline float GetW4xScale(const uint8_t* panel, size_t lane) {
  float scale;
  __builtin_memcpy(&scale, panel + 4 * lane, 4);
  return scale;
}
inline int GetW4xFactor(const PanelLayout& layout, const uint8_t* panel, size_t group_index,
                        size_t lane) {
  return static_cast<int8_t>(panel[layout.second + group_index * kPanelOutputs + lane]);
}

}  // namespace octet

#endif  // OCTET_KERNELS_PANEL_LAYOUT_H_
