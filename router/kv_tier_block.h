// The files of the KV tier: a header, then the bytes of one block. Pure.
#ifndef OCTET_ROUTER_KV_TIER_BLOCK_H_
#define OCTET_ROUTER_KV_TIER_BLOCK_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "core/ids.h"
#include "core/limits.h"
#include "core/sha256.h"

namespace octet {

// Names a block: its key (block_pool.h), which follows from the two others, and is compared with
// them when the block is read.
struct KvTierKey {
  Digest key{};
  Digest previous{};
  std::vector<TokenId> tokens;  // kKvBlockPositions
};

// Magic, size of the block, key, previous key, tokens, checksum of the block, checksum of the
// header; little-endian.
inline constexpr size_t kKvTierHeaderBytes = 8 + 8 + 32 + 32 + 4 * kKvBlockPositions + 8;
using KvTierHeader = std::array<uint8_t, kKvTierHeaderBytes>;

KvTierHeader KvTierHeaderOf(const KvTierKey& key, absl::Span<const uint8_t> block);
// True where both are what was written for `key`.
bool IsKvTierBlock(const KvTierHeader& header, absl::Span<const uint8_t> block,
                   const KvTierKey& key);

}  // namespace octet

#endif  // OCTET_ROUTER_KV_TIER_BLOCK_H_
