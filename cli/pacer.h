// Waits for the times at which requests are due.
#ifndef OCTET_CLI_PACER_H_
#define OCTET_CLI_PACER_H_

#include <chrono>

#include "core/clock.h"
#include "core/mutex.h"

namespace octet {

// Waits until a time or a cancellation. Thread-safe.
class Pacer {
 public:
  explicit Pacer(const Clock* clock) : clock_(clock) {}
  void Cancel() {
    MutexLock lock(mu_);
    cancelled_ = true;
    changed_.NotifyAll();
  }
  // False where cancelled.
  bool WaitUntil(MonotonicTime when) {
    MutexLock lock(mu_);
    while (!cancelled_) {
      const Duration left = when - clock_->Now();
      if (left.ns <= 0) return true;
      changed_.WaitFor(mu_, std::chrono::nanoseconds(left.ns));
    }
    return false;
  }

 private:
  const Clock* const clock_;
  Mutex mu_;
  CondVar changed_;
  bool cancelled_ OCTET_GUARDED_BY(mu_) = false;
};

}  // namespace octet

#endif  // OCTET_CLI_PACER_H_
