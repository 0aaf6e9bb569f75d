// Whether a generation request can be run by this model.
#ifndef OCTET_ROUTER_REQUEST_CHECK_H_
#define OCTET_ROUTER_REQUEST_CHECK_H_

#include <cstdint>

#include "absl/status/status.h"
#include "router/generation.h"

namespace octet {

// INVALID_ARGUMENT names the field, its value and what is allowed. The prompt has to leave room for
// one token in `context_max`; ids lie in [0, vocab).
absl::Status CheckRequest(const GenerationRequest& request, uint32_t vocab, uint32_t context_max);

}  // namespace octet

#endif  // OCTET_ROUTER_REQUEST_CHECK_H_
