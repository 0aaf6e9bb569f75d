#include "kernels/exec_context.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#include "core/cpu_list.h"

namespace octet {
namespace {

TEST(ThreadPoolTest, EveryIndexRunsOnceOnAKnownThread) {
  for (const int threads : {1, 2, 3, 5}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    for (int round = 0; round < 300; ++round) {
      const size_t count = static_cast<size_t>(round % 17);
      std::vector<std::atomic<int>> runs(count);
      std::atomic<bool> thread_ok{true};
      pool.ParallelFor(count, [&](size_t i, int thread) {
        runs[i].fetch_add(1);
        if (thread < 0 || thread >= threads) thread_ok = false;
      });
      for (const auto& r : runs) ASSERT_EQ(r.load(), 1);
      ASSERT_TRUE(thread_ok);
    }
  }
}

TEST(ThreadPoolTest, ThreadsRunOnTheirCores) {
  const std::vector<int> allowed = AllowedCores();
  ASSERT_FALSE(allowed.empty());
  const std::vector<int> cores = {allowed.back(), allowed.front()};
  // A thread of its own, since PinCaller binds it for good.
  std::thread([&] {
    ThreadPool pool(2, cores);
    EXPECT_EQ(AllowedCores(), allowed);
    pool.PinCaller();
    std::vector<std::vector<int>> seen(2);
    std::atomic<int> arrived{0};
    pool.ParallelFor(2, [&](size_t, int thread) {
      seen[static_cast<size_t>(thread)] = AllowedCores();
      // Else one thread may take both.
      arrived.fetch_add(1);
      while (arrived.load() < 2) std::this_thread::yield();
    });
    EXPECT_EQ(seen[0], std::vector<int>{cores[0]});
    EXPECT_EQ(seen[1], std::vector<int>{cores[1]});
  }).join();
  EXPECT_EQ(AllowedCores(), allowed);
}

TEST(ThreadPoolTest, ResultsOfWorkersAreVisibleToTheCaller) {
  ThreadPool pool(2);
  std::vector<size_t> out(64);
  for (size_t round = 1; round < 2000; ++round) {
    pool.ParallelFor(out.size(), [&](size_t i, int) { out[i] = round * i; });
    for (size_t i = 0; i < out.size(); ++i) ASSERT_EQ(out[i], round * i);
  }
}

TEST(ArenaTest, MemoryIsAlignedDistinctAndReused) {
  Arena arena;
  void* first_step = nullptr;
  for (int step = 0; step < 4; ++step) {
    Arena::Scope scope(arena);
    std::vector<std::pair<uint8_t*, size_t>> parts;
    for (size_t bytes : {1u, 63u, 64u, 4096u, 3u << 20, 5u << 20}) {
      auto* p = arena.Alloc<uint8_t>(bytes);
      ASSERT_EQ(reinterpret_cast<uintptr_t>(p) % 64, 0u);
      std::memset(p, static_cast<int>(parts.size()), bytes);
      parts.emplace_back(p, bytes);
    }
    for (size_t i = 0; i < parts.size(); ++i) {
      EXPECT_EQ(parts[i].first[0], i);
      EXPECT_EQ(parts[i].first[parts[i].second - 1], i);
    }
    if (step == 2) first_step = parts[0].first;
    if (step == 3) {
      EXPECT_EQ(parts[0].first, first_step);
    }
  }
}

TEST(ArenaTest, InnerScopeFreesOnlyItsOwn) {
  Arena arena;
  Arena::Scope outer(arena);
  auto* kept = arena.Alloc<int>(100);
  kept[99] = 7;
  int* inner_address = nullptr;
  {
    Arena::Scope inner(arena);
    inner_address = arena.Alloc<int>(1 << 20);
    inner_address[0] = 1;
  }
  {
    Arena::Scope inner(arena);
    EXPECT_EQ(arena.Alloc<int>(1 << 20), inner_address);
  }
  EXPECT_EQ(kept[99], 7);
}

TEST(CpuLevelTest, NamesAreUnderstood) {
  EXPECT_EQ(*CpuLevelFromName("scalar"), CpuLevel::kScalar);
  EXPECT_EQ(*CpuLevelFromName("auto"), DetectCpuLevel());
  EXPECT_EQ(CpuLevelFromName("sse9").status().code(), absl::StatusCode::kInvalidArgument);
  for (const CpuLevel level :
       {CpuLevel::kScalar, CpuLevel::kAvx2, CpuLevel::kAvx512, CpuLevel::kAmx}) {
    const auto named = CpuLevelFromName(CpuLevelName(level));
    if (level <= DetectCpuLevel()) {
      EXPECT_EQ(*named, level);
    } else {
      EXPECT_EQ(named.status().code(), absl::StatusCode::kUnimplemented);
    }
  }
}

}  // namespace
}  // namespace octet
