// std::mutex with clang's thread-safety annotations. Used instead of absl::Mutex, into which
// ThreadSanitizer cannot see in Debian's build.
#ifndef OCTET_CORE_MUTEX_H_
#define OCTET_CORE_MUTEX_H_

#include <condition_variable>
#include <mutex>

#if defined(__clang__)
#define OCTET_TS_(x) __attribute__((x))
#else
#define OCTET_TS_(x)
#endif
#define OCTET_GUARDED_BY(x) OCTET_TS_(guarded_by(x))
#define OCTET_REQUIRES(x) OCTET_TS_(requires_capability(x))
#define OCTET_EXCLUDES(x) OCTET_TS_(locks_excluded(x))

namespace octet {

class OCTET_TS_(capability("mutex")) Mutex {
 public:
  void Lock() OCTET_TS_(acquire_capability()) { mu_.lock(); }
  void Unlock() OCTET_TS_(release_capability()) { mu_.unlock(); }
  // For CondVar only.
  std::mutex& native() { return mu_; }

 private:
  std::mutex mu_;
};

class OCTET_TS_(scoped_lockable) MutexLock {
 public:
  explicit MutexLock(Mutex& mu) OCTET_TS_(acquire_capability(mu)) : mu_(mu) { mu_.Lock(); }
  ~MutexLock() OCTET_TS_(release_capability()) { mu_.Unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mu_;
};

// Waits release and re-take `mu`, which the caller holds.
class CondVar {
 public:
  void Wait(Mutex& mu) OCTET_TS_(requires_capability(mu)) {
    std::unique_lock<std::mutex> lock(mu.native(), std::adopt_lock);
    cv_.wait(lock);
    lock.release();
  }
  // False at the timeout.
  template <typename Rep, typename Period>
  bool WaitFor(Mutex& mu, std::chrono::duration<Rep, Period> d) OCTET_TS_(requires_capability(mu)) {
    std::unique_lock<std::mutex> lock(mu.native(), std::adopt_lock);
    const bool woken = cv_.wait_for(lock, d) == std::cv_status::no_timeout;
    lock.release();
    return woken;
  }
  void NotifyOne() { cv_.notify_one(); }
  void NotifyAll() { cv_.notify_all(); }

 private:
  std::condition_variable cv_;
};

}  // namespace octet

#endif  // OCTET_CORE_MUTEX_H_
