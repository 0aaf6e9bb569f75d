// How long one worker takes for a dispatch of a given number of rows, learnt from its replies.
#ifndef OCTET_TRANSPORT_LATENCY_ESTIMATE_H_
#define OCTET_TRANSPORT_LATENCY_ESTIMATE_H_

#include <cstddef>
#include <vector>

#include "core/clock.h"

namespace octet {

struct HedgePolicy {
  // A reply is never called late before this.
  Duration floor = Duration::Millis(20);
  // Late past `factor` times the expected p99.
  double factor = 3.0;
  // Until enough replies were seen to know better.
  Duration unknown = Duration::Millis(1'000);
};

// time = a + b * rows by least squares with exponential decay, plus the largest of the last
// residuals as their p99, so that decode and prefill can mix. Pure; one thread.
class LatencyEstimate {
 public:
  void Add(size_t rows, Duration taken);
  // When a dispatch of `rows` counts as late, measured from its start.
  Duration LateAfter(size_t rows, const HedgePolicy& policy) const;

 private:
  double Predict(double rows) const;

  size_t samples_ = 0;
  size_t rows_max_ = 0;
  double weight_ = 0, x_ = 0, y_ = 0, xx_ = 0, xy_ = 0;  // decayed sums; y in nanoseconds
  std::vector<double> residuals_;                        // ring of the last ones
};

}  // namespace octet

#endif  // OCTET_TRANSPORT_LATENCY_ESTIMATE_H_
