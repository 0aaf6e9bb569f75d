// Bounds of moving experts because their load changed.
#ifndef OCTET_CORE_REBALANCE_LIMITS_H_
#define OCTET_CORE_REBALANCE_LIMITS_H_

#include <cstdint>

namespace octet {

// Replicas beyond what --replication asks for, of all experts together.
inline constexpr int64_t kExtraReplicasMax = 4096;
// Rows older than this weigh half: long enough to average over single requests, short enough to
// follow a change of subject within seconds.
inline constexpr int64_t kLoadHalfLifeMs = 2'000;
// A plan is reconsidered so often, and after one that changed something not sooner than this.
inline constexpr int64_t kRebalanceMs = 1'000;
inline constexpr int64_t kRebalancePauseMs = 5'000;
// Rows in the window for each expert, on average, below which a difference says nothing.
inline constexpr uint64_t kRebalanceRowsMin = 64;
// A slot for a hot expert changes hands only for one whose load per replica is so much higher.
inline constexpr double kRebalanceGain = 1.25;

}  // namespace octet

#endif  // OCTET_CORE_REBALANCE_LIMITS_H_
