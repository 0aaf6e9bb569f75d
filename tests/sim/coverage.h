// Which faults happened and which interesting states were reached, counted over schedules.
#ifndef OCTET_TESTS_SIM_COVERAGE_H_
#define OCTET_TESTS_SIM_COVERAGE_H_

#include <array>
#include <cstddef>
#include <cstdint>

namespace octet::sim {

enum class Covered : uint8_t {
  // Faults.
  kWorkerCrash,
  kWorkerStop,
  kWorkerSlow,
  kWorkerDrain,
  kRouterCrash,
  kRouterStop,
  kCoordinatorCrash,
  kCoordinatorCrashBetweenActions,
  kCoordinatorDiskEmptied,
  kCoordinatorClockBehind,
  kCoordinatorStop,
  kCoordinatorOutageTenMinutes,
  kSecondCoordinator,
  kDiskFull,
  kCutOneWay,
  kCutBothWays,
  kConnectionBroken,
  kMessageDelayed,
  kMessageDuplicated,
  kMessageReordered,
  kMessageCorrupted,
  kLoadFailed,
  kMemoryTooSmall,
  // States.
  kHedgeSent,
  kHedgeWon,
  kRedispatched,
  kStepWaitedWithoutReplica,
  kWorkerRefusedNotHeld,
  kWorkerRefusedOverload,
  kWorkerRefusedMalformed,
  kWorkerRefusedDraining,
  kBrokenSeal,
  kReplyRefusedDamaged,
  kLateReplyDropped,
  kRolloutActivated,
  kRolloutAborted,
  kShrinkEpoch,
  kStaleEpochRefused,
  kEpochLearntFromMember,
  kPersistRefusedNewerStore,
  kReRegisteredWithExperts,
  kLeaseLost,
  kStreamResumed,
  kStreamResumedElsewhere,
  kRequestPreempted,
  kPrefixCacheHit,
  kRequestDeadline,
  kRequestRefusedOverload,
  kTwoWorkersDown,
  kCount,
};

inline constexpr size_t kCoveredCount = static_cast<size_t>(Covered::kCount);

const char* CoveredName(Covered what);

struct Coverage {
  std::array<uint64_t, kCoveredCount> counts{};     // of occurrences
  std::array<uint64_t, kCoveredCount> schedules{};  // with at least one

  // Adds one schedule's occurrences, or another sum.
  void AddSchedule(const Coverage& one);
  void Add(const Coverage& sum);
};

}  // namespace octet::sim

#endif  // OCTET_TESTS_SIM_COVERAGE_H_
