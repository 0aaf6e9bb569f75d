#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <utility>
#include <vector>

#include "core/check.h"
#include "core/cpu_list.h"
#include "kernels/exec_context.h"

namespace octet {
namespace {

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

int64_t NowNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

constexpr int64_t kSpinNsMax = 50'000;
constexpr int64_t kSpinNsMin = 1'000;
constexpr uint64_t kRemainingMask = 0xffffffff;

// Returns once done(): spins for the budget, then calls block() until it holds. A wait that turns
// out short restores the whole budget and a long one halves it, so that idle threads and machines
// with busy cores soon sleep at once.
template <typename Done, typename Block>
void Await(int64_t* budget_ns, Done done, Block block) {
  if (done()) return;
  const int64_t start = NowNs();
  while (*budget_ns > 0 && NowNs() < start + *budget_ns) {
    for (int i = 0; i < 32; ++i) {
      if (done()) return;
      Pause();
    }
  }
  while (!done()) block();
  if (*budget_ns == 0) return;
  const bool waited_short = NowNs() < start + 2 * kSpinNsMax;
  *budget_ns = waited_short ? kSpinNsMax : std::max(*budget_ns / 2, kSpinNsMin);
}

}  // namespace

// A job is one ParallelFor. `claim` holds (job number << 32 | indices not yet claimed); a claim is
// a compare-and-swap on it, so a late thread can never take an index of a job it does not know. The
// other fields of a job change only between jobs, when nothing of it is claimed and unfinished.
struct ThreadPool::Impl {
  using Fn = absl::FunctionRef<void(size_t, int)>;

  void Work(int thread);
  void Loop(int thread);
  void Pin(int thread) const;

  std::vector<int> cores;
  std::vector<std::thread> workers;
  const Fn* fn = nullptr;
  size_t count = 0;
  alignas(64) std::atomic<uint64_t> claim{0};
  alignas(64) std::atomic<uint32_t> finished{0};
  alignas(64) std::atomic<uint32_t> job{0};
  std::atomic<bool> stop{false};
  int64_t spin_ns = 0;         // the caller's
  int64_t worker_spin_ns = 0;  // what a worker starts with
  bool running = false;
};

// Runs indices of the current job until none is left to claim.
void ThreadPool::Impl::Work(int thread) {
  uint64_t word = claim.load(std::memory_order_acquire);
  while ((word & kRemainingMask) != 0) {
    if (!claim.compare_exchange_weak(word, word - 1, std::memory_order_acq_rel,
                                     std::memory_order_acquire)) {
      continue;
    }
    // The claim pins the job: fn and count stay until this index is finished.
    const size_t total = count;
    const size_t index = total - (word & kRemainingMask);
    (*fn)(index, thread);
    if (finished.fetch_add(1, std::memory_order_acq_rel) + 1 == total) finished.notify_one();
    word = claim.load(std::memory_order_acquire);
  }
}

void ThreadPool::Impl::Pin(int thread) const {
  if (!cores.empty()) (void)PinThisThread(cores[static_cast<size_t>(thread) % cores.size()]);
}

void ThreadPool::Impl::Loop(int thread) {
  Pin(thread);
  uint32_t seen = 0;
  int64_t budget = worker_spin_ns;
  for (;;) {
    const auto changed = [&] { return job.load(std::memory_order_acquire) != seen; };
    Await(&budget, changed, [&] { job.wait(seen, std::memory_order_acquire); });
    seen = job.load(std::memory_order_acquire);
    if (stop.load(std::memory_order_acquire)) return;
    Work(thread);
  }
}

ThreadPool::ThreadPool(int threads, std::vector<int> cores, bool spin)
    : impl_(std::make_unique<Impl>()) {
  OCTET_CHECK_GE(threads, 1);
  const int all = static_cast<int>(std::thread::hardware_concurrency());
  const int usable = cores.empty() ? all : static_cast<int>(cores.size());
  impl_->spin_ns = impl_->worker_spin_ns = spin && threads <= usable ? kSpinNsMax : 0;
  impl_->cores = std::move(cores);
  for (int t = 1; t < threads; ++t) {
    impl_->workers.emplace_back([impl = impl_.get(), t] { impl->Loop(t); });
  }
}

ThreadPool::~ThreadPool() {
  impl_->stop.store(true, std::memory_order_release);
  impl_->job.fetch_add(1, std::memory_order_acq_rel);
  impl_->job.notify_all();
  for (std::thread& worker : impl_->workers) worker.join();
}

void ThreadPool::PinCaller() const {
  thread_local const Impl* pinned_by = nullptr;
  if (pinned_by == impl_.get()) return;
  pinned_by = impl_.get();
  impl_->Pin(0);
}

int ThreadPool::threads() const { return static_cast<int>(impl_->workers.size()) + 1; }

void ThreadPool::ParallelFor(size_t count, absl::FunctionRef<void(size_t, int)> fn) {
  Impl& impl = *impl_;
  OCTET_CHECK(!impl.running) << "ParallelFor inside ParallelFor";
  OCTET_CHECK_LE(count, kRemainingMask);
  if (count <= 1 || impl.workers.empty()) {
    for (size_t i = 0; i < count; ++i) fn(i, 0);
    return;
  }
  impl.running = true;
  impl.fn = &fn;
  impl.count = count;
  impl.finished.store(0, std::memory_order_relaxed);
  const uint64_t number = (impl.claim.load(std::memory_order_relaxed) >> 32) + 1;
  impl.claim.store(number << 32 | count, std::memory_order_release);
  impl.job.fetch_add(1, std::memory_order_acq_rel);
  impl.job.notify_all();
  impl.Work(0);
  const auto done = [&] { return impl.finished.load(std::memory_order_acquire) == count; };
  Await(&impl.spin_ns, done, [&] {
    const uint32_t now = impl.finished.load(std::memory_order_acquire);
    if (now != count) impl.finished.wait(now, std::memory_order_acquire);
  });
  impl.running = false;
}

}  // namespace octet
