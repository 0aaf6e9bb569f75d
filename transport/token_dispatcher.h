// Sends a step's rows to the experts and brings their results back: Dispatch → handle → Combine.
// Plans over the newest placement, notices dead links, re-dispatches the rows of failed workers
// alone to another replica, and waits where there is none.
#ifndef OCTET_TRANSPORT_TOKEN_DISPATCHER_H_
#define OCTET_TRANSPORT_TOKEN_DISPATCHER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/clock.h"
#include "core/ids.h"
#include "core/placement.h"
#include "kernels/kernels.h"
#include "transport/attempt_tracker.h"
#include "transport/doorbell.h"
#include "transport/expert_link.h"
#include "transport/latency_estimate.h"
#include "transport/replica_choice.h"
#include "transport/wire_rows.h"
#include "transport/worker_use.h"

namespace octet {

// Makes a link to a placed worker, without waiting for it to connect; null where that is impossible
// (the worker then counts as gone). Called inside SetPlacement, on its caller's thread, when a
// placement names a new worker or a new address.
using LinkFactory = std::function<std::shared_ptr<ExpertLink>(const PlacedWorker&)>;

struct DispatcherOptions {
  RouterId router;
  uint64_t incarnation = 0;
  std::string compute_digest;
  std::string model_version;
  AttemptPolicy attempts;
  HedgePolicy hedge;
  ReplicaCosts costs;
  // Called instead of sleeping for at most the given time, so that a simulation on one thread can
  // advance its clock and deliver replies. Null in production.
  std::function<void(Duration)> wait;
  // On which Combine sleeps; links may ring it from other processes. Null: one of its own.
  std::shared_ptr<DoorbellWords> doorbell;
};

struct DispatcherStats {
  uint64_t dispatches = 0;    // messages to workers, all kinds
  uint64_t redispatches = 0;  // of them: after a failure
  uint64_t hedges = 0;        // of them: because a reply was late
  uint64_t hedges_won = 0;    // hedges that answered first
  uint64_t waits_without_replica = 0;
  std::vector<uint64_t> tokens_per_expert;
};

// Where one Dispatch is in flight. Destroyed on the dispatcher's thread and before the dispatcher;
// that cancels what is still in flight and frees the replies.
class DispatchHandle {
 public:
  ~DispatchHandle();
  DispatchHandle(const DispatchHandle&) = delete;
  DispatchHandle& operator=(const DispatchHandle&) = delete;
  // Those replies that lie on a device; what Combine points at there is within them.
  std::vector<DeviceReply> device_replies() const;

 private:
  friend class TokenDispatcher;
  struct Impl;
  explicit DispatchHandle(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Dispatch and Combine belong to one thread (the step loop); the rest is thread-safe. The threads
// that dispatch, set placements and destroy are not gRPC's own: links end on them.
class TokenDispatcher {
 public:
  TokenDispatcher(DispatcherOptions options, LinkFactory links, const Clock* clock);
  ~TokenDispatcher();
  TokenDispatcher(const TokenDispatcher&) = delete;
  TokenDispatcher& operator=(const TokenDispatcher&) = delete;

  // The newest placement; one with a lower epoch than the present is dropped. Steps that wait for a
  // replica wake up.
  void SetPlacement(std::shared_ptr<const Placement> placement);
  std::shared_ptr<const Placement> placement() const;
  // True when every expert has a replica with a connected link.
  bool Ready() const;

  // Starts the work of one layer. `rows` and `choice` must outlive the Combine. Never blocks on a
  // peer.
  std::unique_ptr<DispatchHandle> Dispatch(StepId step, uint32_t micro_batch, LayerId layer,
                                           bool prefill, const WireRows& rows, const TopK& choice);
  // Several handles may be in flight; the failures of all are handled while one is waited for.
  // Blocks until each (row, slot) has a result: replies[row * k + slot] then points at `hidden`
  // floats, valid until the handle is destroyed. UNAVAILABLE when some expert still has no replica
  // at `give_up`, CANCELLED after Stop; the step can then be run again from its start. An expert is
  // never skipped.
  absl::Status Combine(DispatchHandle& handle, MonotonicTime give_up,
                       std::vector<const float*>* replies);

  // What came of workers since the last call. On the step thread.
  WorkerUse TakeUse();

  // Wakes a blocked Combine for good.
  void Stop();
  DispatcherStats stats() const;

 private:
  friend class DispatchHandle;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace octet

#endif  // OCTET_TRANSPORT_TOKEN_DISPATCHER_H_
