// The coordinator's brain: Step(event, now) -> actions, a pure state machine over the model
// versions that the cluster serves side by side. No I/O, no clock, no lock; one owner thread.
//
// A member belongs to the version whose compute digest it registers with, for the life of its
// process, and sees the tables of that version alone: nothing is ever computed by another one. So a
// release with other weights, formats or numerics comes in as a second version while the first one
// serves (docs/upgrades.md). Terms, epochs and ids are the cluster's; all else is the version's own
// (version_state.h).
#ifndef OCTET_COORDINATOR_CLUSTER_STATE_H_
#define OCTET_COORDINATOR_CLUSTER_STATE_H_

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/cluster_events.h"
#include "coordinator/cluster_types.h"
#include "coordinator/version_state.h"
#include "core/clock.h"

namespace octet {

// What `octet status` shows.
struct ClusterSnapshot {
  uint64_t term = 0;
  Epoch epoch;
  uint32_t replication = 0;
  // By epoch in force, the newest first; those that are ready before those that are not.
  std::vector<VersionSnapshot> versions;
};

class ClusterState {
 public:
  // `restored` is what the store held, if anything. `fresh_term` starts the terms of an empty
  // store: something that grows (seconds since 1970) above kTermDrawBits of this process's own,
  // which all its terms get. The new term is persisted by the first Step.
  ClusterState(const ClusterSettings& settings, const std::optional<DurableState>& restored,
               uint64_t fresh_term, MonotonicTime now);

  // `now` must not decrease. A Tick is due at least every settle / 4.
  Actions Step(const ClusterEvent& event, MonotonicTime now);

  ClusterSnapshot Snapshot(MonotonicTime now) const;
  uint64_t term() const { return ledger_.term; }
  Epoch epoch() const { return ledger_.epoch; }

 private:
  void Handle(const RegisterEvent& event);
  void Handle(const HeartbeatEvent& event);
  void Handle(const WatchOpenedEvent& event);
  void Handle(const WatchClosedEvent& event);
  void Handle(const DrainRequestedEvent& event);
  void Handle(const DrainClosedEvent& event);
  void Handle(const TickEvent& event);
  absl::StatusOr<RegisterGrant> Admit(const RegisterEvent& event);
  absl::Status CheckRoom(const RegisterEvent& event) const;
  absl::StatusOr<VersionState*> VersionOf(const RegisterEvent& event);
  VersionState* VersionWith(MemberId id);
  void ExtendLeasesOverStall(MonotonicTime now);
  void ForgetDeserted();
  uint64_t TermAfter(uint64_t term) const;
  DurableState Durable() const;

  const ClusterSettings settings_;
  const uint64_t term_draw_;
  ClusterLedger ledger_;
  std::map<std::string, std::unique_ptr<VersionState>> versions_;  // by compute digest
};

}  // namespace octet

#endif  // OCTET_COORDINATOR_CLUSTER_STATE_H_
