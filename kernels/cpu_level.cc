#include "absl/strings/str_cat.h"
#include "kernels/exec_context.h"

namespace octet {

absl::StatusOr<CpuLevel> CpuLevelFromName(absl::string_view name) {
  const CpuLevel best = DetectCpuLevel();
  CpuLevel level = best;
  if (name == "scalar") {
    level = CpuLevel::kScalar;
  } else if (name == "avx2") {
    level = CpuLevel::kAvx2;
  } else if (name == "avx512") {
    level = CpuLevel::kAvx512;
  } else if (name == "amx") {
    level = CpuLevel::kAmx;
  } else if (name != "auto") {
    return absl::InvalidArgumentError(absl::StrCat("unknown instruction set \"", name,
                                                   "\"; allowed: auto, scalar, avx2, avx512, amx"));
  }
  if (level > best) {
    return absl::UnimplementedError(absl::StrCat("this CPU lacks the instruction set \"", name,
                                                 "\"; the best it has is \"", CpuLevelName(best),
                                                 "\""));
  }
  return level;
}

std::string CpuLevelName(CpuLevel level) {
  switch (level) {
    case CpuLevel::kScalar:
      return "scalar";
    case CpuLevel::kAvx2:
      return "avx2";
    case CpuLevel::kAvx512:
      return "avx512";
    case CpuLevel::kAmx:
      return "amx";
  }
  return "unknown";
}

}  // namespace octet
