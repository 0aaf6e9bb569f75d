// The forward pass of a step, wherever it runs: on the host (transformer.h) or on a CUDA device
// (cuda_transformer.h).
#ifndef OCTET_ROUTER_FORWARD_PASS_H_
#define OCTET_ROUTER_FORWARD_PASS_H_

#include <cstddef>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/batch.h"
#include "core/clock.h"
#include "core/model_config.h"
#include "core/tensor_view.h"
#include "kernels/exec_context.h"
#include "transport/worker_use.h"

namespace octet {

// One thread. Logits of a row depend on the tokens of its own sequence alone, bit for bit: not on
// the batch, the chunks, the placement, the threads, the device.
class ForwardPass {
 public:
  virtual ~ForwardPass() = default;

  // Computes the rows of `batch` and writes their K and V to the cache, in up to `micro_batches`
  // parts: while the experts of one part are away, the attention of the other runs. The bits are
  // the same for any number. On UNAVAILABLE (no replica until `give_up`) and CANCELLED the same or
  // another batch may be run: the cache holds nothing that running again does not overwrite.
  virtual absl::Status Forward(const Batch& batch, size_t micro_batches, MonotonicTime give_up) = 0;

  // Logits [count, vocab] of rows batch.logit_rows[begin .. begin + count) of the last Forward that
  // succeeded, on the host; count <= logit_rows_max. Valid until the next call. Not a number where
  // a device has failed.
  virtual absl::StatusOr<ConstTensorF32> Logits(const Batch& batch, size_t begin, size_t count) = 0;

  // What came of workers in the passes since the last call.
  virtual WorkerUse TakeWorkerUse() = 0;

  virtual const ModelConfig& config() const = 0;
  virtual size_t logit_rows_max() const = 0;
  // For work on the host between steps.
  virtual const ExecContext& context() const = 0;
};

}  // namespace octet

#endif  // OCTET_ROUTER_FORWARD_PASS_H_
