// Times of a worker that found its weights damaged.
#ifndef OCTET_CORE_SCRUB_LIMITS_H_
#define OCTET_CORE_SCRUB_LIMITS_H_

#include <cstdint>

namespace octet {

// So long it goes on telling routers, one refusal a dispatch, before its process ends.
inline constexpr int64_t kDamagedLingerMs = 1'000;

}  // namespace octet

#endif  // OCTET_CORE_SCRUB_LIMITS_H_
