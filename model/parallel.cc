#include "model/parallel.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "core/limits.h"
#include "core/mutex.h"

namespace octet {

absl::Status RunParallel(int threads, size_t count,
                         absl::FunctionRef<absl::Status(size_t index)> work,
                         absl::FunctionRef<void(size_t done)> on_progress) {
  std::atomic<size_t> next{0};
  std::atomic<size_t> done{0};
  std::atomic<bool> failed{false};
  Mutex mu;
  absl::Status status;
  size_t failed_index = count;
  const auto loop = [&](bool reports) {
    while (!failed.load(std::memory_order_relaxed)) {
      const size_t index = next.fetch_add(1, std::memory_order_relaxed);
      if (index >= count) return;
      absl::Status result = work(index);
      if (!result.ok()) {
        MutexLock lock(mu);
        failed.store(true, std::memory_order_relaxed);
        if (index < failed_index) {
          failed_index = index;
          status = std::move(result);
        }
        return;
      }
      const size_t finished = done.fetch_add(1, std::memory_order_relaxed) + 1;
      if (reports) on_progress(finished);
    }
  };
  const int bounded = std::clamp(threads, 1, static_cast<int>(kLoadThreadsMax));
  const size_t helpers = std::min<size_t>(static_cast<size_t>(bounded), std::max<size_t>(count, 1));
  std::vector<std::thread> pool;
  for (size_t i = 1; i < helpers; ++i) pool.emplace_back([&loop] { loop(false); });
  loop(true);
  for (std::thread& thread : pool) thread.join();
  if (status.ok()) on_progress(count);
  return status;
}

int LoadThreads() {
  const unsigned cores = std::thread::hardware_concurrency();
  return static_cast<int>(std::clamp(cores, 1u, kLoadThreadsMax));
}

}  // namespace octet
