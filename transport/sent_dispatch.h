// One message of a dispatcher to one worker, from its start to its reply.
#ifndef OCTET_TRANSPORT_SENT_DISPATCH_H_
#define OCTET_TRANSPORT_SENT_DISPATCH_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/clock.h"
#include "core/dispatch_key.h"
#include "core/ids.h"
#include "transport/dispatch_plan.h"
#include "transport/expert_link.h"

namespace octet {

// A reply so much later than late is waited for no longer, whatever the budget.
inline constexpr int kHopelessFactor = 4;
// A worker that is so much later, and silent for so long, is asked anew, even if it is the only
// one.
inline constexpr int kSilentFactor = 20;
inline constexpr Duration kSilentMin = Duration::Millis(10'000);

inline constexpr uint32_t kNotAHedge = UINT32_MAX;

struct SentDispatch {
  WorkerShare share;
  std::shared_ptr<ExpertLink> link;
  DispatchKey key;
  Epoch epoch;  // of the placement it was planned with
  MonotonicTime started;
  Duration late_after;
  uint32_t hedge_of = kNotAHedge;
  bool left = false;         // its worker is no longer in the placement
  std::vector<float> reply;  // or
  DeviceReply device;

  // So late that a reply can hardly be expected.
  bool Hopeless(MonotonicTime now) const {
    return now >= started + Duration{late_after.ns * kHopelessFactor};
  }
  bool Silent(MonotonicTime now) const {
    return now >= started + std::max(kSilentMin, Duration{late_after.ns * kSilentFactor});
  }
};

}  // namespace octet

#endif  // OCTET_TRANSPORT_SENT_DISPATCH_H_
