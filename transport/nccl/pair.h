// The communicators of one router and one worker: two of two ranks each, one per direction. All
// that is on one communicator runs in one order, on both sides the same; with a communicator for
// each direction the sender alone decides it, and a side that waits for rows still sends. They
// start, fail and end together, so that a dead or silent peer costs this pair and nothing else.
#ifndef OCTET_TRANSPORT_NCCL_PAIR_H_
#define OCTET_TRANSPORT_NCCL_PAIR_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/clock.h"
#include "core/nccl_limits.h"
#include "transport/nccl/nccl_api.h"
#include "transport/nccl/row_pool.h"

namespace octet {

inline constexpr int kNcclRouterRank = 0;
inline constexpr int kNcclWorkerRank = 1;

enum class NcclLane : uint8_t { kDispatch, kReply };  // router to worker, worker to router
inline constexpr size_t kNcclLanes = 2;

// One message of rows. Both sides name the same `wire_bytes`, having agreed on them elsewhere.
struct NcclTransfer {
  RowPool::Lease memory;  // of at least `wire_bytes`
  size_t wire_bytes = 0;
  // Of them, what is copied from or to the host's part of `memory`, where it has one.
  size_t used_bytes = 0;
  // Puts on the stream, ahead of what it sends, what fills `memory` on the device; may be null. On
  // the device's thread.
  absl::AnyInvocable<absl::Status(NcclApi*, NcclStream)> fill;
  // Runs once, on the device's thread, and gets the memory back. UNAVAILABLE where the pair broke.
  absl::AnyInvocable<void(absl::Status, RowPool::Lease)> done;
};

struct NcclDeadlines {
  Duration connect = Duration::Millis(kNcclConnectMs);
  Duration transfer = Duration::Millis(kNcclTransferMs);  // and more by size
  Duration close = Duration::Millis(kNcclCloseMs);
};

struct NcclPairOptions {
  int rank = kNcclRouterRank;
  std::array<NcclUniqueId, kNcclLanes> ids{};
  // Moved once each way before the pair counts as ready: the first transfer makes the connection,
  // which takes longer than any deadline of a step.
  std::array<size_t, kNcclLanes> warm_bytes{};
  NcclDeadlines deadlines;
};

// What the first transfers move, by lane.
using NcclWarmRows = std::array<RowPool::Lease, kNcclLanes>;

// Takes it, with as much again and more left ready in `pool` for decode steps. Not on the device's
// thread, which must go on while an allocation waits for what is on the device: for a dead peer's
// rows, maybe, until that thread gives them up.
absl::StatusOr<NcclWarmRows> TakeWarmRows(RowPool* pool,
                                          const std::array<size_t, kNcclLanes>& warm_bytes,
                                          RowPlace place = RowPlace::kDeviceAndHost);

// On the device's thread.
struct NcclPairEvents {
  std::function<void()> ready;
  // The last call: every transfer has had its `done`, nothing of the pair is on the device. Why:
  // CANCELLED after Close, else UNAVAILABLE.
  std::function<void(const absl::Status&)> gone;
};

enum class NcclPairState : uint8_t {
  kConnecting,  // the communicators are being made
  kWarming,     // the first transfer of each lane is on its way
  kReady,
  kClosing,
  kBroken,  // to be aborted, by whoever polls
  kGone,
};

// A state machine that its owner polls; never waits, but in AbortPairs. Belongs to the thread of
// its device (device_thread.h).
class NcclPair {
 public:
  // `api` outlives the pair. `warm` is of `options.warm_bytes` at least.
  NcclPair(NcclApi* api, NcclPairOptions options, NcclWarmRows warm, NcclPairEvents events);
  // Only before the first Poll or after the end.
  ~NcclPair();
  NcclPair(const NcclPair&) = delete;
  NcclPair& operator=(const NcclPair&) = delete;

  // Queues a transfer; those of a lane are carried out in this order, once the pair is ready.
  void Submit(NcclLane lane, NcclTransfer transfer);
  // Moves everything as far as it goes. True when something moved.
  bool Poll(MonotonicTime now);
  // Something is under way that another Poll may find ended.
  bool busy() const;
  // The peer is known to be gone, or no longer wanted: the pair breaks with `why`.
  void Fail(const absl::Status& why);
  // Ends in good order where nothing is under way, else breaks.
  void Close(MonotonicTime now);
  // Moves all deadlines: for so long nobody polled.
  void Extend(Duration time);
  NcclPairState state() const { return state_; }

 private:
  friend void AbortPairs(NcclApi* api, const std::vector<NcclPair*>& pairs);

  struct Running {
    NcclTransfer transfer;
    MonotonicTime deadline;
    uint32_t mark = 0;
  };
  struct Lane {
    bool sends = false;
    NcclComm comm = nullptr;
    NcclStream stream = nullptr;
    NcclMark mark = nullptr;
    uint32_t marks = 0;  // set so far
    std::deque<NcclTransfer> waiting;
    std::optional<Running> launching;  // given to NCCL, not yet on the stream
    std::deque<Running> running;       // on the stream
    bool idle() const { return waiting.empty() && !launching.has_value() && running.empty(); }
  };

  void Start(MonotonicTime now);
  absl::Status StartLane(size_t index);
  bool Connect(MonotonicTime now);
  void WarmUp();
  bool MoveLane(Lane& lane, MonotonicTime now);
  absl::Status Issue(Lane& lane, MonotonicTime now);
  absl::Status AfterLaunch(Lane& lane);
  bool FinishClose(MonotonicTime now);
  // The state of a communicator, an error as UNAVAILABLE; kOk or kInProgress.
  absl::StatusOr<NcclResult> StateOf(const Lane& lane);
  absl::Status Failed(NcclResult result, const char* what);
  void AbortCommunicators();
  void End();

  NcclApi* const api_;
  const NcclPairOptions options_;
  NcclWarmRows warm_;  // until its transfers begin
  const NcclPairEvents events_;
  NcclPairState state_ = NcclPairState::kConnecting;
  std::array<Lane, kNcclLanes> lanes_;
  bool started_ = false;
  int to_warm_ = 0;
  MonotonicTime deadline_ = kNever;  // of connecting or closing
  absl::Status why_;                 // it broke or closed
};

// Aborts the broken ones of `pairs` together, in one group, and ends them. Waits for the device to
// let go of them, not for any peer.
void AbortPairs(NcclApi* api, const std::vector<NcclPair*>& pairs);

}  // namespace octet

#endif  // OCTET_TRANSPORT_NCCL_PAIR_H_
