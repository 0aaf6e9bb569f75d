// How fast a worker is against the others: what its operator says with --speed.
#ifndef OCTET_CORE_WORKER_SPEED_H_
#define OCTET_CORE_WORKER_SPEED_H_

#include <cstdint>

namespace octet {

// Of a worker of which nothing was said. One of twice the speed gets twice the experts, and of an
// expert's rows two thirds.
inline constexpr uint32_t kWorkerSpeedEqual = 16;
inline constexpr uint32_t kWorkerSpeedMax = 1024;

}  // namespace octet

#endif  // OCTET_CORE_WORKER_SPEED_H_
