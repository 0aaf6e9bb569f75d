#include "router/admission.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "core/check.h"

namespace octet {

namespace {

// Service this long ago counts about half.
constexpr double kMemorySeconds = 5;
// Less is no rate: one step can take this long.
constexpr double kKnownSeconds = 0.5;

}  // namespace

Admission::Admission(const AdmissionOptions& options) : options_(options) {}

absl::Status Admission::Check(uint64_t tokens, bool resumed) const {
  if (waiting_ >= options_.waiting_max + (resumed ? options_.resumed_max : 0)) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the queue is full: ", waiting_, " requests wait"));
  }
  if (waiting_ == 0 || resumed) return absl::OkStatus();
  // Costs are at most twice a context: the sum is far from overflow.
  if (options_.waiting_tokens != 0 && waiting_tokens_ + tokens > options_.waiting_tokens) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the queue is full: ", waiting_, " requests of up to ", waiting_tokens_,
                     " tokens wait; at most ", options_.waiting_tokens, " tokens may"));
  }
  const Duration wait = ExpectedWait();
  if (options_.wait_max.ns != 0 && wait > options_.wait_max) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the queue is full: a request would wait for ", wait.ns / 1'000'000,
                     " ms; at most ", options_.wait_max.ns / 1'000'000, " ms are allowed"));
  }
  return absl::OkStatus();
}

void Admission::Enter(uint64_t tokens, MonotonicTime now) {
  if (waiting_ == 0) seen_ = now;
  ++waiting_;
  waiting_tokens_ += tokens;
}

void Admission::Leave(uint32_t requests, uint64_t tokens, MonotonicTime now) {
  if (waiting_ > 0) ObserveService(tokens, now - seen_);
  seen_ = now;
  OCTET_CHECK(requests <= waiting_ && tokens <= waiting_tokens_);
  waiting_ -= requests;
  waiting_tokens_ -= tokens;
}

void Admission::ObserveService(uint64_t tokens, Duration elapsed) {
  if (elapsed.ns <= 0) return;
  const double keep = kMemorySeconds / (kMemorySeconds + elapsed.seconds());
  served_tokens_ = served_tokens_ * keep + static_cast<double>(tokens);
  served_seconds_ = served_seconds_ * keep + elapsed.seconds();
}

Duration Admission::ExpectedWait() const {
  if (served_seconds_ < kKnownSeconds || served_tokens_ <= 0) return Duration{};
  const double seconds = static_cast<double>(waiting_tokens_) * served_seconds_ / served_tokens_;
  return Duration{static_cast<int64_t>(std::min(seconds, 1e6) * 1e9)};
}

Duration Admission::RetryDelay() const {
  const Duration half{ExpectedWait().ns / 2};
  return std::clamp(half, kRetryDelayMin, kRetryDelayMax);
}

}  // namespace octet
