#include "router/kv_cache.h"

#include <cstdint>
#include <string>

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
  EXPECT_EQ(KvCache::Create(SmallConfig(), DType::kBF16, 1 << 20).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace octet
