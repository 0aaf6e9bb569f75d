// Weights of one matrix in the canonical CPU layout, which serves every x86 level.
//
// A matrix W [n, k] (n outputs, row-major in its source) becomes ceil(n / 16) panels of 16 outputs,
// each a scale area followed by a value area, both multiples of 64 bytes:
//   float kinds: values only, [k][16] elements.
//   integer kinds: k is padded with zero weights to a whole activation group. Values are stored in
//   4 bits where
//     format.bits = 4, else in 8: as unsigned codes q, or as signed int8 where format.bits = 8 and
//     offset = 0. 8 bits: [k/4][16][4] bytes. 4 bits: [k/8][16][4] bytes, byte (j, n, i) holding
//     element k = 8j+i in its low and k = 8j+4+i in its high nibble. Scale area, kF16:
//     [k/group][16] f16 scales, then with a minimum [k/group][16] f16 minima. kF16xU6: per 256 of
//     k: [16] f16 d, [16] f16 dmin; then per group [16] u8 sc, [16] u8 m. kF16xI8: per 256: [16]
//     f16 d; then per group [16] i8 sc. kF32xI4: [16] f32 scales, then [k/group][16] i8 factors.
//     Each of these sections starts on a 64-byte boundary.
// Outputs past n are zero and never written to a result.
#ifndef OCTET_KERNELS_PACKED_WEIGHTS_H_
#define OCTET_KERNELS_PACKED_WEIGHTS_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "core/tensor_view.h"
#include "core/weight_format.h"

namespace octet {

// Opaque view. The memory (64-byte aligned, PackedBytes long) belongs to someone else, usually a
// file mapping, and outlives the view.
struct PackedWeights {
  WeightFormat format;
  size_t n = 0;  // outputs
  size_t k = 0;  // inputs, before padding
  const uint8_t* data = nullptr;
  Device device;
};

// k rounded up to a whole activation group, which may be the row itself: then to a whole weight
// group (integer kinds); k itself (float kinds).
size_t PaddedK(const WeightFormat& format, size_t k);
// Activations of a row of k that share a scale: PaddedK where that is all of them; 0 for float
// kinds.
size_t ActivationGroup(const WeightFormat& format, size_t k);
// INVALID_ARGUMENT where an integer sum over k inputs could leave 32 bits (kF32xI4 only).
absl::Status CheckInputs(const WeightFormat& format, size_t k);
// Bytes of a packed matrix; a multiple of 64. Callers bound n and k (core/limits.h) so that it
// cannot overflow.
size_t PackedBytes(const WeightFormat& format, size_t n, size_t k);

// Where the floats of an integer matrix lie, scales and minima: the first `bytes` of each panel.
// Both sizes are multiples of 64.
struct ScaleAreas {
  size_t bytes = 0;
  size_t panels = 0;
  size_t stride = 0;  // from one panel to the next
};
ScaleAreas ScaleAreasOf(const PackedWeights& w);

// Rounds (float kinds, to nearest even) or quantises (integer kinds of own packs: "int4*", "int8*",
// "q8_0", "q4_0", "w4x*") f32 weights [n, k] and packs them into `out` (PackedBytes long, 64-byte
// aligned). INVALID_ARGUMENT names a format that has no quantiser here, weights that are NaN or
// infinite, and k that CheckInputs refuses. int8: scale = absmax/127; int4: scale chosen among
// candidates around absmax/7.. to minimise the squared error of the group; w4x: as
// docs/numerics.md says. Deterministic.
absl::Status PackFloatWeights(const WeightFormat& format, MatrixView<const float> w, uint8_t* out);

// Packs GGUF blocks ("q8_0" .. "q6_k" and float kinds), row-major [n][k / block] as they stand in a
// file, without loss: every code, scale and minimum is kept. k must be a multiple of the format's
// block (32, or 256 for the k-quants).
absl::Status PackGgufBlocks(const WeightFormat& format, size_t n, size_t k, const uint8_t* blocks,
                            uint8_t* out);
// Bytes of one row of `k` weights as GGUF blocks of this format; 0 where GGUF has no such format.
size_t GgufRowBytes(const WeightFormat& format, size_t k);

// The float values of output row `row`: out[0..k). Integer kinds: float(q - offset) * w_scale, then
// + minimum, each rounded once; kF32xI4: float(factor * (q - offset)) * scale. Equals the public
// reference decoding of the GGUF formats bit for bit.
void UnpackRow(const PackedWeights& w, size_t row, float* out);

// The weights of a bf16 matrix as they stood in their source: row-major, out[n][k].
void UnpackBf16(const PackedWeights& w, uint16_t* out);

// IEEE half and bfloat16 conversions used by all formats (round to nearest even).
float F16ToF32(uint16_t h);
uint16_t F32ToF16(float f);
inline float BF16ToF32(uint16_t b) {
  const uint32_t bits = static_cast<uint32_t>(b) << 16;
  float f;
  __builtin_memcpy(&f, &bits, 4);
  return f;
}
uint16_t F32ToBF16(float f);

}  // namespace octet

#endif  // OCTET_KERNELS_PACKED_WEIGHTS_H_
