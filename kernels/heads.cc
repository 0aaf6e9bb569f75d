#include <cmath>

#include "kernels/kernels.h"
#include "kernels/reference/reference.h"

namespace octet {

TokenId ArgMax(absl::Span<const float> logits) { return reference::ArgMax(logits); }

float LogSumExp(absl::Span<const float> x) { return reference::LogSumExp(x); }

bool AllFinite(absl::Span<const float> x) {
  for (const float v : x) {
    if (!std::isfinite(v)) return false;
  }
  return true;
}

}  // namespace octet
