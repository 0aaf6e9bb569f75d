#include "core/weight_format.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/check.h"

namespace octet {
namespace {

struct NamedFormat {
  const char* name;
  WeightFormat format;
};

constexpr WeightFormat Int(uint8_t bits, uint8_t offset, uint16_t group, uint16_t activation_group,
                           ScaleEncoding scale, bool minimum) {
  return {WeightKind::kInt, bits, offset, group, activation_group, scale, minimum};
}

const std::vector<NamedFormat>& Formats() {
  static const auto& formats = *new std::vector<NamedFormat>{
      {"f32", {WeightKind::kF32, 32, 0, 0, 0, ScaleEncoding::kNone, false}},
      {"f16", {WeightKind::kF16, 16, 0, 0, 0, ScaleEncoding::kNone, false}},
      {"bf16", {WeightKind::kBF16, 16, 0, 0, 0, ScaleEncoding::kNone, false}},
      // A pair whose encodings coincide (q8_0 and int8g32, q4_0 and int4g32) has one entry that
      // names it when it is printed: the first. The arithmetic is the same.
      {"q8_0", Int(8, 0, 32, 32, ScaleEncoding::kF16, false)},
      {"q4_0", Int(4, 8, 32, 32, ScaleEncoding::kF16, false)},
      {"q4_1", Int(4, 0, 32, 32, ScaleEncoding::kF16, true)},
      {"q5_0", Int(5, 16, 32, 32, ScaleEncoding::kF16, false)},
      {"q5_1", Int(5, 0, 32, 32, ScaleEncoding::kF16, true)},
      {"q4_k", Int(4, 0, 32, 32, ScaleEncoding::kF16xU6, true)},
      {"q5_k", Int(5, 0, 32, 32, ScaleEncoding::kF16xU6, true)},
      {"q6_k", Int(6, 32, 16, 32, ScaleEncoding::kF16xI8, false)},
      {"int8g32", Int(8, 0, 32, 32, ScaleEncoding::kF16, false)},
      {"int8g64", Int(8, 0, 64, 64, ScaleEncoding::kF16, false)},
      {"int8g128", Int(8, 0, 128, 128, ScaleEncoding::kF16, false)},
      {"int4g32", Int(4, 8, 32, 32, ScaleEncoding::kF16, false)},
      {"int4g64", Int(4, 8, 64, 64, ScaleEncoding::kF16, false)},
      {"int4g128", Int(4, 8, 128, 128, ScaleEncoding::kF16, false)},
      {"w4xg32", Int(4, 8, 32, kWholeRow, ScaleEncoding::kF32xI4, false)},
      {"w4xg64", Int(4, 8, 64, kWholeRow, ScaleEncoding::kF32xI4, false)},
      {"w4xg128", Int(4, 8, 128, kWholeRow, ScaleEncoding::kF32xI4, false)},
  };
  return formats;
}

}  // namespace

absl::StatusOr<WeightFormat> WeightFormatFromName(absl::string_view name) {
  std::vector<std::string> known;
  for (const NamedFormat& f : Formats()) {
    if (name == f.name) return f.format;
    known.push_back(f.name);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown weight format \"", name, "\"; known: ", absl::StrJoin(known, ", ")));
}

std::string WeightFormatName(const WeightFormat& format) {
  const auto& formats = Formats();
  const auto it = std::find_if(formats.begin(), formats.end(),
                               [&](const NamedFormat& f) { return f.format == format; });
  OCTET_CHECK(it != formats.end());
  return it->name;
}

}  // namespace octet
