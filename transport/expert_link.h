// The path from a router to one expert worker. Implementations: local (an expert function in this
// process), grpc (a long-lived stream), shm (rings in memory shared with a worker of this host),
// and fakes in tests.
#ifndef OCTET_TRANSPORT_EXPERT_LINK_H_
#define OCTET_TRANSPORT_EXPERT_LINK_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "core/clock.h"
#include "core/dispatch_key.h"
#include "core/ids.h"
#include "transport/dispatch_plan.h"
#include "transport/reply_pool.h"
#include "transport/wire_rows.h"

namespace octet {

// One dispatch to one worker. `rows` and `share` stay valid until the reply callback has run or
// Cancel returned.
struct ExpertDispatch {
  DispatchKey key;
  Epoch epoch;
  const std::string* compute_digest = nullptr;
  const std::string* model_version = nullptr;
  bool prefill = false;
  WireRows rows;                       // the whole step's rows; the share says which of them travel
  const WorkerShare* share = nullptr;  // what this worker computes
  // Where the link takes the reply's buffer from; may be null. Outlives the link's callbacks.
  std::shared_ptr<ReplyPool> pool;
};

// Reply rows on a device, as long as `memory` lives.
struct DeviceReply {
  std::shared_ptr<const void> memory;
  const float* rows = nullptr;
  size_t floats = 0;
};

// Reply rows are f32, [sum of group sizes][hidden], in the order of share->groups, already widened
// from the wire's reply type (so that bf16 rounding is the same on every path).
struct ExpertReply {
  DispatchKey key;
  absl::Status status;
  std::vector<float> rows;
  // Instead of `rows`, where the dispatch's lie on a device and replies travel as f32.
  DeviceReply device;
  uint64_t compute_ns = 0;
  uint64_t queue_ns = 0;
  // When the worker had it ready or, where the link can't know that, when it arrived, by
  // SystemClock; 0: when it is delivered.
  MonotonicTime ready;
};

// The answer to a dispatch that got no rows.
inline ExpertReply FailedReply(const DispatchKey& key, const absl::Status& status) {
  ExpertReply reply;
  reply.key = key;
  reply.status = status;
  return reply;
}

// Thread-safe.
class ExpertLink {
 public:
  using ReplyFn = std::function<void(ExpertReply)>;
  virtual ~ExpertLink() = default;
  // Never blocks on the peer. `done` runs exactly once, on any thread, possibly before Send
  // returns: with rows, or with the worker's refusal (FAILED_PRECONDITION wrong digest, NOT_FOUND
  // not held, DATA_LOSS checksum or weights), or UNAVAILABLE when the link broke. Replies to other
  // dispatches may be delivered meanwhile.
  virtual void Send(const ExpertDispatch& dispatch, ReplyFn done) = 0;
  // After it returns, no callback of `key` runs any more and its buffers are free. Never called
  // from a reply callback.
  virtual void Cancel(const DispatchKey& key) = 0;
  // False after a break, until the link has connected again on its own.
  virtual bool connected() const = 0;
  // Delivers, on this thread, what has arrived and needs one to deliver it. Called by the thread
  // that combines, whenever its doorbell has rung.
  virtual void Poll() {}
};

}  // namespace octet

#endif  // OCTET_TRANSPORT_EXPERT_LINK_H_
