// How much each expert is asked for lately: what workers have counted since they started, folded
// into one decaying window. Pure; one owner thread.
#ifndef OCTET_COORDINATOR_EXPERT_LOAD_H_
#define OCTET_COORDINATOR_EXPERT_LOAD_H_

#include <cstdint>
#include <map>
#include <vector>

#include "coordinator/cluster_types.h"
#include "core/clock.h"

namespace octet {

class ExpertLoad {
 public:
  // `counted`: rows by expert since the member's process started. The first report of an
  // incarnation says where its counting begins and adds nothing, as does one that went back: how
  // long ago those rows were is unknown. Entries from kExpertsMax on are ignored.
  void Report(MemberId member, uint64_t incarnation, const std::vector<uint64_t>& counted,
              MonotonicTime now);
  // Rows of the member no longer arrive; those that it computed stay until they decay.
  void Forget(MemberId member) { counters_.erase(member); }

  // Rows in the window, by expert: sum over rows of 2^(-age / kLoadHalfLifeMs), age in steps of an
  // eighth of a half-life. `experts` entries.
  std::vector<uint64_t> Rows(uint32_t experts, MonotonicTime now) const;

 private:
  struct Counter {
    uint64_t incarnation = 0;
    std::vector<uint64_t> counted;
  };
  // What a row of `decayed_at_` weighs at `now`.
  double Fade(MonotonicTime now) const;

  std::map<MemberId, Counter> counters_;
  std::vector<double> rows_;  // as of decayed_at_
  MonotonicTime decayed_at_;
};

}  // namespace octet

#endif  // OCTET_COORDINATOR_EXPERT_LOAD_H_
