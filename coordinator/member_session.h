// What a member says next to its coordinator and which placements it takes: the decisions of
// CoordinatorClient without its calls, streams and threads. Pure; one thread at a time.
#ifndef OCTET_COORDINATOR_MEMBER_SESSION_H_
#define OCTET_COORDINATOR_MEMBER_SESSION_H_

#include <cstdint>

#include "coordinator/cluster_types.h"
#include "core/clock.h"
#include "core/ids.h"

namespace octet {

// While it is not registered, a member's next call is Register, else Heartbeat; one call at a time.
class MemberSession {
 public:
  // What follows a call, in the order of the fields. After that comes the next call.
  struct Then {
    bool end_watch = false;
    Duration wait;  // may be cut short by news to report or by the end of the watch
    bool start_watch = false;
  };

  // `seed` of the jitter of reconnections.
  explicit MemberSession(uint64_t seed) : jitter_(seed * 2 + 1) {}

  Then Registered(MemberId id, uint64_t term, Duration heartbeat);
  Then RegisterFailed();
  // After a heartbeat. `known`: it was answered, and the coordinator knows this member.
  // `watch_ended`: as of before the call.
  Then Beaten(bool known, bool watch_ended);

  // The process leaves.
  void Disconnect() { registered_ = false; }

  // True where a message of the watch is news: a higher epoch than the active one, or the same of a
  // later term. A coordinator that forgot everything starts below what was seen; its next epoch
  // will not.
  bool Take(PlacementPhase phase, uint64_t term, Epoch epoch);

  bool registered() const { return registered_; }
  MemberId id() const { return id_; }      // 0 before the first registration
  uint64_t term() const { return term_; }  // of the registration
  uint64_t seen_term() const { return seen_term_; }
  Epoch seen_epoch() const { return seen_epoch_; }
  uint32_t failures() const { return failures_; }  // in a row

 private:
  Duration NextBackoff();

  bool registered_ = false;
  MemberId id_;
  uint64_t term_ = 0;
  Duration heartbeat_ = Duration::Millis(kHeartbeatMs);
  uint32_t failures_ = 0;
  uint64_t jitter_;
  uint64_t seen_term_ = 0;
  Epoch seen_epoch_;
  uint64_t active_term_ = 0;
  Epoch active_epoch_;
};

}  // namespace octet

#endif  // OCTET_COORDINATOR_MEMBER_SESSION_H_
