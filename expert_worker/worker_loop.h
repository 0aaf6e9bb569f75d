// The compute thread of a worker and its queue. Rows that wait for the same expert and layer, from
// any stream, are computed by one kernel call; nothing waits for company; decode goes before
// prefill, which gains its place by age.
#ifndef OCTET_EXPERT_WORKER_WORKER_LOOP_H_
#define OCTET_EXPERT_WORKER_WORKER_LOOP_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "core/clock.h"
#include "core/ids.h"
#include "core/wire_format.h"
#include "expert_worker/load_counter.h"
#include "kernels/kernels.h"
#include "model/model_package.h"
#include "transport/doorbell.h"

namespace octet {

// One dispatch on its way through the loop. The submitter fills it, owns it, and keeps it and all
// it points to until `done` has run.
struct ExpertJob {
  struct Group {
    ExpertId expert;
    std::shared_ptr<const MappedExpert> weights;  // keeps the mapping while the job lives
    absl::Span<const uint32_t> rows;              // indices into `input`
    size_t reply_row = 0;                         // first row in `reply`
  };
  LayerId layer;
  bool prefill = false;
  WireFormat format;
  ExpertInput input;
  uint64_t bytes = 0;  // memory held by the job, for the queue's bound
  std::vector<Group> groups;
  float* reply = nullptr;  // [sum of groups' rows][hidden]
  bool on_device = false;  // `input` and `reply` lie on the device that computes
  // Set by anyone when nobody wants the result any more; its groups are then skipped.
  std::atomic<bool> abandoned{false};
  // Runs once, on the compute thread, after the fields below are set.
  std::function<void()> done;

  // Written by the loop, from Submit on.
  absl::Status status;
  uint64_t compute_ns = 0;  // in kernels that had rows of this job
  uint64_t queue_ns = 0;    // from Submit to the first kernel
  MonotonicTime submitted;
  size_t groups_left = 0;
  bool started = false;
};

using ComputeFn = std::function<absl::Status(const MappedExpert&, LayerId, const ExpertInput&,
                                             absl::Span<const uint32_t> rows, TensorF32 out)>;

// Rows of one expert in a call that computes several of a layer.
struct ComputePart {
  const MappedExpert* expert = nullptr;
  const ExpertInput* input = nullptr;
  absl::Span<const uint32_t> rows;  // of `input`
  TensorF32 out;                    // [rows.size(), hidden]
  bool on_device = false;           // as ExpertJob's
};
// Parts of one expert stand next to each other.
using ComputeLayerFn = std::function<absl::Status(LayerId, absl::Span<const ComputePart>)>;

// Where work comes from that no thread of its own hands in.
class JobSource {
 public:
  virtual ~JobSource() = default;
  // Submits what has arrived. On the compute thread, between kernel calls and before it sleeps.
  virtual void Poll() = 0;
};

// Submit, SetSource, Drain and queued are thread-safe.
class WorkerLoop {
 public:
  // `compute` runs on the loop's thread only. `clock`, `load` and `doorbell`, on which the thread
  // sleeps, outlive the loop; without `doorbell` it has one of its own.
  WorkerLoop(ComputeFn compute, const Clock* clock, LoadCounter* load,
             DoorbellWords* doorbell = nullptr);
  // The same for a device that computes all the experts of a layer that have rows in one call.
  WorkerLoop(ComputeLayerFn compute, const Clock* clock, LoadCounter* load,
             DoorbellWords* doorbell = nullptr);
  // Ends after the kernel in progress; jobs still queued get CANCELLED.
  ~WorkerLoop();
  WorkerLoop(const WorkerLoop&) = delete;
  WorkerLoop& operator=(const WorkerLoop&) = delete;

  // From now on `source` is polled as well; whoever feeds it rings the doorbell. Null: none; after
  // that returns the last source is no longer polled. Not from Poll.
  void SetSource(JobSource* source);
  // Never blocks. RESOURCE_EXHAUSTED when kWorkerQueuedFramesMax jobs or kWorkerQueuedBytesMax
  // bytes are queued, UNAVAILABLE while draining; `done` does not run then.
  absl::Status Submit(ExpertJob* job);
  // Refuses new jobs; true when those accepted have all ended by `deadline`. Blocks.
  bool Drain(MonotonicTime deadline);
  // From now on no job gets a result: those not ended, and those to come, get `why`.
  void Condemn(const absl::Status& why);
  // Jobs accepted and not ended.
  uint32_t queued() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace octet

#endif  // OCTET_EXPERT_WORKER_WORKER_LOOP_H_
