// Bounds of the KV cache's tier in files, beside core/limits.h.
#ifndef OCTET_CORE_KV_TIER_LIMITS_H_
#define OCTET_CORE_KV_TIER_LIMITS_H_

#include <cstdint>

namespace octet {

// Copies of blocks that wait to be written; further ones are dropped.
inline constexpr uint64_t kKvTierQueuedBytesMax = 128u << 20;
// Blocks read for requests that have not been admitted yet; beyond it the rest is computed.
inline constexpr uint64_t kKvTierStagedBytesMax = 256u << 20;
// What is left of the limit after old files were deleted, in percent.
inline constexpr uint64_t kKvTierKeptPercent = 90;

}  // namespace octet

#endif  // OCTET_CORE_KV_TIER_LIMITS_H_
