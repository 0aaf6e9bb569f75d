#include "router/stop_matcher.h"

#include <algorithm>
#include <utility>

namespace octet {

std::string StopMatcher::Append(std::string_view text) {
  if (match_ != nullptr) return "";
  if (stops_.empty()) return std::string(text);
  held_.append(text);
  size_t match_end = std::string::npos;
  size_t match_begin = 0;
  for (const std::string& stop : stops_) {
    const size_t begin = held_.find(stop);
    if (begin == std::string::npos) continue;
    const size_t end = begin + stop.size();
    if (end < match_end || (end == match_end && begin < match_begin)) {
      match_end = end;
      match_begin = begin;
      match_ = &stop;
    }
  }
  if (match_ != nullptr) {
    held_.resize(match_begin);
    return std::exchange(held_, "");
  }
  // The longest tail that begins some stop string stays.
  size_t keep = 0;
  for (const std::string& stop : stops_) {
    for (size_t n = std::min(stop.size() - 1, held_.size()); n > keep; --n) {
      if (held_.compare(held_.size() - n, n, stop, 0, n) == 0) keep = n;
    }
  }
  std::string shown = held_.substr(0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return shown;
}

std::string StopMatcher::AppendUnmatched(std::string_view text) {
  std::string shown = std::exchange(held_, "");
  shown.append(text);
  return shown;
}

std::string StopMatcher::Flush() { return std::exchange(held_, ""); }

}  // namespace octet
