// Which of several routers a call asks next. Pure but for the memory that calls share.
#ifndef OCTET_CLIENT_ROUTER_CHOICE_H_
#define OCTET_CLIENT_ROUTER_CHOICE_H_

#include <atomic>
#include <cstddef>
#include <vector>

namespace octet {

// The router that last answered, for all calls of a client: a dead one is not tried first again.
// Thread-safe.
class PreferredRouter {
 public:
  size_t get() const { return index_.load(std::memory_order_relaxed); }
  void Set(size_t index) { index_.store(index, std::memory_order_relaxed); }

 private:
  std::atomic<size_t> index_{0};
};

// The order of one call: the preferred router first, then each other one at once after a failure.
// When all have failed a round is over, and only then is there a reason to wait. One thread.
class RouterChoice {
 public:
  // `routers` >= 1; `preferred` outlives this.
  RouterChoice(size_t routers, PreferredRouter* preferred)
      : failed_(routers, false), preferred_(preferred), current_(preferred->get() % routers) {}

  size_t current() const { return current_; }
  // The current router answered.
  void Answered() {
    failed_.assign(failed_.size(), false);
    preferred_->Set(current_);
  }
  // The current router failed: moves to the next one that has not in this round. False where none
  // is left: the next router is then that after the current one, in a new round.
  bool Failed() {
    failed_[current_] = true;
    for (size_t step = 1; step < failed_.size(); ++step) {
      const size_t next = (current_ + step) % failed_.size();
      if (failed_[next]) continue;
      current_ = next;
      return true;
    }
    failed_.assign(failed_.size(), false);
    current_ = (current_ + 1) % failed_.size();
    return false;
  }

 private:
  std::vector<bool> failed_;
  PreferredRouter* const preferred_;
  size_t current_;
};

}  // namespace octet

#endif  // OCTET_CLIENT_ROUTER_CHOICE_H_
