// Whether a peer's dispatch may run on this worker: the same answer whatever brought it here.
#ifndef OCTET_EXPERT_WORKER_ADMISSION_H_
#define OCTET_EXPERT_WORKER_ADMISSION_H_

#include "absl/status/status.h"
#include "expert_worker/expert_store.h"
#include "expert_worker/worker_loop.h"
#include "rpc/expert_codec.h"

namespace octet {

// What a worker of this model takes.
DispatchShape ShapeOf(const WorkerModel& model);

// Checks a dispatch and turns it into a job, all but `reply` and `done`; what `dispatch` views must
// outlive it. The job's groups are taken as they are, so that their memory can be used again.
//   FAILED_PRECONDITION another compute digest, INVALID_ARGUMENT malformed or a reply larger than a
//   frame, NOT_FOUND an expert that is not held.
absl::Status AdmitDispatch(const DispatchView& dispatch, const ExpertStore& store,
                           const DispatchShape& shape, ExpertJob* job);

}  // namespace octet

#endif  // OCTET_EXPERT_WORKER_ADMISSION_H_
