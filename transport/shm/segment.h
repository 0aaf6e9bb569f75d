// What lies where in the memory that one router and one worker share (docs/wire.md). The router
// owns the arena: it chooses the place of each dispatch and of its reply, and frees both when the
// reply has come. Two rings carry fixed-size entries, one each way. Every number that a peer writes
// is copied once and checked before it is used.
#ifndef OCTET_TRANSPORT_SHM_SEGMENT_H_
#define OCTET_TRANSPORT_SHM_SEGMENT_H_

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "core/dispatch_key.h"
#include "core/limits.h"
#include "core/shm_limits.h"
#include "core/wire_format.h"
#include "transport/doorbell.h"

namespace octet {

inline constexpr uint64_t kShmMagic = 0x6f63746574736d31;  // "octetsm1"
inline constexpr uint32_t kShmVersion = 1;
inline constexpr size_t kShmAlign = 64;

// ---- Control socket ----
// Router to worker, with the router's doorbell page.
struct ShmHello {
  uint64_t magic;
  uint32_t version;
  uint32_t reserved;
  uint64_t router;
  uint64_t incarnation;
};
// The worker's answer, with the segment and its own doorbell's page.
struct ShmWelcome {
  uint64_t magic;
  uint32_t version;
  uint32_t reserved;
  uint64_t arena_bytes;
};
inline constexpr size_t kDoorbellPageBytes = 4096;

// ---- Ring entries ----
struct ShmKey {
  uint64_t router;
  uint64_t incarnation;
  uint64_t step;
  uint32_t micro_batch;
  uint32_t layer;
  uint32_t attempt;
  uint32_t reserved;
};

struct ShmRequest {
  ShmKey key;
  uint64_t epoch;
  uint32_t prefill;
  uint32_t row_count;
  uint32_t group_count;
  uint32_t index_count;  // row indices of all groups together: rows of the reply
  uint32_t checksum;     // CRC-32C of the rows
  uint32_t reserved;
  uint64_t offset;        // of the block in the arena
  uint64_t reply_offset;  // where the reply's rows go, f32
  char compute_digest[64];
  char model_version[64];  // cut off where it is longer
  char padding[40];
};
static_assert(sizeof(ShmRequest) == 256);

// A group of a dispatch in its block.
struct ShmGroup {
  uint32_t expert;
  uint32_t rows;
};

struct ShmReply {
  ShmKey key;
  uint32_t error;     // octet.v1.DispatchError
  uint32_t checksum;  // CRC-32C of the reply's rows
  uint64_t compute_ns;
  uint64_t queue_ns;
  uint64_t published_ns;  // CLOCK_MONOTONIC, which both processes read
  char message[248];      // for people, when `error` is set; ends with a zero
};
static_assert(sizeof(ShmReply) == 320);

inline ShmKey ToShmKey(const DispatchKey& key) {
  return {key.router.value(),
          key.incarnation,
          key.step.value(),
          key.micro_batch,
          key.layer.value(),
          key.attempt,
          0};
}
inline DispatchKey FromShmKey(const ShmKey& key) {
  DispatchKey out;
  out.router = RouterId(key.router);
  out.incarnation = key.incarnation;
  out.step = StepId(key.step);
  out.micro_batch = key.micro_batch;
  out.layer = LayerId(key.layer);
  out.attempt = key.attempt;
  return out;
}

// ---- The block of a dispatch: groups, row indices, then the rows at the next aligned place ----
struct ShmBlock {
  size_t indices = 0;  // offsets within the block
  size_t rows = 0;
  size_t bytes = 0;  // of the whole block, aligned
};
constexpr size_t AlignShm(size_t bytes) { return (bytes + kShmAlign - 1) / kShmAlign * kShmAlign; }
// The counts are within their limits, so that nothing overflows.
inline ShmBlock BlockOf(size_t groups, size_t indices, size_t rows, const WireFormat& format) {
  ShmBlock block;
  block.indices = groups * sizeof(ShmGroup);
  block.rows = AlignShm(block.indices + indices * sizeof(uint32_t));
  block.bytes = AlignShm(block.rows + rows * format.RowBytes());
  return block;
}
inline size_t ReplyBytes(size_t rows, const WireFormat& format) {
  return AlignShm(rows * format.hidden * sizeof(float));
}

// ---- The segment ----
// More than a router may have unanswered, so that a ring is never full.
inline constexpr uint32_t kShmRingEntries = 128;
static_assert(kShmRingEntries > kLinkQueuedDispatchesMax);
static_assert(kShmRingEntries > kStreamDispatchesMax);
static_assert((kShmRingEntries & (kShmRingEntries - 1)) == 0);

// Counts entries; only its producer or its consumer writes it.
struct alignas(64) ShmCounter {
  std::atomic<uint32_t> value;
};

struct ShmSegment {
  ShmCounter request_head;  // the router's
  ShmCounter reply_tail;    // the router's
  ShmCounter reply_head;    // the worker's
  alignas(64) ShmRequest requests[kShmRingEntries];
  alignas(64) ShmReply replies[kShmRingEntries];
  // The arena follows, at ArenaOf.
};

inline constexpr size_t kShmArenaOffset = (sizeof(ShmSegment) + 4095) / 4096 * 4096;
inline size_t SegmentBytes(uint64_t arena_bytes) { return kShmArenaOffset + arena_bytes; }
inline uint8_t* ArenaOf(uint8_t* segment) { return segment + kShmArenaOffset; }

}  // namespace octet

#endif  // OCTET_TRANSPORT_SHM_SEGMENT_H_
