// How the weights of one matrix are encoded. The arithmetic of each field is fixed in
// docs/numerics.md; a WeightFormat is part of the compute digest.
#ifndef OCTET_CORE_WEIGHT_FORMAT_H_
#define OCTET_CORE_WEIGHT_FORMAT_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace octet {

enum class WeightKind : uint8_t { kF32, kF16, kBF16, kInt };

// Where the scale (and minimum) of a weight group comes from.
enum class ScaleEncoding : uint8_t {
  kNone,    // floating-point weights
  kF16,     // one f16 per group
  kF32,     // one f32 per group
  kF16xU6,  // f16 per 256 weights times an unsigned 6-bit factor per group (Q4_K, Q5_K)
  kF16xI8,  // f16 per 256 weights times an int8 factor per group (Q6_K)
  kF32xI4,  // f32 per output times an integer factor from -15 to 15 per group (w4x)
};

// An activation group that is the whole row, padded to whole weight groups.
inline constexpr uint16_t kWholeRow = 0xffff;

// kInt: the value of a weight is w = (q - offset) * scale [+ minimum], q unsigned of `bits` bits
// (bits = 8, offset = 0: q is signed int8 instead).
struct WeightFormat {
  WeightKind kind = WeightKind::kF32;
  uint8_t bits = 32;
  uint8_t offset = 0;
  // Weights along K that share a scale; 0 for floating-point kinds.
  uint16_t group = 0;
  // Activations along K that share a scale, a multiple of `group`, or kWholeRow; 0 for
  // floating-point kinds, whose activations stay f32.
  uint16_t activation_group = 0;
  ScaleEncoding scale = ScaleEncoding::kNone;
  bool minimum = false;

  bool is_integer() const { return kind == WeightKind::kInt; }
  friend bool operator==(const WeightFormat&, const WeightFormat&) = default;
};

// Named formats: "f32" "f16" "bf16"; GGUF's "q8_0" "q4_0" "q4_1" "q5_0" "q5_1" "q4_k" "q5_k"
// "q6_k"; own packs "int4g32" "int4g64" "int4g128" "int8g32" "int8g64" "int8g128" (f16 scales,
// symmetric; int4 has offset 8) and "w4xg32" "w4xg64" "w4xg128" (all of K summed as integers).
// INVALID_ARGUMENT names the unknown format and lists the known ones.
absl::StatusOr<WeightFormat> WeightFormatFromName(absl::string_view name);
// Inverse of WeightFormatFromName. Formats without a name are a CHECK failure.
std::string WeightFormatName(const WeightFormat& format);

}  // namespace octet

#endif  // OCTET_CORE_WEIGHT_FORMAT_H_
