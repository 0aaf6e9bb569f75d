// What a fault adds to the time between two tokens of a stream. Pure.
#ifndef OCTET_TESTS_FAULT_GAP_STATISTICS_H_
#define OCTET_TESTS_FAULT_GAP_STATISTICS_H_

#include <cstddef>
#include <vector>

#include "core/clock.h"

namespace octet {

// The time between two consecutive chunks of one request.
struct Gap {
  MonotonicTime begin;
  MonotonicTime end;
  double ms() const { return static_cast<double>((end - begin).ns) / 1e6; }
};
// Of one stream, in the order of time.
using StreamGaps = std::vector<Gap>;

struct Window {
  MonotonicTime begin;
  MonotonicTime end;
};

// For each window and each stream that has a gap in it, the longest gap that touches the window, in
// ms.
std::vector<double> LongestGaps(const std::vector<StreamGaps>& streams,
                                const std::vector<Window>& windows);

// Whole windows of `length` that fit between begin and end.
std::vector<Window> Windows(MonotonicTime begin, MonotonicTime end, Duration length);

// All gaps that lie between begin and end, in ms.
std::vector<double> GapsWithin(const std::vector<StreamGaps>& streams, Window window);

// What is above `usual_ms` in each value, never less than 0.
std::vector<double> Added(const std::vector<double>& values, double usual_ms);

}  // namespace octet

#endif  // OCTET_TESTS_FAULT_GAP_STATISTICS_H_
