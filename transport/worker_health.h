// A router's opinion of a worker: how long it takes, and whether to pass it over for a while.
#ifndef OCTET_TRANSPORT_WORKER_HEALTH_H_
#define OCTET_TRANSPORT_WORKER_HEALTH_H_

#include <algorithm>
#include <cstdint>

#include "core/clock.h"
#include "core/ids.h"
#include "transport/latency_estimate.h"

namespace octet {

// A late worker is passed over for so long after it lost to a hedge, doubling each time.
inline constexpr Duration kSuspectMin = Duration::Millis(200);
inline constexpr Duration kSuspectMax = Duration::Millis(10'000);

// Which workers are asked: where there is no other, those that were late once rather than those
// that have been late again and again, as one that hangs is.
enum class Trust { kSound, kLateOnce, kAny };

struct WorkerHealth {
  LatencyEstimate latency;
  uint32_t suspicions = 0;  // in a row
  MonotonicTime suspect_until;
  // Refused our digest under this epoch: unusable until a newer one.
  bool wrong_digest = false;
  Epoch wrong_digest_epoch;

  void LostToHedge(MonotonicTime now) {
    suspect_until =
        now + Duration{std::min(kSuspectMin.ns << std::min(suspicions++, 16u), kSuspectMax.ns)};
  }
  // It answered in time: whatever was thought of it, it is well.
  void Answered() {
    suspicions = 0;
    suspect_until = MonotonicTime();
  }
  // Its weights are damaged: it is about to end.
  void Leaves(MonotonicTime now) {
    suspect_until = now + kSuspectMax;
    suspicions = std::max(suspicions, 2u);
  }
  bool Usable(Epoch epoch, Trust trust, MonotonicTime now) const {
    if (wrong_digest && wrong_digest_epoch >= epoch) return false;
    return trust == Trust::kAny || suspect_until <= now ||
           (trust == Trust::kLateOnce && suspicions <= 1);
  }
};

}  // namespace octet

#endif  // OCTET_TRANSPORT_WORKER_HEALTH_H_
