#include "tests/fault/gap_statistics.h"

#include <algorithm>

namespace octet {

std::vector<double> LongestGaps(const std::vector<StreamGaps>& streams,
                                const std::vector<Window>& windows) {
  std::vector<double> longest;
  for (const Window& window : windows) {
    for (const StreamGaps& gaps : streams) {
      double most = -1;
      for (const Gap& gap : gaps) {
        if (gap.end >= window.begin && gap.begin <= window.end) most = std::max(most, gap.ms());
      }
      if (most >= 0) longest.push_back(most);
    }
  }
  return longest;
}

std::vector<Window> Windows(MonotonicTime begin, MonotonicTime end, Duration length) {
  std::vector<Window> windows;
  for (MonotonicTime at = begin; at + length <= end; at = at + length) {
    windows.push_back({at, at + length});
  }
  return windows;
}

std::vector<double> GapsWithin(const std::vector<StreamGaps>& streams, Window window) {
  std::vector<double> within;
  for (const StreamGaps& gaps : streams) {
    for (const Gap& gap : gaps) {
      if (gap.begin >= window.begin && gap.end <= window.end) within.push_back(gap.ms());
    }
  }
  return within;
}

std::vector<double> Added(const std::vector<double>& values, double usual_ms) {
  std::vector<double> added;
  for (const double value : values) added.push_back(std::max(0.0, value - usual_ms));
  return added;
}

}  // namespace octet
