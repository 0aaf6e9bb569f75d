#include "kernels/exec_context.h"

namespace octet {

// In place of kernels/detect_level.cc.
CpuLevel DetectCpuLevel() {
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return avx2 ? CpuLevel::kAmx : CpuLevel::kScalar;
}

}  // namespace octet
