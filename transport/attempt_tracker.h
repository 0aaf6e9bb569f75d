// What has been tried for the expert groups of one dispatch and what is to be done next. A pure
// state machine: (state, event, now) → state; it neither sends nor waits.
#ifndef OCTET_TRANSPORT_ATTEMPT_TRACKER_H_
#define OCTET_TRANSPORT_ATTEMPT_TRACKER_H_

#include <cstdint>
#include <vector>

#include "core/clock.h"
#include "core/ids.h"
#include "core/limits.h"

namespace octet {

struct AttemptPolicy {
  // A worker that failed is left out of this dispatch for so long, doubling with each failure.
  Duration backoff_min = Duration::Millis(20);
  Duration backoff_max = Duration::Millis(1'000);
  // A group tried so often waits for a newer placement.
  uint32_t attempts_max = kDispatchAttemptsMax;
};

// Groups and attempts are named by their index. A group is open until the first valid reply for it,
// and waiting while open without a live attempt.
class AttemptTracker {
 public:
  explicit AttemptTracker(size_t groups, const AttemptPolicy& policy = {});

  // An attempt for `groups` goes to `worker`; it counts as late at `late_at`. Returns its index.
  uint32_t Start(WorkerId worker, std::vector<uint32_t> groups, MonotonicTime late_at, Epoch epoch);
  // A valid reply: the groups that are complete by it (empty for a late one, which is dropped).
  std::vector<uint32_t> Succeed(uint32_t attempt);
  // The attempt broke or was refused; what it was to replace is late again. `counts` is false where
  // the same replica may be asked as often as time allows (overload). No effect on an attempt that
  // has already ended.
  void Fail(uint32_t attempt, MonotonicTime now, bool counts = true);
  // The attempt is given up through nobody's fault: neither counted nor is its worker left out.
  void Withdraw(uint32_t attempt) { End(attempt, false); }
  // The attempt is late and its groups are also sent elsewhere, or cannot be: look again then.
  void Hedged(uint32_t attempt) { attempts_[attempt].late_at = kNever; }
  void PostponeHedge(uint32_t attempt, MonotonicTime late_at) {
    attempts_[attempt].late_at = late_at;
  }

  // Groups to send now under a placement of `epoch`.
  std::vector<uint32_t> Waiting(Epoch epoch) const;
  // False while the worker is left out.
  bool Allows(WorkerId worker, MonotonicTime now) const;
  // True while a live attempt for the group is with the worker.
  bool Tries(WorkerId worker, uint32_t group) const;
  // Live attempts past their time with an open group.
  std::vector<uint32_t> Late(MonotonicTime now) const;
  std::vector<uint32_t> OpenGroups(uint32_t attempt) const;
  std::vector<uint32_t> Live() const;
  // True where an open group of the live attempt has no other live attempt.
  bool Alone(uint32_t attempt) const;
  // The next moment at which Allows or Late may change by itself; kNever if none.
  MonotonicTime NextChange(MonotonicTime now) const;
  WorkerId worker(uint32_t attempt) const { return attempts_[attempt].worker; }
  bool done() const { return open_ == 0; }

 private:
  struct Group {
    bool done = false;
    uint32_t live = 0;
    uint32_t tried = 0;
    Epoch epoch;  // of the last attempt
  };
  struct Attempt {
    WorkerId worker;
    std::vector<uint32_t> groups;
    MonotonicTime late_at;
    bool live = true;
  };
  // Ends an attempt that gave nothing. False where it had ended already.
  bool End(uint32_t attempt, bool counts);

  struct Exclusion {
    WorkerId worker;
    uint32_t failures = 0;
    MonotonicTime until;
  };

  AttemptPolicy policy_;
  std::vector<Group> groups_;
  std::vector<Attempt> attempts_;
  std::vector<Exclusion> exclusions_;
  size_t open_;
};

}  // namespace octet

#endif  // OCTET_TRANSPORT_ATTEMPT_TRACKER_H_
