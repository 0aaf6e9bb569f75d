#include "transport/nccl/device_thread.h"

#include <algorithm>
#include <chrono>
#include <future>
#include <thread>
#include <utility>
#include <vector>

#include "core/mutex.h"
#include "core/nccl_limits.h"

namespace octet {
namespace {

// Polls follow each other for so long after something moved; then the thread sleeps for an eighth
// of the time in which nothing did, within these bounds.
constexpr Duration kSpin = Duration::Micros(100);
constexpr Duration kPauseMin = Duration::Micros(20);
constexpr Duration kPauseMax = Duration::Millis(1);

}  // namespace

struct NcclDeviceThread::Impl {
  Impl(NcclApi* a, const NcclDeviceOptions& o, const Clock* c)
      : api(a), options(o), clock(c), pool(RowPool::Create(a, o.device)) {}

  void Main(std::promise<absl::Status> started);
  // True when something moved or ran.
  bool Turn();
  void Wait(MonotonicTime last_moved) OCTET_EXCLUDES(mu);

  NcclApi* const api;
  const NcclDeviceOptions options;
  const Clock* const clock;
  const std::shared_ptr<RowPool> pool;
  std::vector<std::shared_ptr<NcclPair>> pairs;  // the thread's

  Mutex mu;
  CondVar changed;
  std::vector<absl::AnyInvocable<void()>> tasks OCTET_GUARDED_BY(mu);
  bool stopping OCTET_GUARDED_BY(mu) = false;
  std::thread thread;
};

void NcclDeviceThread::Impl::Main(std::promise<absl::Status> started) {
  const absl::Status usable = api->UseDevice(options.device);
  started.set_value(usable);
  if (!usable.ok()) return;
  MonotonicTime last_moved = clock->Now();
  for (;;) {
    if (Turn()) {
      last_moved = clock->Now();
      continue;
    }
    {
      MutexLock lock(mu);
      if (stopping && tasks.empty() && pairs.empty()) return;
    }
    Wait(last_moved);
  }
}

bool NcclDeviceThread::Impl::Turn() {
  std::vector<absl::AnyInvocable<void()>> due;
  bool stop = false;
  {
    MutexLock lock(mu);
    due.swap(tasks);
    stop = stopping;
  }
  for (absl::AnyInvocable<void()>& task : due) task();
  bool moved = !due.empty();
  due.clear();
  const MonotonicTime now = clock->Now();
  bool broken = false;
  for (const std::shared_ptr<NcclPair>& pair : pairs) {
    if (stop) pair->Fail(absl::CancelledError("NCCL: the device's thread ends"));
    moved = pair->Poll(now) || moved;
    broken = broken || pair->state() == NcclPairState::kBroken;
  }
  if (broken) {
    std::vector<NcclPair*> all;
    for (const std::shared_ptr<NcclPair>& pair : pairs) all.push_back(pair.get());
    AbortPairs(api, all);
    const Duration taken = clock->Now() - now;
    for (NcclPair* pair : all) pair->Extend(taken);
    moved = true;
  }
  pairs.erase(std::remove_if(pairs.begin(), pairs.end(),
                             [](const std::shared_ptr<NcclPair>& pair) {
                               return pair->state() == NcclPairState::kGone;
                             }),
              pairs.end());
  return moved;
}

void NcclDeviceThread::Impl::Wait(MonotonicTime last_moved) {
  const bool busy = std::any_of(pairs.begin(), pairs.end(),
                                [](const std::shared_ptr<NcclPair>& p) { return p->busy(); });
  Duration pause = Duration::Millis(kNcclIdlePollMs);
  if (busy) {
    const Duration quiet = clock->Now() - last_moved;
    if (quiet < kSpin) {
      std::this_thread::yield();
      return;
    }
    pause = std::clamp(Duration{quiet.ns / 8}, kPauseMin, kPauseMax);
  }
  MutexLock lock(mu);
  if (tasks.empty() && !stopping) changed.WaitFor(mu, std::chrono::nanoseconds(pause.ns));
}

absl::StatusOr<std::shared_ptr<NcclDeviceThread>> NcclDeviceThread::Start(
    NcclApi* api, const NcclDeviceOptions& options, const Clock* clock) {
  auto impl = std::make_unique<Impl>(api, options, clock);
  std::promise<absl::Status> promise;
  std::future<absl::Status> started = promise.get_future();
  impl->thread = std::thread(
      [raw = impl.get(), p = std::move(promise)]() mutable { raw->Main(std::move(p)); });
  auto thread = std::shared_ptr<NcclDeviceThread>(new NcclDeviceThread(std::move(impl)));
  const absl::Status status = started.get();
  if (!status.ok()) return status;
  return thread;
}

NcclDeviceThread::NcclDeviceThread(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

NcclDeviceThread::~NcclDeviceThread() {
  {
    MutexLock lock(impl_->mu);
    impl_->stopping = true;
    impl_->changed.NotifyAll();
  }
  impl_->thread.join();
}

NcclApi* NcclDeviceThread::api() const { return impl_->api; }
int NcclDeviceThread::device() const { return impl_->options.device; }
RowPool* NcclDeviceThread::pool() const { return impl_->pool.get(); }
const NcclDeadlines& NcclDeviceThread::deadlines() const { return impl_->options.deadlines; }

void NcclDeviceThread::Run(absl::AnyInvocable<void()> task) {
  MutexLock lock(impl_->mu);
  impl_->tasks.push_back(std::move(task));
  impl_->changed.NotifyOne();
}

void NcclDeviceThread::Add(std::shared_ptr<NcclPair> pair) {
  Run([impl = impl_.get(), p = std::move(pair)]() mutable { impl->pairs.push_back(std::move(p)); });
}

void NcclDeviceThread::Submit(std::shared_ptr<NcclPair> pair, NcclLane lane,
                              NcclTransfer transfer) {
  Run([p = std::move(pair), lane, t = std::move(transfer)]() mutable {
    p->Submit(lane, std::move(t));
  });
}

void NcclDeviceThread::Fail(std::shared_ptr<NcclPair> pair, absl::Status why) {
  Run([p = std::move(pair), w = std::move(why)] { p->Fail(w); });
}

void NcclDeviceThread::Close(std::shared_ptr<NcclPair> pair) {
  Run([p = std::move(pair), clock = impl_->clock] { p->Close(clock->Now()); });
}

}  // namespace octet
