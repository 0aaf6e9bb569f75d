// A futex on which one thread waits for many others, in this process or, where its words lie in
// shared memory, in several. A ring costs no system call unless the waiter sleeps and the ring is
// the one it waits for.
#ifndef OCTET_TRANSPORT_DOORBELL_H_
#define OCTET_TRANSPORT_DOORBELL_H_

#include <atomic>
#include <cstdint>

#include "core/clock.h"

namespace octet {

// All zero at the start. What a peer writes here can make the waiter look too often or, until its
// wait ends by itself, too late; nothing else follows from the words.
struct alignas(64) DoorbellWords {
  std::atomic<uint32_t> rings;
  std::atomic<uint32_t> urgent;   // rings that wake the waiter whatever it waits for
  std::atomic<uint32_t> wake_at;  // the waiter wants to be woken when `rings` gets here
  std::atomic<uint32_t> asleep;   // the futex: 1 while the waiter sleeps or is about to
};
static_assert(sizeof(DoorbellWords) == 64);
static_assert(std::atomic<uint32_t>::is_always_lock_free);

// A view of the words, which outlive it.
class Doorbell {
 public:
  explicit Doorbell(DoorbellWords* words) : words_(words) {}

  // ---- Ringers: any thread, after what they announce can be seen ----
  // One of the rings that the waiter counts.
  void Ring();
  // Wakes the waiter in any case.
  void RingNow();

  // ---- The waiter's thread ----
  struct Seen {
    uint32_t rings = 0;
    uint32_t urgent = 0;
  };
  // Take it before looking for work: what is announced later ends the Wait.
  Seen seen() const;
  // Returns after `rings` more rings than `seen`, an urgent one, or `length`. Spins for up to
  // `spin` before it sleeps. Never longer than `length`, whatever a peer does.
  void Wait(Seen seen, uint32_t rings, Duration length, Duration spin = {}) const;

 private:
  bool Due(Seen seen, uint32_t target) const;

  DoorbellWords* words_;
};

}  // namespace octet

#endif  // OCTET_TRANSPORT_DOORBELL_H_
