// Files of the KV tier: whatever lies there is either what was written for the key or no block.
// Links: octet_router
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/check.h"
#include "router/kv_tier_block.h"

namespace {

constexpr size_t kBlockBytes = 96;

octet::KvTierKey Key() {
  octet::KvTierKey key;
  std::fill(key.key.begin(), key.key.end(), uint8_t{1});
  std::fill(key.previous.begin(), key.previous.end(), uint8_t{2});
  for (size_t i = 0; i < octet::kKvBlockPositions; ++i) {
    key.tokens.push_back(static_cast<octet::TokenId>(i));
  }
  return key;
}

}  // namespace

// The file is what was written for a block that begins with the input, changed at the places that
// the rest of the input names: [offset low, offset high, xor] each.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const octet::KvTierKey key = Key();
  std::vector<uint8_t> block(kBlockBytes);
  const size_t head = std::min(size, kBlockBytes);
  std::copy(data, data + head, block.begin());
  octet::KvTierHeader header = octet::KvTierHeaderOf(key, block);
  OCTET_CHECK(octet::IsKvTierBlock(header, block, key));
  const octet::KvTierHeader header_written = header;
  const std::vector<uint8_t> block_written = block;
  for (size_t at = head; at + 3 <= size; at += 3) {
    const size_t offset = (data[at] | data[at + 1] << 8) % (header.size() + block.size());
    uint8_t& byte = offset < header.size() ? header[offset] : block[offset - header.size()];
    byte ^= data[at + 2];
  }
  // CRC-32C finds every change of up to three bytes here; of more, equal checksums are possible.
  const bool same = header == header_written && block == block_written;
  const size_t changes = (size - head) / 3;
  if (same || changes <= 3) OCTET_CHECK(octet::IsKvTierBlock(header, block, key) == same);
  octet::KvTierKey other = key;
  other.tokens[0] ^= 1;
  if (same) OCTET_CHECK(!octet::IsKvTierBlock(header, block, other));
  return 0;
}
