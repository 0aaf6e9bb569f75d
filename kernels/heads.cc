#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/dispatch.h"
#include "kernels/kernels.h"
#include "kernels/math.h"
#include "kernels/reference/reference.h"

namespace octet {
namespace {

// These functions take no context; every level gives the same bits, so the best one serves.
float MaxOf(absl::Span<const float> x) {
  const KernelTable* table = FastKernels(DetectCpuLevel());
  return table != nullptr ? table->max(x.data(), x.size()) : reference::Max(x.data(), x.size());
}

}  // namespace

TokenId ArgMax(absl::Span<const float> logits) {
  const float max = MaxOf(logits);
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] == max) return static_cast<TokenId>(i);
  }
  return 0;
}

float LogSumExp(absl::Span<const float> x) {
  const float max = MaxOf(x);
  // All -inf, or +inf among them: no difference can be taken. NaN still wins over both.
  if (std::isinf(max)) {
    for (const float v : x) {
      if (v != v) return v;
    }
    return max;
  }
  const KernelTable* table = FastKernels(DetectCpuLevel());
  const auto sum_exp = table != nullptr ? table->sum_exp : reference::SumExp;
  return max + LogF(sum_exp(x.data(), x.size(), max));
}

bool AllFinite(absl::Span<const float> x) {
  // The greatest magnitude as an integer tells; written without branches so that it vectorises.
  uint32_t greatest = 0;
  for (const float v : x) {
    uint32_t bits;
    std::memcpy(&bits, &v, 4);
    bits &= 0x7fffffff;
    greatest = bits > greatest ? bits : greatest;
  }
  return greatest < 0x7f800000;
}

}  // namespace octet
