#include "router/kv_tier_block.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "core/check.h"
#include "core/crc32c.h"

namespace octet {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr uint64_t kMagic = 0x31564b544554434f;  // "OCTETKV1"

// No padding.
struct Fields {
  uint64_t magic = kMagic;
  uint64_t block_bytes = 0;
  Digest key{};
  Digest previous{};
  TokenId tokens[kKvBlockPositions] = {};
  uint32_t block_checksum = 0;
  uint32_t header_checksum = 0;  // of all before it
};
static_assert(sizeof(Fields) == kKvTierHeaderBytes);

}  // namespace

KvTierHeader KvTierHeaderOf(const KvTierKey& key, absl::Span<const uint8_t> block) {
  OCTET_CHECK_EQ(key.tokens.size(), size_t{kKvBlockPositions});
  Fields fields;
  fields.block_bytes = block.size();
  fields.key = key.key;
  fields.previous = key.previous;
  std::copy(key.tokens.begin(), key.tokens.end(), fields.tokens);
  fields.block_checksum = Crc32c(block.data(), block.size());
  fields.header_checksum = Crc32c(&fields, offsetof(Fields, header_checksum));
  return std::bit_cast<KvTierHeader>(fields);
}

// Everything a header says follows from the key and the block.
bool IsKvTierBlock(const KvTierHeader& header, absl::Span<const uint8_t> block,
                   const KvTierKey& key) {
  return header == KvTierHeaderOf(key, block);
}

}  // namespace octet
