#include "transport/doorbell.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>

namespace octet {
namespace {

// Two processes may share the word: no FUTEX_PRIVATE_FLAG.
void FutexWait(std::atomic<uint32_t>* word, uint32_t expected, Duration length) {
  timespec time;
  time.tv_sec = length.ns / 1'000'000'000;
  time.tv_nsec = length.ns % 1'000'000'000;
  (void)syscall(SYS_futex, word, FUTEX_WAIT, expected, &time, nullptr, 0);
}

void FutexWake(std::atomic<uint32_t>* word) {
  (void)syscall(SYS_futex, word, FUTEX_WAKE, 1, nullptr, nullptr, 0);
}

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

// The ringer writes a count and reads `asleep`, the waiter writes `asleep` and reads the count: in
// one total order, so that at least one of them sees the other.
void Doorbell::Ring() {
  const uint32_t count = words_->rings.fetch_add(1, std::memory_order_seq_cst) + 1;
  if (words_->asleep.load(std::memory_order_seq_cst) == 0) return;
  const uint32_t wake_at = words_->wake_at.load(std::memory_order_relaxed);
  if (static_cast<int32_t>(count - wake_at) < 0) return;
  if (words_->asleep.exchange(0, std::memory_order_seq_cst) != 0) FutexWake(&words_->asleep);
}

void Doorbell::RingNow() {
  words_->rings.fetch_add(1, std::memory_order_seq_cst);
  words_->urgent.fetch_add(1, std::memory_order_seq_cst);
  if (words_->asleep.load(std::memory_order_seq_cst) == 0) return;
  if (words_->asleep.exchange(0, std::memory_order_seq_cst) != 0) FutexWake(&words_->asleep);
}

Doorbell::Seen Doorbell::seen() const {
  Seen seen;
  seen.urgent = words_->urgent.load(std::memory_order_acquire);
  seen.rings = words_->rings.load(std::memory_order_acquire);
  return seen;
}

bool Doorbell::Due(Seen seen, uint32_t target) const {
  return static_cast<int32_t>(words_->rings.load(std::memory_order_seq_cst) - target) >= 0 ||
         words_->urgent.load(std::memory_order_seq_cst) != seen.urgent;
}

void Doorbell::Wait(Seen seen, uint32_t rings, Duration length, Duration spin) const {
  const uint32_t target = seen.rings + rings;
  if (Due(seen, target)) return;
  const SystemClock clock{};
  const MonotonicTime begin = clock.Now();
  const MonotonicTime end = begin + length;
  const MonotonicTime spin_end = begin + std::min(spin, length);
  while (spin.ns > 0 && clock.Now() < spin_end) {
    for (int i = 0; i < 32; ++i) {
      if (Due(seen, target)) return;
      Pause();
    }
  }
  words_->wake_at.store(target, std::memory_order_relaxed);
  while (true) {
    words_->asleep.store(1, std::memory_order_seq_cst);
    if (Due(seen, target)) break;
    const Duration left = end - clock.Now();
    if (left.ns <= 0) break;
    FutexWait(&words_->asleep, 1, left);
    if (words_->asleep.load(std::memory_order_acquire) == 0) return;  // woken
  }
  words_->asleep.store(0, std::memory_order_release);
}

}  // namespace octet
