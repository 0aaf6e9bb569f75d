#include "coordinator/expert_load.h"

#include <algorithm>

#include "core/limits.h"
#include "core/rebalance_limits.h"

namespace octet {
namespace {

constexpr int64_t kSteps = 8;  // of a half-life
constexpr int64_t kStepNs = kLoadHalfLifeMs * 1'000'000 / kSteps;
constexpr double kFadeOfStep = 0.91700404320467122;  // 2^(-1 / kSteps)
constexpr int64_t kStepsMax = 64 * kSteps;           // after which nothing is left

}  // namespace

double ExpertLoad::Fade(MonotonicTime now) const {
  const int64_t steps = now.ns / kStepNs - decayed_at_.ns / kStepNs;
  if (steps >= kStepsMax) return 0;
  double fade = 1;
  for (int64_t i = 0; i < steps; ++i) fade *= kFadeOfStep;
  return fade;
}

void ExpertLoad::Report(MemberId member, uint64_t incarnation, const std::vector<uint64_t>& counted,
                        MonotonicTime now) {
  const double fade = Fade(now);
  for (double& rows : rows_) rows *= fade;
  decayed_at_ = std::max(decayed_at_, now);

  Counter& counter = counters_[member];
  const bool fresh = counter.counted.empty() || counter.incarnation != incarnation;
  const size_t experts = std::min<size_t>(counted.size(), kExpertsMax);
  if (rows_.size() < experts) rows_.resize(experts, 0.0);
  for (size_t e = 0; e < experts && !fresh; ++e) {
    // A report leaves out trailing experts without rows.
    const uint64_t before = e < counter.counted.size() ? counter.counted[e] : 0;
    if (counted[e] > before) rows_[e] += static_cast<double>(counted[e] - before);
  }
  counter.incarnation = incarnation;
  counter.counted.assign(counted.begin(), counted.begin() + static_cast<ptrdiff_t>(experts));
}

std::vector<uint64_t> ExpertLoad::Rows(uint32_t experts, MonotonicTime now) const {
  std::vector<uint64_t> rows(experts, 0);
  const double fade = Fade(now);
  for (size_t e = 0; e < std::min<size_t>(experts, rows_.size()); ++e) {
    // A peer may report any number; what leaves here is bounded.
    rows[e] = static_cast<uint64_t>(std::min(rows_[e] * fade + 0.5, 1e15));
  }
  return rows;
}

}  // namespace octet
