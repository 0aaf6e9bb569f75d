// Bounds of memory shared between processes of one host, beside core/limits.h.
#ifndef OCTET_CORE_SHM_LIMITS_H_
#define OCTET_CORE_SHM_LIMITS_H_

#include <cstdint>

namespace octet {

// Routers connected to one worker.
inline constexpr uint32_t kShmRoutersMax = 64;
// Address space; pages are taken when they are first used.
inline constexpr uint64_t kShmArenaBytesMax = 4ull << 30;
// How long a peer on this host may take to answer while shared memory is set up.
inline constexpr int64_t kShmHandshakeMs = 2'000;
// Longest sleep of a worker's compute thread, whatever peers do to its doorbell.
inline constexpr int64_t kWorkerSleepMsMax = 100;

}  // namespace octet

#endif  // OCTET_CORE_SHM_LIMITS_H_
