// What came of workers in some steps. Each worker once.
#ifndef OCTET_TRANSPORT_WORKER_USE_H_
#define OCTET_TRANSPORT_WORKER_USE_H_

#include <algorithm>
#include <vector>

#include "core/ids.h"

namespace octet {

struct WorkerUse {
  std::vector<WorkerId> used;     // their replies were taken
  std::vector<WorkerId> damaged;  // refused because their weights are: earlier replies may be wrong

  static void Add(WorkerId id, std::vector<WorkerId>* ids) {
    if (std::find(ids->begin(), ids->end(), id) == ids->end()) ids->push_back(id);
  }
};

}  // namespace octet

#endif  // OCTET_TRANSPORT_WORKER_USE_H_
