#include "tests/sim/fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <utility>

#include "core/check.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace octet::sim {
namespace {

constexpr size_t kStackBytes = 512u << 10;

}  // namespace

Fiber::Fiber(std::function<void()> body) : body_(std::move(body)) {
  stack_ = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  OCTET_CHECK(stack_ != MAP_FAILED) << "no memory for a fiber's stack";
  OCTET_CHECK_EQ(getcontext(&inside_), 0);
  inside_.uc_stack.ss_sp = stack_;
  inside_.uc_stack.ss_size = kStackBytes;
  inside_.uc_link = nullptr;
  const auto self = reinterpret_cast<uintptr_t>(this);
  makecontext(&inside_, reinterpret_cast<void (*)()>(&Fiber::Enter), 2,
              static_cast<unsigned>(self >> 32), static_cast<unsigned>(self));
}

Fiber::~Fiber() {
  OCTET_CHECK(!started_ || ended_) << "a fiber ends in the middle of its work";
  munmap(stack_, kStackBytes);
}

void Fiber::Enter(unsigned high, unsigned low) {
  auto* const self = reinterpret_cast<Fiber*>((static_cast<uintptr_t>(high) << 32) | low);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &self->outside_stack_, &self->outside_bytes_);
#endif
  self->body_();
  self->body_ = nullptr;  // lets go of what it holds while there is a stack to do it on
  self->ended_ = true;
  self->Suspend();
}

void Fiber::Switch(ucontext_t* from, ucontext_t* to, bool into) {
#if defined(__SANITIZE_ADDRESS__)
  void* mine = nullptr;
  void** const keep = into ? &mine : ended_ ? nullptr : &sanitizer_state_;
  __sanitizer_start_switch_fiber(keep, into ? stack_ : outside_stack_,
                                 into ? kStackBytes : outside_bytes_);
  OCTET_CHECK_EQ(swapcontext(from, to), 0);
  __sanitizer_finish_switch_fiber(into ? mine : sanitizer_state_, into ? nullptr : &outside_stack_,
                                  into ? nullptr : &outside_bytes_);
#else
  (void)into;
  OCTET_CHECK_EQ(swapcontext(from, to), 0);
#endif
}

void Fiber::Resume() {
  OCTET_CHECK(!ended_);
  started_ = true;
  Switch(&outside_, &inside_, true);
}

void Fiber::Suspend() { Switch(&inside_, &outside_, false); }

}  // namespace octet::sim
