#include "expert_worker/scrubber.h"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/limits.h"
#include "core/log.h"
#include "core/mutex.h"
#include "core/sha256.h"

namespace octet {

absl::Status VerifyExpert(ExpertId id, const MappedExpert& expert, absl::FunctionRef<bool()> pace) {
  const absl::string_view file = expert.file;
  if (file.empty()) return absl::OkStatus();
  const auto found = TreeSha256(reinterpret_cast<const uint8_t*>(file.data()), file.size(), pace);
  if (!found.has_value()) return absl::CancelledError("the scrubber stops");
  const std::string digest = DigestHex(*found);
  if (digest == expert.digest) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat("expert ", id.value(),
                   ": its weights have changed since they were loaded: their "
                   "digest is ",
                   digest, " instead of ", expert.digest));
}

struct Scrubber::Impl {
  void Run();
  // One pass; CANCELLED when the scrubber stops.
  absl::Status Pass();
  // Sleeps after a leaf that took `busy`. False when the scrubber stops.
  bool Pause(Duration busy, Duration fair);
  bool WaitUntil(MonotonicTime when);

  const ExpertStore* store = nullptr;
  ScrubOptions options;
  std::function<void(const absl::Status&)> on_damage;
  const SystemClock clock{};
  mutable Mutex mu;
  CondVar changed;
  bool stopping OCTET_GUARDED_BY(mu) = false;
  ScrubStats stats OCTET_GUARDED_BY(mu);
  std::thread thread;  // last
};

bool Scrubber::Impl::WaitUntil(MonotonicTime when) {
  MutexLock lock(mu);
  while (!stopping) {
    const Duration left = when - clock.Now();
    if (left.ns <= 0) return true;
    changed.WaitFor(mu, std::chrono::nanoseconds(left.ns));
  }
  return false;
}

bool Scrubber::Impl::Pause(Duration busy, Duration fair) {
  const auto rest = static_cast<int64_t>(static_cast<double>(busy.ns) *
                                         (1 / std::max(options.core_share, 1e-6) - 1));
  return WaitUntil(clock.Now() + Duration{std::max(rest, fair.ns - busy.ns)});
}

absl::Status Scrubber::Impl::Pass() {
  const MonotonicTime begin = clock.Now();
  const uint64_t leaves = store->mapped_bytes() / kDigestLeafBytes + 1;
  const Duration fair{options.period.ns / static_cast<int64_t>(leaves)};
  uint64_t bytes = 0;
  for (const ExpertId id : store->Held()) {
    // Held meanwhile, even if the store lets it go.
    const std::shared_ptr<const MappedExpert> expert = store->Find(id);
    if (expert == nullptr) continue;
    MonotonicTime leaf = clock.Now();
    const absl::Status status = VerifyExpert(id, *expert, [&] {
      const bool go_on = Pause(clock.Now() - leaf, fair);
      leaf = clock.Now();
      return go_on;
    });
    if (!status.ok()) return status;
    bytes += expert->file.size();
  }
  MutexLock lock(mu);
  if (bytes == 0) return absl::OkStatus();
  ++stats.passes;
  stats.last_pass = clock.Now() - begin;
  stats.last_bytes = bytes;
  return absl::OkStatus();
}

void Scrubber::Impl::Run() {
  for (;;) {
    const MonotonicTime begin = clock.Now();
    const absl::Status status = Pass();
    if (absl::IsCancelled(status)) return;
    if (!status.ok()) return on_damage(status);
    // What is held may be little, or nothing yet.
    if (!WaitUntil(begin + options.period)) return;
  }
}

Scrubber::Scrubber(const ExpertStore* store, const ScrubOptions& options,
                   std::function<void(const absl::Status&)> on_damage)
    : impl_(std::make_unique<Impl>()) {
  impl_->store = store;
  impl_->options = options;
  impl_->on_damage = std::move(on_damage);
  impl_->thread = std::thread([impl = impl_.get()] { impl->Run(); });
}

Scrubber::~Scrubber() {
  {
    MutexLock lock(impl_->mu);
    impl_->stopping = true;
    impl_->changed.NotifyAll();
  }
  impl_->thread.join();
}

ScrubStats Scrubber::stats() const {
  MutexLock lock(impl_->mu);
  return impl_->stats;
}

}  // namespace octet
