#include "coordinator/member_session.h"

#include <algorithm>

namespace octet {

// Doubles from kReconnectMsMin to kReconnectMsMax, less up to a half at random, so that the members
// of a cluster do not come back all at once.
Duration MemberSession::NextBackoff() {
  const uint32_t shift = std::min<uint32_t>(failures_++, 10);
  const int64_t full = std::min(kReconnectMsMin << shift, kReconnectMsMax);
  jitter_ = jitter_ * 6364136223846793005ull + 1442695040888963407ull;
  const int64_t less = static_cast<int64_t>((jitter_ >> 33) % static_cast<uint64_t>(full / 2 + 1));
  return Duration::Millis(full - less);
}

MemberSession::Then MemberSession::Registered(MemberId id, uint64_t term, Duration heartbeat) {
  id_ = id;
  term_ = term;
  seen_term_ = std::max(seen_term_, term);
  heartbeat_ = std::clamp(heartbeat, Duration::Millis(1), Duration::Millis(kLeaseMsMax));
  registered_ = true;
  Then then;
  then.start_watch = true;
  return then;
}

MemberSession::Then MemberSession::RegisterFailed() {
  Then then;
  then.wait = NextBackoff();
  return then;
}

MemberSession::Then MemberSession::Beaten(bool known, bool watch_ended) {
  Then then;
  if (!known) {
    registered_ = false;
    then.end_watch = true;
    then.wait = NextBackoff();
  } else if (watch_ended) {
    // The lease holds, so only the stream broke.
    then.end_watch = true;
    then.wait = NextBackoff();
    then.start_watch = true;
  } else {
    failures_ = 0;
    then.wait = heartbeat_;
  }
  return then;
}

bool MemberSession::Take(PlacementPhase phase, uint64_t term, Epoch epoch) {
  const bool newer = epoch > active_epoch_ || (epoch == active_epoch_ && term > active_term_);
  if (!newer) return false;
  seen_term_ = std::max(seen_term_, term);
  seen_epoch_ = std::max(seen_epoch_, epoch);
  if (phase == PlacementPhase::kActivate) {
    active_epoch_ = epoch;
    active_term_ = term;
  }
  return true;
}

}  // namespace octet
