// The computation of one expert, as transports and worker loops see it.
#ifndef OCTET_TRANSPORT_EXPERT_FN_H_
#define OCTET_TRANSPORT_EXPERT_FN_H_

#include <cstdint>
#include <functional>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "core/ids.h"
#include "kernels/kernels.h"

namespace octet {

// out[i] = expert(input row rows[i]); out is [rows.size(), hidden]. Blocks until done. NOT_FOUND
// when the expert is not held here, DATA_LOSS when its weights are damaged.
using ExpertFn = std::function<absl::Status(LayerId, ExpertId, const ExpertInput&,
                                            absl::Span<const uint32_t> rows, TensorF32 out)>;

}  // namespace octet

#endif  // OCTET_TRANSPORT_EXPERT_FN_H_
