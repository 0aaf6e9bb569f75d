// Who owns which block of the cache, and the prefix cache over them: full blocks stay when their
// request ends and serve the next one that begins with the same tokens. Pure bookkeeping, no memory
// of keys and values. docs/prefix-cache.md describes it for users.
#ifndef OCTET_ROUTER_BLOCK_POOL_H_
#define OCTET_ROUTER_BLOCK_POOL_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "core/ids.h"
#include "core/limits.h"
#include "core/sha256.h"

namespace octet {

// Blocks that hold `positions` positions of one sequence.
constexpr size_t KvBlocksFor(size_t positions) {
  return (positions + kKvBlockPositions - 1) / kKvBlockPositions;
}

// The key of a block from the key before it and its own kKvBlockPositions tokens.
using BlockKeyFn = std::function<Digest(const Digest& previous, absl::Span<const TokenId> tokens)>;

struct BlockPoolOptions {
  size_t blocks = 0;
  bool prefix_cache = true;
  std::string compute_digest;  // of the model: part of every key
  BlockKeyFn key;              // null: SHA-256. Tests force collisions with it
};

// The blocks of one sequence. Written by BlockPool alone, except that its owner sets `salt` before
// the first call.
struct BlockTable {
  // Blocks are shared only between equal salts; null stands for the empty one.
  std::shared_ptr<const std::string> salt;
  std::vector<BlockId> blocks;  // [i] holds positions [64 i, 64 i + 64)
  size_t entered = 0;           // blocks before it are in the prefix cache
  // [i]: of the sequence's first i + 1 blocks of tokens. Each is computed once; they stay through
  // Release, as the tokens of a sequence never change.
  std::vector<Digest> keys;

  // Room for a sequence of so many positions, so that nothing is allocated while it grows.
  void Reserve(size_t positions);
};

// Blocks found by Find. Valid until the next call of the pool.
struct PrefixMatch {
  absl::Span<const BlockId> blocks;
  size_t idle = 0;  // of them: used by nobody else, so that taking them leaves fewer available

  size_t positions() const { return blocks.size() * kKvBlockPositions; }
};

// A block is free, in use by one or more tables, or idle: in the prefix cache and used by nobody.
// Idle blocks are given away when no free one is left, the one that was idle for longest first.
//
// The blocks in the cache form trees: each stands for its own tokens after those of its parent, the
// first ones of a sequence for theirs under a salt. A lookup goes by key and then compares parent,
// tokens and salt, so what is found is right whatever the keys do. A table that uses a block uses
// its parent, and gives back the child first: hence a child is idle for longer than its parent, and
// what is given away is always a leaf.
//
// O(1) a block and nothing allocated, but for the growth of a table that was not reserved. One
// thread.
class BlockPool {
 public:
  explicit BlockPool(BlockPoolOptions options);

  size_t total() const { return blocks_.size(); }
  // Blocks that Grow can give: free and idle ones.
  size_t available() const { return free_.size() + idle_; }
  size_t idle() const { return idle_; }

  // Appends blocks to `table` until it has `count`. All or nothing: false where too few are
  // available.
  bool Grow(BlockTable* table, size_t count);
  // Takes all blocks of `table` back and empties it. Those in the cache stay there.
  void Release(BlockTable* table);

  // The longest chain of cached blocks that a sequence of these tokens begins with, `blocks_max` at
  // most. Changes no block.
  PrefixMatch Find(absl::Span<const TokenId> tokens, size_t blocks_max, BlockTable* table);
  // Makes the blocks of the latest Find the beginning of `table`, which is empty.
  void Adopt(const PrefixMatch& match, BlockTable* table);
  // The first `computed` positions of the sequence are in its blocks: enters the full ones. Where
  // the cache has an equal block, the table takes that one and gives its own back.
  void Enter(absl::Span<const TokenId> tokens, size_t computed, BlockTable* table);
  // Empties the cache. No table uses a block.
  void Forget();
  // The key of block i of a sequence of these tokens (at least 64 (i + 1) of them).
  const Digest& Key(absl::Span<const TokenId> tokens, size_t i, BlockTable* table);
  // The key before it.
  Digest PreviousKey(absl::Span<const TokenId> tokens, size_t i, BlockTable* table) {
    return i == 0 ? RootKey(*table) : Key(tokens, i - 1, table);
  }

 private:
  static constexpr uint32_t kNone = UINT32_MAX;
  struct Block {
    uint32_t refs = 0;  // tables that use it
    bool entered = false;
    // Where entered:
    uint32_t parent = kNone;
    uint32_t children = 0;    // blocks whose parent it is
    uint32_t bucket = kNone;  // the next in its bucket
    uint32_t older = kNone;   // neighbours among the idle ones
    uint32_t newer = kNone;
    Digest key{};
    std::shared_ptr<const std::string> salt;  // of a block without parent
  };

  static bool SaltsEqual(const std::shared_ptr<const std::string>& a,
                         const std::shared_ptr<const std::string>& b);
  Digest RootKey(const BlockTable& table);
  TokenId* TokensOf(uint32_t block) { return tokens_.data() + size_t{block} * kKvBlockPositions; }
  uint32_t& BucketOf(const Digest& key);
  uint32_t Lookup(const Digest& key, uint32_t parent, const BlockTable& table,
                  absl::Span<const TokenId> tokens);
  void Insert(uint32_t block, const Digest& key, uint32_t parent, const BlockTable& table,
              absl::Span<const TokenId> tokens);
  void Use(uint32_t block);
  void GiveBack(uint32_t block);
  void EvictOldest();

  const BlockPoolOptions options_;
  Sha256Stream sha_;
  std::vector<Block> blocks_;
  std::vector<TokenId> tokens_;    // [block][kKvBlockPositions], of the entered ones
  std::vector<BlockId> free_;      // the next one handed out is the last
  std::vector<uint32_t> buckets_;  // first block of each; a power of two of them
  std::vector<BlockId> found_;     // by the latest Find
  uint32_t oldest_ = kNone;        // of the idle blocks
  uint32_t newest_ = kNone;
  size_t idle_ = 0;
};

}  // namespace octet

#endif  // OCTET_ROUTER_BLOCK_POOL_H_
