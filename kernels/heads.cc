#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels/dispatch.h"
#include "kernels/kernels.h"
#include "kernels/math.h"
#include "kernels/reference/reference.h"

namespace octet {
namespace {

// These functions take no context; every level gives the same bits, so the best one serves. Looked
// up once: asking the CPU costs more than a row of logits where a hypervisor answers.
const KernelTable* Table() {
  static const KernelTable* const table = FastKernels(DetectCpuLevel());
  return table;
}

float MaxOf(const float* x, size_t n) {
  const KernelTable* table = Table();
  return table != nullptr ? table->max(x, n) : reference::Max(x, n);
}

// Of a fixed number, without branches, so that it vectorises.
constexpr size_t kFiniteStep = 64;
bool StepFinite(const float* x) {
  // A number less itself is zero; an infinity or a NaN gives a NaN.
  uint32_t bits = 0;
  for (size_t i = 0; i < kFiniteStep; ++i) bits |= std::bit_cast<uint32_t>(x[i] - x[i]);
  return bits == 0;
}

bool Finite(const float* x, size_t n) {
  bool finite = true;
  size_t i = 0;
  for (; i + kFiniteStep <= n; i += kFiniteStep) finite &= StepFinite(x + i);
  for (; i < n; ++i) finite &= x[i] - x[i] == 0.0f;
  return finite;
}

// In pieces that stay in the first-level cache, so that only the one with the greatest value is
// looked through for its place.
template <bool kCheckFinite>
LogitScan Scan(absl::Span<const float> x) {
  constexpr size_t kPiece = 1024;
  LogitScan scan;
  float max = -std::numeric_limits<float>::infinity();
  size_t from = 0;
  for (size_t at = 0; at < x.size(); at += kPiece) {
    const size_t n = std::min(kPiece, x.size() - at);
    if (kCheckFinite) scan.finite &= Finite(x.data() + at, n);
    const float greatest = MaxOf(x.data() + at, n);
    if (greatest > max) {
      max = greatest;
      from = at;
    }
  }
  const auto found = std::find(x.begin() + static_cast<ptrdiff_t>(from), x.end(), max);
  if (found != x.end()) scan.best = static_cast<TokenId>(found - x.begin());
  return scan;
}

}  // namespace

TokenId ArgMax(absl::Span<const float> logits) { return Scan<false>(logits).best; }

LogitScan ScanLogits(absl::Span<const float> logits) { return Scan<true>(logits); }

bool AllFinite(absl::Span<const float> x) { return Finite(x.data(), x.size()); }

void PieceMaxima(absl::Span<const float> x, size_t piece, float* out) {
  for (size_t at = 0; at < x.size(); at += piece) {
    *out++ = MaxOf(x.data() + at, std::min(piece, x.size() - at));
  }
}

void ExpScaled(absl::Span<const float> x, float max, float divisor, float* out) {
  if (const KernelTable* table = Table(); table != nullptr) {
    table->exp_scaled(x.data(), x.size(), max, divisor, out);
    return;
  }
  for (size_t i = 0; i < x.size(); ++i) out[i] = ExpF((x[i] - max) / divisor);
}

float LogSumExp(absl::Span<const float> x) {
  const float max = MaxOf(x.data(), x.size());
  // All -inf, or +inf among them: no difference can be taken. NaN still wins over both.
  if (std::isinf(max)) {
    for (const float v : x) {
      if (v != v) return v;
    }
    return max;
  }
  const KernelTable* table = Table();
  const auto sum_exp = table != nullptr ? table->sum_exp : reference::SumExp;
  return max + LogF(sum_exp(x.data(), x.size(), max));
}

}  // namespace octet
