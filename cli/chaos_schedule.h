// Which worker `octet up --chaos` kills, and when. Pure.
#ifndef OCTET_CLI_CHAOS_SCHEDULE_H_
#define OCTET_CLI_CHAOS_SCHEDULE_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <random>
#include <vector>

#include "core/clock.h"

namespace octet {

class ChaosSchedule {
 public:
  // A worker dies every half to one and a half times `every`, but not before all have served for
  // `settle`, so that the cluster has as many replicas again as it is to have.
  ChaosSchedule(Duration every, Duration settle, uint64_t seed);

  // `serving_since[i]`: since when worker i has been listening; kNever while it is not. Returns the
  // worker to kill now. Call Due's moment later again.
  std::optional<size_t> Next(MonotonicTime now, const std::vector<MonotonicTime>& serving_since);
  // When Next may have an answer; kNever before its first call.
  MonotonicTime due() const { return due_; }

 private:
  MonotonicTime Draw(MonotonicTime now);

  const Duration every_;
  const Duration settle_;
  std::mt19937_64 random_;
  MonotonicTime due_ = kNever;
};

}  // namespace octet

#endif  // OCTET_CLI_CHAOS_SCHEDULE_H_
