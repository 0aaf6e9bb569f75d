#include "router/micro_batch_policy.h"

#include <algorithm>
#include <bit>

namespace octet {
namespace {

// Steps that each mode is tried for before they are compared.
constexpr uint32_t kTrialSteps = 4;
// Every so many steps of the better mode, the other is tried once.
constexpr uint32_t kRetryEvery = 64;
// A mode must be so much faster to replace the present one.
constexpr double kMargin = 0.97;
// Weight of the newest step; a step counts for at most so many times the mean (a worker died, the
// machine was busy).
constexpr double kForget = 0.2;
constexpr double kOutlier = 2.0;

}  // namespace

uint32_t MicroBatchPolicy::Choose(bool prefill, size_t rows) {
  chosen_ = nullptr;
  if (rows < 2) return 1;
  if (fixed_ != 0) return fixed_;
  const auto row_class = std::min<size_t>(std::bit_width(rows), kRowClasses) - 1;
  chosen_ = &kinds_[prefill ? 1 : 0][row_class];
  rows_ = rows;
  Kind& kind = *chosen_;
  mode_ = kind.best;
  for (uint32_t mode = 0; mode < 2; ++mode) {
    if (kind.modes[mode].seen < kTrialSteps) {
      mode_ = mode;
      return mode_ + 1;
    }
  }
  if (++kind.steps > kRetryEvery) {
    kind.steps = 0;
    mode_ = 1 - kind.best;
  }
  return mode_ + 1;
}

void MicroBatchPolicy::Observe(double ms) {
  if (chosen_ == nullptr || ms <= 0) return;
  Kind& kind = *chosen_;
  Mode& mode = kind.modes[mode_];
  const double per_row = ms / static_cast<double>(rows_);
  // The first step of a kind pays for cold memory.
  if (mode.seen <= 1) {
    mode.ms_per_row = per_row;
  } else {
    const double bounded = std::min(per_row, kOutlier * mode.ms_per_row);
    mode.ms_per_row += kForget * (bounded - mode.ms_per_row);
  }
  ++mode.seen;
  const uint32_t other = 1 - kind.best;
  const bool known = kind.modes[0].seen >= kTrialSteps && kind.modes[1].seen >= kTrialSteps;
  if (known && kind.modes[other].ms_per_row < kMargin * kind.modes[kind.best].ms_per_row) {
    kind.best = other;
    kind.steps = 0;
  }
}

}  // namespace octet
