// Fork-join over independent pieces of loading and packing work.
#ifndef OCTET_MODEL_PARALLEL_H_
#define OCTET_MODEL_PARALLEL_H_

#include <cstddef>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"

namespace octet {

// Calls work(index) for every index in [0, count) on up to `threads` threads, the calling one
// among them, and returns when all have ended. After a failure no new piece starts; the failure of
// the lowest index that failed is returned. on_progress(done) is called from the calling thread
// only.
absl::Status RunParallel(int threads, size_t count,
                         absl::FunctionRef<absl::Status(size_t index)> work,
                         absl::FunctionRef<void(size_t done)> on_progress);

// Threads worth starting for such work on this machine, from 1 to kLoadThreadsMax.
int LoadThreads();

}  // namespace octet

#endif  // OCTET_MODEL_PARALLEL_H_
