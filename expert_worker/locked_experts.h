// Experts whose pages stay in memory: without it the system may evict pages of a mapped file, and
// the next token that needs them waits for the disk.
#ifndef OCTET_EXPERT_WORKER_LOCKED_EXPERTS_H_
#define OCTET_EXPERT_WORKER_LOCKED_EXPERTS_H_

#include "expert_worker/worker_model.h"

namespace octet {

// The same model, with every expert's weights locked (mlock) from its load to its release. A load
// that would pass the limit of locked memory is RESOURCE_EXHAUSTED and names the limit.
WorkerModel LockedWorkerModel(WorkerModel model);

}  // namespace octet

#endif  // OCTET_EXPERT_WORKER_LOCKED_EXPERTS_H_
