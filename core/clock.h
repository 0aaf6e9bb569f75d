// Time as an argument. Logic never reads a clock by itself; it is given a Clock or a `now`.
#ifndef OCTET_CORE_CLOCK_H_
#define OCTET_CORE_CLOCK_H_

#include <atomic>
#include <cstdint>

namespace octet {

// Nanoseconds on a monotonic axis with an arbitrary origin. Not comparable between processes.
struct MonotonicTime {
  int64_t ns = 0;
  friend constexpr auto operator<=>(MonotonicTime, MonotonicTime) = default;
};

struct Duration {
  int64_t ns = 0;
  static constexpr Duration Millis(int64_t ms) { return {ms * 1'000'000}; }
  static constexpr Duration Micros(int64_t us) { return {us * 1'000}; }
  constexpr double millis() const { return static_cast<double>(ns) / 1e6; }
  constexpr double seconds() const { return static_cast<double>(ns) / 1e9; }
  friend constexpr auto operator<=>(Duration, Duration) = default;
};

constexpr MonotonicTime operator+(MonotonicTime t, Duration d) { return {t.ns + d.ns}; }
constexpr Duration operator-(MonotonicTime a, MonotonicTime b) { return {a.ns - b.ns}; }

// The far future, as "no deadline".
inline constexpr MonotonicTime kNever{INT64_MAX};

// Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual MonotonicTime Now() const = 0;
};

// CLOCK_MONOTONIC.
class SystemClock final : public Clock {
 public:
  MonotonicTime Now() const override;
};

// Advanced by hand, for tests and simulation.
class ManualClock final : public Clock {
 public:
  MonotonicTime Now() const override { return {now_ns_.load()}; }
  void Advance(Duration d) { now_ns_ += d.ns; }

 private:
  std::atomic<int64_t> now_ns_{0};
};

}  // namespace octet

#endif  // OCTET_CORE_CLOCK_H_
