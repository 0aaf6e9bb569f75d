// Checks every expert product before its result leaves the worker. Of integer layers two things are
// compared with what they were when the expert was loaded and verified: the product's integers,
// through exact columns of check sums (CheckedExpertFfn), and then sums of the bytes of its scales.
// Of float layers, whose sums are not exact, all weight bytes.
#ifndef OCTET_EXPERT_WORKER_VERIFIED_EXPERTS_H_
#define OCTET_EXPERT_WORKER_VERIFIED_EXPERTS_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "core/ids.h"
#include "expert_worker/worker_model.h"
#include "kernels/exec_context.h"
#include "kernels/kernels.h"

namespace octet {

// Of `blocks` blocks, each a multiple of 64 bytes, that begin `stride` bytes apart; any alignment.
// Words of 64 bits go to eight lanes in turn; a lane sums its words modulo 2^64, and beside it the
// running values of that sum, so that words that changed places show as well. Both are folded over
// the lanes with odd factors: a change of one word always changes `sum`, others go unseen with a
// chance of about 2^-64.
WeightSum SumWeights(const uint8_t* data, size_t bytes, size_t blocks = 1, size_t stride = 0);

// The model with MappedExpert::sums set by `load`.
WorkerModel SummedWorkerModel(WorkerModel model);

// As RunExpert (expert_ffn.h), and DATA_LOSS where the product is not that of the weights that were
// loaded. `out` is of no use then. The expert is of a SummedWorkerModel.
absl::Status RunVerifiedExpert(const ExecContext& ctx, const MappedExpert& expert, LayerId layer,
                               const ExpertInput& input, absl::Span<const uint32_t> rows,
                               TensorF32 out);

// DATA_LOSS where the layer's weights, as they are in memory now, have other sums than when they
// were loaded. Shared out over `pool` (null: this thread alone).
absl::Status VerifyLayer(const MappedExpert& expert, LayerId layer, ThreadPool* pool);

}  // namespace octet

#endif  // OCTET_EXPERT_WORKER_VERIFIED_EXPERTS_H_
