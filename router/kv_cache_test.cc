#include "router/kv_cache.h"

#include <cstdint>
#include <random>
#include <set>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace octet {
namespace {

ModelConfig SmallConfig() {
  ModelConfig config;
  config.layers = 3;
  config.kv_heads = 2;
  config.head_dim = 16;
  return config;
}

TEST(BlockAllocatorTest, RandomGrowthNeverSharesABlock) {
  BlockAllocator allocator(50);
  std::vector<std::vector<BlockId>> tables(8);
  std::mt19937 random(7);
  for (int i = 0; i < 5000; ++i) {
    std::vector<BlockId>& table = tables[random() % tables.size()];
    const size_t free_before = allocator.free();
    const size_t held = table.size();
    if (random() % 4 == 0) {
      allocator.Release(&table);
      EXPECT_EQ(allocator.free(), free_before + held);
    } else {
      const size_t wanted = held + random() % 5;
      const bool grown = allocator.Grow(&table, wanted);
      EXPECT_EQ(grown, wanted - held <= free_before);
      EXPECT_EQ(table.size(), grown ? wanted : held);
    }
    std::set<BlockId> all;
    size_t count = 0;
    for (const auto& t : tables) {
      all.insert(t.begin(), t.end());
      count += t.size();
    }
    ASSERT_EQ(all.size(), count);
    ASSERT_EQ(allocator.free() + count, allocator.total());
  }
}

TEST(BlockAllocatorTest, ASecondReleaseIsOurBug) {
  BlockAllocator allocator(2);
  std::vector<BlockId> table;
  ASSERT_TRUE(allocator.Grow(&table, 1));
  std::vector<BlockId> copy = table;
  allocator.Release(&table);
  EXPECT_DEATH(allocator.Release(&copy), "released twice");
}

TEST(KvCacheTest, LayersOfABlockLieSideBySideAndAligned) {
  const ModelConfig config = SmallConfig();
  const size_t layer_bytes = KvBlockLayerBytes(DType::kF16, 2, 16);
  auto cache = KvCache::Create(config, DType::kF16, 3 * layer_bytes * 5 + 17);
  ASSERT_TRUE(cache.ok()) << cache.status();
  EXPECT_EQ((*cache)->blocks(), 5u);
  EXPECT_EQ((*cache)->positions(), 5u * kKvBlockPositions);
  for (uint32_t i = 0; i < 3; ++i) {
    const KvLayer layer = (*cache)->layer(LayerId(i));
    EXPECT_EQ(layer.data, (*cache)->data() + i * layer_bytes);
    EXPECT_EQ(layer.block_stride_bytes, 3 * layer_bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(layer.data) % 64, 0u);
    EXPECT_EQ(layer.kv_heads, 2u);
    EXPECT_EQ(layer.head_dim, 16u);
  }
}

TEST(KvCacheTest, TooLittleMemoryNamesWhatABlockTakes) {
  const size_t block_bytes = 3 * KvBlockLayerBytes(DType::kF32, 2, 16);
  const auto cache = KvCache::Create(SmallConfig(), DType::kF32, block_bytes - 1);
  EXPECT_EQ(cache.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(cache.status().message()),
              testing::HasSubstr(std::to_string(block_bytes)));
}

TEST(KvCacheTest, RefusesOtherTypes) {
  EXPECT_EQ(KvCache::Create(SmallConfig(), DType::kI8, 1 << 20).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace octet
