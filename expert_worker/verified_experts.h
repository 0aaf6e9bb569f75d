// Checks the weights of every expert product: exact integer sums of all weight bytes of a layer are
// made when the expert is loaded and verified, and compared with those of the bytes in memory after
// each product, before it leaves the worker.
#ifndef OCTET_EXPERT_WORKER_VERIFIED_EXPERTS_H_
#define OCTET_EXPERT_WORKER_VERIFIED_EXPERTS_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "core/ids.h"
#include "expert_worker/worker_model.h"
#include "kernels/exec_context.h"

namespace octet {

// Of a multiple of 64 bytes, any alignment. Words of 64 bits go to eight lanes in turn; a lane sums
// its words modulo 2^64, and beside it the running values of that sum, so that words that changed
// places show as well. Both are folded over the lanes with odd factors: a change of one word always
// changes `sum`, others go unseen with a chance of about 2^-64.
WeightSum SumWeights(const uint8_t* data, size_t bytes);

// The model with MappedExpert::sums set by `load`.
WorkerModel SummedWorkerModel(WorkerModel model);

// DATA_LOSS where the layer's weights, as they are in memory now, have other sums than when they
// were loaded. Shared out over `pool` (null: this thread alone). The expert is of a
// SummedWorkerModel.
absl::Status VerifyLayer(const MappedExpert& expert, LayerId layer, ThreadPool* pool);

}  // namespace octet

#endif  // OCTET_EXPERT_WORKER_VERIFIED_EXPERTS_H_
