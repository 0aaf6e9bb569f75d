#include "kernels/dispatch.h"

#include "core/check.h"

namespace octet {

const KernelTable* FastKernels(CpuLevel level) {
#if defined(__x86_64__)
  static const CpuLevel best = DetectCpuLevel();
  OCTET_CHECK(level <= best) << "this CPU lacks " << CpuLevelName(level);
  if (level == CpuLevel::kAmx) return &AmxKernels();
  if (level == CpuLevel::kAvx512) return &Avx512Kernels();
  if (level == CpuLevel::kAvx2) return &Avx2Kernels();
#endif
  return nullptr;
}

}  // namespace octet
