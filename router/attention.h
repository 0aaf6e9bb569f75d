// The attention half of a layer.
#ifndef OCTET_ROUTER_ATTENTION_H_
#define OCTET_ROUTER_ATTENTION_H_

#include <cstdint>

#include "absl/types/span.h"
#include "core/model_config.h"
#include "kernels/kernels.h"
#include "model/model_package.h"
#include "router/step_buffers.h"

namespace octet {

// cos and sin of every position the cache can hold, [positions][head_dim / 2].
struct RopeTables {
  RopeTables(const ModelConfig& config, size_t positions);
  AlignedBuffer<float> cos;
  AlignedBuffer<float> sin;
};

// x += o · attention(rope(q · n), rope(k · n), v · n) with n = rms_norm(x); appends k and v to
// `cache`. Writes the other row views of `part`. Positions lie inside the tables. Blocks the
// calling thread until done.
void AttentionBlock(const ExecContext& ctx, const ModelConfig& config,
                    const RouterLayerWeights& weights, const KvLayer& cache, const RopeTables& rope,
                    const MicroBatch& part);

}  // namespace octet

#endif  // OCTET_ROUTER_ATTENTION_H_
