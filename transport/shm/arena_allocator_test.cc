#include "transport/shm/arena_allocator.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

namespace octet {
namespace {

TEST(ArenaAllocator, UsesTheLowestPlaceAgain) {
  ArenaAllocator arena(256);
  EXPECT_EQ(arena.Take(64), 0u);
  EXPECT_EQ(arena.Take(128), 64u);
  EXPECT_EQ(arena.Take(128), std::nullopt);
  EXPECT_EQ(arena.Take(64), 192u);
  arena.Give(64);
  EXPECT_EQ(arena.Take(64), 64u);
  EXPECT_EQ(arena.Take(64), 128u);
  EXPECT_EQ(arena.Take(64), std::nullopt);
  for (const uint64_t offset : {0, 64, 128, 192}) arena.Give(offset);
  EXPECT_TRUE(arena.empty());
  EXPECT_EQ(arena.Take(256), 0u);
}

TEST(ArenaAllocator, PiecesNeverOverlapAndStayInside) {
  constexpr uint64_t kBytes = 1 << 16;
  ArenaAllocator arena(kBytes);
  std::map<uint64_t, uint64_t> taken;
  std::mt19937 rng(3);
  for (int i = 0; i < 20'000; ++i) {
    if (rng() % 2 == 0 && !taken.empty()) {
      auto it = taken.lower_bound(rng() % kBytes);
      if (it == taken.end()) it = taken.begin();
      arena.Give(it->first);
      taken.erase(it);
      continue;
    }
    const uint64_t bytes = 64 * (1 + rng() % 64);
    const auto offset = arena.Take(bytes);
    if (!offset.has_value()) continue;
    ASSERT_LE(*offset + bytes, kBytes);
    const auto next = taken.lower_bound(*offset);
    if (next != taken.end()) {
      ASSERT_LE(*offset + bytes, next->first);
    }
    if (next != taken.begin()) {
      ASSERT_LE(std::prev(next)->first + std::prev(next)->second, *offset);
    }
    taken[*offset] = bytes;
  }
}

}  // namespace
}  // namespace octet
