// How long a step takes, learned from the steps that ran. Used only to size prefill chunks: it
// changes time, never tokens.
#ifndef OCTET_ROUTER_COST_MODEL_H_
#define OCTET_ROUTER_COST_MODEL_H_

#include <array>
#include <cstddef>

namespace octet {

// What a step's time depends on.
struct StepShape {
  size_t rows = 0;
  // Sum over the rows of the cached positions they attend to.
  double attended = 0;
  bool prefill = false;
};

// ms = a + b * rows + c * attended, all coefficients >= 0. Fitted by least squares over
// exponentially forgotten steps. Decode and prefill steps are forgotten separately, each at its own
// pace, so that a long stretch of decoding does not wash out what prefill costs. Pure; one thread.
class StepCostModel {
 public:
  StepCostModel();

  void Observe(const StepShape& step, double ms);
  double PredictMs(const StepShape& step) const;
  // False until a prefill step was seen.
  bool knows_prefill() const { return weight_[1] > 0; }
  // Mean of how much steps took longer than predicted, in ms; forgotten like the rest.
  double overrun_ms() const { return overrun_ms_; }

 private:
  static constexpr size_t kTerms = 3;
  using Vector = std::array<double, kTerms>;
  static Vector Features(const StepShape& step);
  void Fit();

  // Normal equations of the two kinds of step: [0] decode, [1] prefill.
  std::array<std::array<Vector, kTerms>, 2> gram_{};
  std::array<Vector, 2> moment_{};
  std::array<double, 2> weight_{};
  Vector theta_{};
  double overrun_ms_ = 0;
};

// Largest number of prefill rows whose step stays within `target_ms` beside the decode rows in
// `decode`; the prefill rows start at position `position`. In [0, rows_max].
size_t PrefillRowsWithin(const StepCostModel& model, const StepShape& decode, size_t position,
                         double target_ms, size_t rows_max);

}  // namespace octet

#endif  // OCTET_ROUTER_COST_MODEL_H_
