// A stack of its own for code that waits in the middle of a call (a step loop, a loader), so that
// many of them run interleaved on one thread, exactly as the simulation orders it.
#ifndef OCTET_TESTS_SIM_FIBER_H_
#define OCTET_TESTS_SIM_FIBER_H_

#include <ucontext.h>

#include <cstddef>
#include <functional>

namespace octet::sim {

// Resume and Suspend alternate. One thread; fibers do not resume each other.
class Fiber {
 public:
  explicit Fiber(std::function<void()> body);
  ~Fiber();  // of one that has ended, or never ran
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Runs the body until it suspends or ends. Not from inside a fiber.
  void Resume();
  // Back to Resume's caller. From inside this fiber's body only.
  void Suspend();
  bool ended() const { return ended_; }

 private:
  static void Enter(unsigned high, unsigned low);
  void Switch(ucontext_t* from, ucontext_t* to, bool into);

  std::function<void()> body_;
  void* stack_ = nullptr;
  ucontext_t inside_{};
  ucontext_t outside_{};
  bool started_ = false;
  bool ended_ = false;
  // What the sanitizers have to know of the other stack.
  void* sanitizer_state_ = nullptr;
  const void* outside_stack_ = nullptr;
  size_t outside_bytes_ = 0;
};

}  // namespace octet::sim

#endif  // OCTET_TESTS_SIM_FIBER_H_
