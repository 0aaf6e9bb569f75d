#include "cli/chaos_schedule.h"

#include <algorithm>

namespace octet {

ChaosSchedule::ChaosSchedule(Duration every, Duration settle, uint64_t seed)
    : every_(every), settle_(settle), random_(seed) {}

MonotonicTime ChaosSchedule::Draw(MonotonicTime now) {
  const uint64_t span = static_cast<uint64_t>(std::max<int64_t>(every_.ns, 1));
  return now + Duration{every_.ns / 2 + static_cast<int64_t>(random_() % span)};
}

std::optional<size_t> ChaosSchedule::Next(MonotonicTime now,
                                          const std::vector<MonotonicTime>& serving_since) {
  if (due_ == kNever) due_ = Draw(now);
  if (now < due_ || serving_since.empty()) return std::nullopt;
  const MonotonicTime youngest = *std::max_element(serving_since.begin(), serving_since.end());
  if (youngest == kNever || now - youngest < settle_) {
    due_ = youngest == kNever ? now + settle_ : youngest + settle_;
    return std::nullopt;
  }
  due_ = Draw(now);
  return static_cast<size_t>(random_() % serving_since.size());
}

}  // namespace octet
