// Who fixes the bits of the experts' products.
#ifndef OCTET_CORE_EXPERT_NUMERICS_H_
#define OCTET_CORE_EXPERT_NUMERICS_H_

#include <cstdint>

namespace octet {

enum class ExpertNumerics : uint8_t {
  // docs/numerics.md: every CPU gives them, and GPUs where the weights are integer.
  kExact,
  // Hopper's tensor cores, for weights in bf16 (docs/gpu.md): such GPUs alone give them. A row's
  // bits still depend on nothing but the row and the weights. A compute digest of its own.
  kHopperBf16,
};

}  // namespace octet

#endif  // OCTET_CORE_EXPERT_NUMERICS_H_
