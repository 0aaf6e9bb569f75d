#include "router/cost_model.h"

#include <algorithm>

namespace octet {

namespace {

constexpr double kForget = 0.95;  // weight of the past at each step of the same kind
constexpr double kRidge = 1e-6;   // keeps an unseen term at zero
constexpr int kFitSweeps = 24;    // of coordinate descent, warm-started
constexpr double kRowUnit = 64;   // brings the terms to one order of magnitude
constexpr double kAttendedUnit = 1e5;
// A step this many times over its prediction is an accident (a page fault storm, a stopped
// process), not a cost.
constexpr double kOutlier = 8;

}  // namespace

StepCostModel::StepCostModel() = default;

StepCostModel::Vector StepCostModel::Features(const StepShape& step) {
  return {1.0, static_cast<double>(step.rows) / kRowUnit, step.attended / kAttendedUnit};
}

double StepCostModel::PredictMs(const StepShape& step) const {
  const Vector f = Features(step);
  return theta_[0] * f[0] + theta_[1] * f[1] + theta_[2] * f[2];
}

void StepCostModel::Observe(const StepShape& step, double ms) {
  const size_t kind = step.prefill ? 1 : 0;
  if (weight_[kind] > 4) {
    const double predicted = PredictMs(step);
    ms = std::min(ms, kOutlier * predicted + 1);
    overrun_ms_ = kForget * overrun_ms_ + (1 - kForget) * std::max(0.0, ms - predicted);
  }
  const Vector f = Features(step);
  for (size_t i = 0; i < kTerms; ++i) {
    for (size_t j = 0; j < kTerms; ++j) {
      gram_[kind][i][j] = kForget * gram_[kind][i][j] + f[i] * f[j];
    }
    moment_[kind][i] = kForget * moment_[kind][i] + f[i] * ms;
  }
  weight_[kind] = kForget * weight_[kind] + 1;
  Fit();
}

void StepCostModel::Fit() {
  for (int sweep = 0; sweep < kFitSweeps; ++sweep) {
    for (size_t i = 0; i < kTerms; ++i) {
      double rest = moment_[0][i] + moment_[1][i];
      for (size_t j = 0; j < kTerms; ++j) {
        if (j != i) rest -= (gram_[0][i][j] + gram_[1][i][j]) * theta_[j];
      }
      theta_[i] = std::max(0.0, rest / (gram_[0][i][i] + gram_[1][i][i] + kRidge));
    }
  }
}

size_t PrefillRowsWithin(const StepCostModel& model, const StepShape& decode, size_t position,
                         double target_ms, size_t rows_max) {
  const auto fits = [&](size_t rows) {
    StepShape step = decode;
    step.prefill = true;
    step.rows += rows;
    // Row i attends to position + i + 1 positions.
    const double n = static_cast<double>(rows);
    step.attended += n * static_cast<double>(position) + n * (n + 1) / 2;
    return model.PredictMs(step) <= target_ms;
  };
  size_t low = 0, high = rows_max;
  while (low < high) {
    const size_t middle = low + (high - low + 1) / 2;
    if (fits(middle)) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

}  // namespace octet
