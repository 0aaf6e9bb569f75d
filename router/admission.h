// Which requests may wait for their first step: bounded by number, by the tokens they may take, and
// by the time that those before them will need.
#ifndef OCTET_ROUTER_ADMISSION_H_
#define OCTET_ROUTER_ADMISSION_H_

#include <cstdint>

#include "absl/status/status.h"
#include "core/clock.h"

namespace octet {

struct AdmissionOptions {
  uint32_t waiting_max = 256;   // requests
  uint64_t waiting_tokens = 0;  // prompts and answers of all that wait; 0: no bound
  Duration wait_max;            // expected, before a request's first step; 0: no bound
  uint32_t resumed_max = 0;     // that many more where they are resumed
};

// A queue's account. Pure: no clock, no thread, none of the requests. A request costs its prompt
// plus the longest answer it may get, in tokens. Whatever it costs, a request is taken where none
// waits, so a bound refuses nothing that could run next. One that goes on with an answer which
// another router began, and lost, was admitted there: it is bound by number only.
class Admission {
 public:
  explicit Admission(const AdmissionOptions& options);

  // RESOURCE_EXHAUSTED with what is full. For a request whose cost is not known yet, `tokens` is
  // 1: where that is refused, there is no use in finding out.
  absl::Status Check(uint64_t tokens, bool resumed) const;
  // A request that Check took begins to wait.
  void Enter(uint64_t tokens, MonotonicTime now);
  // So many have waited for the last time since the last call; to be called also where none has,
  // so that the time they wait is seen.
  void Leave(uint32_t requests, uint64_t tokens, MonotonicTime now);
  // The time since the last call shows no rate: nothing could be run.
  void Pause(MonotonicTime now) { seen_ = now; }

  uint32_t waiting() const { return waiting_; }
  uint64_t waiting_tokens() const { return waiting_tokens_; }
  // Until a request that comes now is run; zero while no rate is known.
  Duration ExpectedWait() const;
  // After which a refused client may try again: when half of what waits will have left, within
  // [kRetryDelayMin, kRetryDelayMax]; kRetryDelayMin while no rate is known.
  Duration RetryDelay() const;

  static constexpr Duration kRetryDelayMin = Duration::Millis(500);
  static constexpr Duration kRetryDelayMax = Duration::Millis(30'000);

 private:
  void ObserveService(uint64_t tokens, Duration elapsed);

  const AdmissionOptions options_;
  uint32_t waiting_ = 0;
  uint64_t waiting_tokens_ = 0;
  MonotonicTime seen_{};  // service before it is accounted for; kept while requests wait
  // Of the recent past: older service counts less.
  double served_tokens_ = 0;
  double served_seconds_ = 0;
};

}  // namespace octet

#endif  // OCTET_ROUTER_ADMISSION_H_
