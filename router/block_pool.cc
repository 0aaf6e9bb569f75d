#include "router/block_pool.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "core/check.h"

namespace octet {

void BlockTable::Reserve(size_t positions) {
  blocks.reserve(KvBlocksFor(positions));
  keys.reserve(positions / kKvBlockPositions);
}

BlockPool::BlockPool(BlockPoolOptions options)
    : options_(std::move(options)), blocks_(options_.blocks) {
  OCTET_CHECK_LT(options_.blocks, size_t{kNone});
  free_.reserve(options_.blocks);
  for (size_t b = options_.blocks; b > 0; --b)
    free_.push_back(BlockId(static_cast<uint32_t>(b - 1)));
  if (!options_.prefix_cache) return;
  tokens_.resize(options_.blocks * kKvBlockPositions);
  buckets_.assign(std::bit_ceil(std::max<size_t>(1, options_.blocks)), kNone);
  found_.reserve(options_.blocks);
}

bool BlockPool::Grow(BlockTable* table, size_t count) {
  const size_t held = table->blocks.size();
  if (held >= count) return true;
  if (count - held > available()) return false;
  while (table->blocks.size() < count) {
    if (free_.empty()) EvictOldest();
    const BlockId block = free_.back();
    free_.pop_back();
    blocks_[block.value()].refs = 1;
    table->blocks.push_back(block);
  }
  return true;
}

void BlockPool::Release(BlockTable* table) {
  for (size_t i = table->blocks.size(); i > 0; --i) GiveBack(table->blocks[i - 1].value());
  table->blocks.clear();
  table->entered = 0;
}

PrefixMatch BlockPool::Find(absl::Span<const TokenId> tokens, size_t blocks_max,
                            BlockTable* table) {
  PrefixMatch match;
  if (!options_.prefix_cache) return match;
  found_.clear();
  blocks_max = std::min(blocks_max, tokens.size() / kKvBlockPositions);
  uint32_t parent = kNone;
  for (size_t i = 0; i < blocks_max; ++i) {
    parent = Lookup(Key(tokens, i, table), parent, *table,
                    tokens.subspan(i * kKvBlockPositions, kKvBlockPositions));
    if (parent == kNone) break;
    found_.push_back(BlockId(parent));
    if (blocks_[parent].refs == 0) ++match.idle;
  }
  match.blocks = found_;
  return match;
}

void BlockPool::Adopt(const PrefixMatch& match, BlockTable* table) {
  OCTET_CHECK(table->blocks.empty());
  for (const BlockId block : match.blocks) {
    Use(block.value());
    table->blocks.push_back(block);
  }
  table->entered = table->blocks.size();
}

void BlockPool::Enter(absl::Span<const TokenId> tokens, size_t computed, BlockTable* table) {
  if (!options_.prefix_cache) return;
  while ((table->entered + 1) * kKvBlockPositions <= computed) {
    const size_t i = table->entered;
    const Digest& key = Key(tokens, i, table);
    const auto own = tokens.subspan(i * kKvBlockPositions, kKvBlockPositions);
    const uint32_t parent = i == 0 ? kNone : table->blocks[i - 1].value();
    const uint32_t mine = table->blocks[i].value();
    const uint32_t equal = Lookup(key, parent, *table, own);
    if (equal == kNone) {
      Insert(mine, key, parent, *table, own);
    } else {
      Use(equal);
      table->blocks[i] = BlockId(equal);
      GiveBack(mine);
    }
    ++table->entered;
  }
}

void BlockPool::Forget() {
  while (idle_ > 0) EvictOldest();
  OCTET_CHECK_EQ(free_.size(), blocks_.size()) << "forgotten while in use";
}

bool BlockPool::SaltsEqual(const std::shared_ptr<const std::string>& a,
                           const std::shared_ptr<const std::string>& b) {
  const absl::string_view left = a == nullptr ? absl::string_view() : *a;
  const absl::string_view right = b == nullptr ? absl::string_view() : *b;
  return left == right;
}

// What stands before the first block: the model and the salt. The digest is hexadecimal, so the
// separator cannot be a part of it.
Digest BlockPool::RootKey(const BlockTable& table) {
  sha_.Update(options_.compute_digest.data(), options_.compute_digest.size());
  sha_.Update("\n", 1);
  if (table.salt != nullptr) sha_.Update(table.salt->data(), table.salt->size());
  return sha_.FinishAndRestart();
}

const Digest& BlockPool::Key(absl::Span<const TokenId> tokens, size_t i, BlockTable* table) {
  while (table->keys.size() <= i) {
    const size_t at = table->keys.size();
    const Digest previous = at == 0 ? RootKey(*table) : table->keys.back();
    const auto own = tokens.subspan(at * kKvBlockPositions, kKvBlockPositions);
    if (options_.key) {
      table->keys.push_back(options_.key(previous, own));
      continue;
    }
    sha_.Update(previous.data(), previous.size());
    sha_.Update(own.data(), own.size() * sizeof(TokenId));
    table->keys.push_back(sha_.FinishAndRestart());
  }
  return table->keys[i];
}

uint32_t& BlockPool::BucketOf(const Digest& key) {
  uint64_t bits;
  std::memcpy(&bits, key.data(), sizeof(bits));
  return buckets_[bits & (buckets_.size() - 1)];
}

uint32_t BlockPool::Lookup(const Digest& key, uint32_t parent, const BlockTable& table,
                           absl::Span<const TokenId> tokens) {
  for (uint32_t b = BucketOf(key); b != kNone; b = blocks_[b].bucket) {
    const Block& block = blocks_[b];
    if (block.key == key && block.parent == parent &&
        std::equal(tokens.begin(), tokens.end(), TokensOf(b)) &&
        (parent != kNone || SaltsEqual(block.salt, table.salt))) {
      return b;
    }
  }
  return kNone;
}

void BlockPool::Insert(uint32_t b, const Digest& key, uint32_t parent, const BlockTable& table,
                       absl::Span<const TokenId> tokens) {
  Block& block = blocks_[b];
  OCTET_CHECK(block.refs == 1 && !block.entered && block.children == 0);
  block.entered = true;
  block.key = key;
  block.parent = parent;
  if (parent == kNone) {
    block.salt = table.salt;
  } else {
    ++blocks_[parent].children;
  }
  std::copy(tokens.begin(), tokens.end(), TokensOf(b));
  uint32_t& bucket = BucketOf(key);
  block.bucket = bucket;
  bucket = b;
}

void BlockPool::Use(uint32_t b) {
  Block& block = blocks_[b];
  if (block.refs++ > 0) return;
  OCTET_CHECK(block.entered) << "a free block taken from the cache";
  (block.older == kNone ? oldest_ : blocks_[block.older].newer) = block.newer;
  (block.newer == kNone ? newest_ : blocks_[block.newer].older) = block.older;
  block.older = block.newer = kNone;
  --idle_;
}

void BlockPool::GiveBack(uint32_t b) {
  OCTET_CHECK(b < blocks_.size() && blocks_[b].refs > 0) << "block released twice";
  Block& block = blocks_[b];
  if (--block.refs > 0) return;
  if (!block.entered) {
    free_.push_back(BlockId(b));
    return;
  }
  block.older = newest_;
  (newest_ == kNone ? oldest_ : blocks_[newest_].newer) = b;
  newest_ = b;
  ++idle_;
}

void BlockPool::EvictOldest() {
  const uint32_t b = oldest_;
  Use(b);
  Block& block = blocks_[b];
  OCTET_CHECK_EQ(block.children, 0u) << "evicted before what follows it";
  if (block.parent != kNone) --blocks_[block.parent].children;
  uint32_t* link = &BucketOf(block.key);
  while (*link != b) link = &blocks_[*link].bucket;
  *link = block.bucket;
  block = Block();
  free_.push_back(BlockId(b));
}

}  // namespace octet
