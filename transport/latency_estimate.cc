#include "transport/latency_estimate.h"

#include <algorithm>

namespace octet {
namespace {

constexpr double kDecay = 0.98;
constexpr size_t kResiduals = 64;
constexpr size_t kSamplesMin = 8;

}  // namespace

double LatencyEstimate::Predict(double rows) const {
  const double variance = xx_ * weight_ - x_ * x_;
  double slope = variance > 1e-6 ? (xy_ * weight_ - x_ * y_) / variance : 0.0;
  slope = std::max(slope, 0.0);
  const double intercept = std::max((y_ - slope * x_) / weight_, 0.0);
  double expected = intercept + slope * rows;
  // A line fitted to small dispatches says little of one several times as large.
  if (rows > 2.0 * static_cast<double>(rows_max_)) {
    expected = std::max(expected, y_ / weight_ * rows / static_cast<double>(rows_max_));
  }
  return expected;
}

void LatencyEstimate::Add(size_t rows, Duration taken) {
  const double x = static_cast<double>(rows);
  const double y = static_cast<double>(taken.ns);
  if (samples_ > 0) {
    const double residual = y - Predict(x);
    if (residuals_.size() < kResiduals) {
      residuals_.push_back(residual);
    } else {
      residuals_[samples_ % kResiduals] = residual;
    }
  }
  ++samples_;
  rows_max_ = std::max({rows_max_, rows, size_t{1}});
  weight_ = weight_ * kDecay + 1;
  x_ = x_ * kDecay + x;
  y_ = y_ * kDecay + y;
  xx_ = xx_ * kDecay + x * x;
  xy_ = xy_ * kDecay + x * y;
}

Duration LatencyEstimate::LateAfter(size_t rows, const HedgePolicy& policy) const {
  if (samples_ < kSamplesMin) return std::max(policy.floor, policy.unknown);
  const double spread = std::max(*std::max_element(residuals_.begin(), residuals_.end()), 0.0);
  const double late = policy.factor * (Predict(static_cast<double>(rows)) + spread);
  return std::max(policy.floor, Duration{static_cast<int64_t>(std::min(late, 6e10))});
}

}  // namespace octet
