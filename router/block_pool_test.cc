#include "router/block_pool.h"

#include <algorithm>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace octet {
namespace {

constexpr size_t kBlock = kKvBlockPositions;

BlockPoolOptions Options(size_t blocks) {
  BlockPoolOptions options;
  options.blocks = blocks;
  options.compute_digest = "0123";
  return options;
}

// Everything collides with everything, beginnings under different salts too.
Digest SameKey(const Digest&, absl::Span<const TokenId>) { return Digest{}; }

// `blocks` blocks of tokens, each block one of `kinds` (as block b of the sequence).
std::vector<TokenId> Tokens(const std::vector<int>& kinds) {
  std::vector<TokenId> tokens;
  for (const int kind : kinds) {
    for (size_t i = 0; i < kBlock; ++i) tokens.push_back(kind * 1000 + static_cast<TokenId>(i));
  }
  return tokens;
}

// A sequence that takes what the cache has, computes the rest and stays.
BlockTable Compute(BlockPool* pool, const std::vector<TokenId>& tokens,
                   const std::string& salt = "") {
  BlockTable table;
  if (!salt.empty()) table.salt = std::make_shared<const std::string>(salt);
  pool->Adopt(pool->Find(tokens, tokens.size() / kBlock, &table), &table);
  EXPECT_TRUE(pool->Grow(&table, KvBlocksFor(tokens.size())));
  pool->Enter(tokens, tokens.size(), &table);
  return table;
}

size_t Cached(BlockPool* pool, const std::vector<TokenId>& tokens, const std::string& salt = "") {
  BlockTable table;
  if (!salt.empty()) table.salt = std::make_shared<const std::string>(salt);
  return pool->Find(tokens, tokens.size(), &table).blocks.size();
}

// What the pool must do, written with sets and lists and no regard for time.
class Model {
 public:
  using Path = std::pair<std::string, std::vector<int>>;  // salt, kinds of the blocks so far
  struct Sequence {
    std::string salt;
    std::vector<int> kinds;
    size_t entered = 0;
    std::vector<Path> used;  // one for each block: its path where entered, else empty
  };

  explicit Model(size_t blocks) : total_(blocks) {}

  static Path PathOf(const Sequence& s, size_t count) {
    return {s.salt, {s.kinds.begin(), s.kinds.begin() + static_cast<ptrdiff_t>(count)}};
  }
  size_t Find(const Sequence& s, size_t max) const {
    size_t n = 0;
    while (n < max && n < s.kinds.size() && refs_.count(PathOf(s, n + 1)) > 0) ++n;
    return n;
  }
  size_t available() const { return total_ - private_ - refs_.size() + idle_.size(); }
  size_t idle() const { return idle_.size(); }
  const std::map<Path, int>& cached() const { return refs_; }

  void Adopt(Sequence* s, size_t count) {
    for (size_t i = 0; i < count; ++i) UsePath(s, i);
    s->entered = count;
  }
  bool Grow(Sequence* s, size_t count) {
    if (count <= s->used.size()) return true;
    if (count - s->used.size() > available()) return false;
    while (s->used.size() < count) {
      if (private_ + refs_.size() == total_) {
        refs_.erase(idle_.front());
        idle_.pop_front();
      }
      ++private_;
      s->used.emplace_back();
    }
    return true;
  }
  void Enter(Sequence* s, size_t count) {
    for (; s->entered < count; ++s->entered) {
      --private_;
      UsePath(s, s->entered);
    }
  }
  void Release(Sequence* s) {
    for (size_t i = s->used.size(); i > 0; --i) {
      if (i > s->entered) {
        --private_;
      } else if (--refs_.at(PathOf(*s, i)) == 0) {
        idle_.push_back(PathOf(*s, i));
      }
    }
    s->used.clear();
    s->entered = 0;
  }

 private:
  void UsePath(Sequence* s, size_t i) {
    const Path path = PathOf(*s, i + 1);
    if (refs_[path]++ == 0) idle_.remove(path);
    if (s->used.size() <= i) s->used.emplace_back();
    s->used[i] = path;
  }

