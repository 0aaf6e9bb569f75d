// Bounds of the transport over NCCL, beside core/limits.h.
#ifndef OCTET_CORE_NCCL_LIMITS_H_
#define OCTET_CORE_NCCL_LIMITS_H_

#include <cstddef>
#include <cstdint>

#include "core/limits.h"

namespace octet {

// Devices of one host.
inline constexpr int kNcclDevicesMax = 64;
// Routers connected to one worker; each costs two communicators.
inline constexpr uint32_t kNcclRoutersMax = 64;
// From the first call to a communicator that has moved bytes: the peer's start, the connection and
// the first transfer, which takes the better part of a second by itself.
inline constexpr int64_t kNcclConnectMs = 30'000;
// One transfer, from its issue to its end: a time of its own, and one by its size at the slowest
// network worth the name.
inline constexpr int64_t kNcclTransferMs = 2'000;
inline constexpr uint64_t kNcclBytesPerMsMin = 64u << 10;
// A close in good order; after that the communicators are aborted.
inline constexpr int64_t kNcclCloseMs = 1'000;
// Between two attempts to connect; doubles.
inline constexpr int64_t kNcclReopenMsMin = 20;
inline constexpr int64_t kNcclReopenMsMax = 1'000;
// Transfers of one direction that are on the device's stream at once.
inline constexpr size_t kNcclStreamTransfersMax = 4;
// Rows of a decode step that travel in a transfer of fixed size.
inline constexpr uint32_t kNcclBucketRows = 64;
// Memory for rows of all pairs of a device, there and, where the host uses them, again here.
inline constexpr uint64_t kNcclPoolBytesMax = 4ull << 30;
inline constexpr size_t kNcclPoolBufferBytesMin = 4096;
// Pieces that lie ready for decode steps, per direction, when a pair is made.
inline constexpr size_t kNcclReservedBuffers = 8;
// Of any transfer.
inline constexpr uint64_t kNcclTransferBytesMax = kFrameBytesMax;
// How often an idle communicator is asked whether it has failed.
inline constexpr int64_t kNcclIdlePollMs = 100;

}  // namespace octet

#endif  // OCTET_CORE_NCCL_LIMITS_H_
