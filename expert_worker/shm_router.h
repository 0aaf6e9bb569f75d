// One router that is connected to a worker through shared memory.
#ifndef OCTET_EXPERT_WORKER_SHM_ROUTER_H_
#define OCTET_EXPERT_WORKER_SHM_ROUTER_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/mutex.h"
#include "expert_worker/expert_store.h"
#include "expert_worker/worker_loop.h"
#include "rpc/expert_codec.h"
#include "transport/shm/segment.h"
#include "transport/shm/shared_memory.h"

namespace octet {

// Room for the largest dispatch of a model and its reply, and for more of the usual size.
uint64_t ShmArenaBytes(const DispatchShape& shape);

// Everything in the shared memory but the reply ring's head may change at any time and to anything:
// it is copied, checked, and then used, the rows aside, which are only computed with.
class ShmRouter {
 public:
  // `store`, `shape` and `loop` outlive the router.
  ShmRouter(SharedMemory segment, uint64_t arena_bytes, SharedMemory doorbell,
            const ExpertStore* store, const DispatchShape* shape, WorkerLoop* loop);

  // Submits new dispatches, answers those that cannot run. False when the ring is nonsense. On the
  // loop's thread.
  bool Read();
  // Nobody wants its dispatches any more.
  void Abandon();
  // No dispatch of it is in the loop; with Abandon and no Read after it, none will be.
  bool idle();
  void WaitIdle();

 private:
  // One dispatch from the ring to its answer; used again.
  struct Call {
    ShmRequest request;
    std::vector<ShmGroup> groups;
    std::vector<uint32_t> indices;
    std::vector<DispatchView::Group> views;
    ExpertJob job;
  };

  void Take(std::unique_ptr<Call> call);
  absl::Status Admit(Call& call);
  void OnComputed(Call* call);
  void Answer(const Call& call, const absl::Status& status) OCTET_REQUIRES(mu_);
  ShmSegment& segment() const { return *reinterpret_cast<ShmSegment*>(memory_.data()); }

  const SharedMemory memory_;
  const uint64_t arena_bytes_;
  const SharedMemory doorbell_;
  const ExpertStore* const store_;
  const DispatchShape* const shape_;
  WorkerLoop* const loop_;

  uint32_t request_tail_ = 0;  // Read's alone
  Mutex mu_;
  CondVar changed_;
  uint32_t reply_head_ OCTET_GUARDED_BY(mu_) = 0;
  std::vector<std::unique_ptr<Call>> running_ OCTET_GUARDED_BY(mu_);
  std::vector<std::unique_ptr<Call>> free_ OCTET_GUARDED_BY(mu_);
};

}  // namespace octet

#endif  // OCTET_EXPERT_WORKER_SHM_ROUTER_H_
