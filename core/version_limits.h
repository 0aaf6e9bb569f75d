// Bounds on the model versions of one cluster.
#ifndef OCTET_CORE_VERSION_LIMITS_H_
#define OCTET_CORE_VERSION_LIMITS_H_

#include <cstdint>

namespace octet {

// Served side by side: one, and another while an upgrade is under way.
inline constexpr uint32_t kVersionsDefault = 2;
inline constexpr uint32_t kVersionsMax = 8;

}  // namespace octet

#endif  // OCTET_CORE_VERSION_LIMITS_H_