  const size_t total_;
  size_t private_ = 0;        // in use and not in the cache
  std::map<Path, int> refs_;  // of what is in the cache
  std::list<Path> idle_;      // longest idle first
};

struct Live {
  Model::Sequence model;
  std::vector<TokenId> tokens;
  BlockTable table;
};

// Blocks in use by different sequences are the same exactly where salt and tokens are, and nothing
// is lost.
void CheckAll(BlockPool* pool, const Model& model, const std::vector<Live>& live) {
  ASSERT_EQ(pool->available(), model.available());
  ASSERT_EQ(pool->idle(), model.idle());
  std::map<BlockId, Model::Path> owner;
  std::set<BlockId> in_use;
  for (const Live& l : live) {
    ASSERT_EQ(l.table.blocks.size(), l.model.used.size());
    ASSERT_EQ(l.table.entered, l.model.entered);
    for (size_t i = 0; i < l.table.blocks.size(); ++i) {
      const bool first = in_use.insert(l.table.blocks[i]).second;
      const auto it = owner.find(l.table.blocks[i]);
      if (!first) {
        ASSERT_TRUE(it != owner.end() && i < l.table.entered) << "a private block is shared";
        ASSERT_EQ(it->second, Model::PathOf(l.model, i + 1));
      }
      if (i < l.table.entered) owner[l.table.blocks[i]] = Model::PathOf(l.model, i + 1);
    }
  }
  ASSERT_EQ(in_use.size() + pool->available(), pool->total());
}

// The cache has exactly what the model says: nothing more, nothing less.
void CheckCached(BlockPool* pool, const Model& model) {
  for (const auto& [path, refs] : model.cached()) {
    std::vector<int> kinds = path.second;
    ASSERT_EQ(Cached(pool, Tokens(kinds), path.first), kinds.size());
    // No other salt sees more than the model has under it.
    Model::Sequence other{path.first == "a" ? "b" : "a", kinds, 0, {}};
    ASSERT_EQ(Cached(pool, Tokens(kinds), other.salt), model.Find(other, kinds.size()));
    for (int next = 0; next < 3; ++next) {
      kinds.push_back(next);
      const bool known = model.cached().count({path.first, kinds}) > 0;
      ASSERT_EQ(Cached(pool, Tokens(kinds), path.first), kinds.size() - (known ? 0 : 1));
      kinds.pop_back();
    }
  }
}

void RunRandom(uint32_t seed, BlockPoolOptions options) {
  std::mt19937 random(seed);
  BlockPool pool(options);
  Model model(options.blocks);
  std::vector<Live> live;
  const std::vector<std::string> salts = {"", "a", "b"};
  for (int step = 0; step < 400; ++step) {
    const uint32_t what = random() % 10;
    if (what < 3 && live.size() < 6) {
      Live l;
      l.model.salt = salts[random() % salts.size()];
      for (size_t n = 1 + random() % 5; n > 0; --n) {
        l.model.kinds.push_back(static_cast<int>(random() % 3));
      }
      l.tokens = Tokens(l.model.kinds);
      if (!l.model.salt.empty()) l.table.salt = std::make_shared<const std::string>(l.model.salt);
      const size_t max = random() % 6;
      const PrefixMatch match = pool.Find(l.tokens, max, &l.table);
      ASSERT_EQ(match.blocks.size(), model.Find(l.model, max));
      pool.Adopt(match, &l.table);
      model.Adopt(&l.model, match.blocks.size());
      live.push_back(std::move(l));
    } else if (!live.empty()) {
      Live& l = live[random() % live.size()];
      if (what < 6) {
        const size_t wanted = std::min(l.model.kinds.size(), l.table.blocks.size() + random() % 3);
        ASSERT_EQ(pool.Grow(&l.table, wanted), model.Grow(&l.model, wanted));
      } else if (what < 8) {
        // Not always up to the end of a block.
        const size_t computed = l.table.blocks.size() * kBlock - random() % 70 % kBlock;
        if (l.table.blocks.empty() || computed / kBlock < l.model.entered) continue;
        pool.Enter(l.tokens, computed, &l.table);
        model.Enter(&l.model, computed / kBlock);
      } else {
        pool.Release(&l.table);
        model.Release(&l.model);
        std::swap(l, live.back());
        live.pop_back();
      }
    }
    ASSERT_NO_FATAL_FAILURE(CheckAll(&pool, model, live)) << "seed " << seed << " step " << step;
    if (step % 10 == 0) {
      ASSERT_NO_FATAL_FAILURE(CheckCached(&pool, model)) << "seed " << seed;
    }
  }
  for (Live& l : live) pool.Release(&l.table);
  EXPECT_EQ(pool.available(), pool.total());
}

TEST(BlockPoolTest, RandomUseAgreesWithAPlainModel) {
  for (uint32_t seed = 0; seed < 60; ++seed) {
    ASSERT_NO_FATAL_FAILURE(RunRandom(seed, Options(4 + seed % 20)));
  }
}

TEST(BlockPoolTest, RandomUseAgreesWithAPlainModelWhenEveryKeyCollides) {
  for (uint32_t seed = 100; seed < 130; ++seed) {
    BlockPoolOptions options = Options(4 + seed % 20);
    options.key = SameKey;
    ASSERT_NO_FATAL_FAILURE(RunRandom(seed, options));
  }
}

TEST(BlockPoolTest, TokensAreComparedAndNotOnlyKeys) {
  BlockPoolOptions options = Options(8);
  options.key = SameKey;
  BlockPool pool(options);
  BlockTable first = Compute(&pool, Tokens({1, 2}));
  EXPECT_EQ(Cached(&pool, Tokens({1, 2})), 2u);
  EXPECT_EQ(Cached(&pool, Tokens({1, 1})), 1u);
  EXPECT_EQ(Cached(&pool, Tokens({2, 2})), 0u);
  std::vector<TokenId> last_differs = Tokens({1, 2});
  last_differs.back() += 1;
  EXPECT_EQ(Cached(&pool, last_differs), 1u);
  EXPECT_EQ(Cached(&pool, Tokens({1, 2}), "salt"), 0u);
}

TEST(BlockPoolTest, ASaltSharesWithItselfAlone) {
  BlockPool pool(Options(16));
  const BlockTable plain = Compute(&pool, Tokens({1, 2}));
  const BlockTable salted = Compute(&pool, Tokens({1, 2}), "tenant");
  EXPECT_NE(plain.blocks, salted.blocks);
  EXPECT_EQ(Cached(&pool, Tokens({1, 2}), "tenant"), 2u);
  EXPECT_EQ(Cached(&pool, Tokens({1, 2}), "tenan"), 0u);
  EXPECT_EQ(Cached(&pool, Tokens({1, 2}), "tenant2"), 0u);
  EXPECT_EQ(Compute(&pool, Tokens({1, 2}), "tenant").blocks, salted.blocks);
  EXPECT_EQ(Compute(&pool, Tokens({1, 2})).blocks, plain.blocks);
}

// The documented keys, so that what is written here and in docs/prefix-cache.md stays true.
TEST(BlockPoolTest, KeysAreTheDocumentedHashes) {
  BlockPool pool(Options(4));
  const std::vector<TokenId> tokens = Tokens({5, 6});
  const BlockTable table = Compute(&pool, tokens, "s");
  const auto bytes = [](const auto& of, size_t from, size_t count) {
    return std::string(reinterpret_cast<const char*>(of.data() + from), count * sizeof(of[0]));
  };
  const Digest root = Sha256("0123\ns");
  const Digest first = Sha256(bytes(root, 0, 32) + bytes(tokens, 0, kBlock));
  const Digest second = Sha256(bytes(first, 0, 32) + bytes(tokens, kBlock, kBlock));
  EXPECT_EQ(table.keys, (std::vector<Digest>{first, second}));
}

TEST(BlockPoolTest, TheLongestIdleGoesFirstAndLeavesBeforeTheirParents) {
  BlockPool pool(Options(6));
  BlockTable a = Compute(&pool, Tokens({1, 2, 3}));
  BlockTable b = Compute(&pool, Tokens({4, 5}));
  pool.Release(&a);
  pool.Release(&b);
  EXPECT_EQ(pool.idle(), 5u);
  BlockTable other;
  ASSERT_TRUE(pool.Grow(&other, 1));  // the free one
  EXPECT_EQ(Cached(&pool, Tokens({1, 2, 3})), 3u);
  ASSERT_TRUE(pool.Grow(&other, 2));
  EXPECT_EQ(Cached(&pool, Tokens({1, 2, 3})), 2u);
  ASSERT_TRUE(pool.Grow(&other, 4));
  EXPECT_EQ(Cached(&pool, Tokens({1, 2, 3})), 0u);
  EXPECT_EQ(Cached(&pool, Tokens({4, 5})), 2u);
  ASSERT_TRUE(pool.Grow(&other, 5));
  EXPECT_EQ(Cached(&pool, Tokens({4, 5})), 1u);
}

TEST(BlockPoolTest, UseMakesABlockRecent) {
  BlockPool pool(Options(2));
  BlockTable a = Compute(&pool, Tokens({1}));
  BlockTable b = Compute(&pool, Tokens({2}));
  pool.Release(&a);
  pool.Release(&b);
  BlockTable again = Compute(&pool, Tokens({1}));
  pool.Release(&again);
  BlockTable other;
  ASSERT_TRUE(pool.Grow(&other, 1));
  EXPECT_EQ(Cached(&pool, Tokens({1})), 1u);
  EXPECT_EQ(Cached(&pool, Tokens({2})), 0u);
}

TEST(BlockPoolTest, AFullPoolOfBlocksInUseGivesNone) {
  BlockPool pool(Options(4));
  BlockTable a = Compute(&pool, Tokens({1, 2}));
  BlockTable b = Compute(&pool, Tokens({1, 2, 3, 4}));
  EXPECT_EQ(pool.available(), 0u);
  EXPECT_EQ(pool.idle(), 0u);
  BlockTable c;
  EXPECT_FALSE(pool.Grow(&c, 1));
  EXPECT_TRUE(c.blocks.empty());
  // Shared blocks need no more room; they go only with their last user.
  const std::vector<TokenId> tokens = Tokens({1, 2, 7});
  const PrefixMatch match = pool.Find(tokens, 3, &c);
  EXPECT_EQ(match.blocks.size(), 2u);
  EXPECT_EQ(match.idle, 0u);
  pool.Adopt(match, &c);
  EXPECT_FALSE(pool.Grow(&c, 3));
  pool.Release(&a);
  EXPECT_EQ(pool.available(), 0u);
  pool.Release(&b);
  EXPECT_EQ(pool.available(), 2u);
  EXPECT_TRUE(pool.Grow(&c, 3));
}

TEST(BlockPoolTest, EqualBlocksComputedTwiceBecomeOne) {
  BlockPool pool(Options(8));
  const std::vector<TokenId> tokens = Tokens({1, 2});
  BlockTable a, b;
  ASSERT_TRUE(pool.Grow(&a, 2));
  ASSERT_TRUE(pool.Grow(&b, 2));
  pool.Enter(tokens, 2 * kBlock, &a);
  pool.Enter(tokens, 2 * kBlock - 1, &b);
  EXPECT_EQ(b.blocks[0], a.blocks[0]);
  EXPECT_NE(b.blocks[1], a.blocks[1]) << "not full yet";
  pool.Enter(tokens, 2 * kBlock, &b);
  EXPECT_EQ(b.blocks, a.blocks);
  EXPECT_EQ(pool.available(), 6u);
}

TEST(BlockPoolTest, WithoutTheCacheNothingStays) {
  BlockPoolOptions options = Options(4);
  options.prefix_cache = false;
  BlockPool pool(options);
  BlockTable a = Compute(&pool, Tokens({1, 2}));
  EXPECT_EQ(Cached(&pool, Tokens({1, 2})), 0u);
  EXPECT_TRUE(a.keys.empty());
  pool.Release(&a);
  EXPECT_EQ(pool.idle(), 0u);
  EXPECT_EQ(pool.available(), 4u);
}

TEST(BlockPoolTest, ASecondReleaseIsOurBug) {
  BlockPool pool(Options(2));
  BlockTable table;
  ASSERT_TRUE(pool.Grow(&table, 1));
  BlockTable copy = table;
  pool.Release(&table);
  EXPECT_DEATH(pool.Release(&copy), "released twice");
}

}  // namespace
}  // namespace octet
