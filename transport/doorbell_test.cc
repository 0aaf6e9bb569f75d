#include "transport/doorbell.h"

#include <gtest/gtest.h>

#include <functional>
#include <thread>

namespace octet {
namespace {

constexpr Duration kLong = Duration::Millis(60'000);
constexpr Duration kInTime = Duration::Millis(20'000);

class DoorbellTest : public ::testing::Test {
 protected:
  // How long a Wait for `rings` rings takes while `ring` runs on another thread, once this one
  // sleeps.
  Duration Measure(uint32_t rings, Duration length, const std::function<void()>& ring) {
    const Doorbell::Seen seen = bell_.seen();
    std::thread other([&] {
      while (words_.asleep == 0) std::this_thread::yield();
      ring();
    });
    const MonotonicTime start = clock_.Now();
    bell_.Wait(seen, rings, length);
    const Duration took = clock_.Now() - start;
    other.join();
    return took;
  }

  SystemClock clock_;
  DoorbellWords words_{};
  Doorbell bell_{&words_};
};

TEST_F(DoorbellTest, ARingBeforeTheWaitEndsIt) {
  const Doorbell::Seen seen = bell_.seen();
  bell_.Ring();
  const MonotonicTime start = clock_.Now();
  bell_.Wait(seen, 1, kLong);
  EXPECT_LT(clock_.Now() - start, kInTime);
}

TEST_F(DoorbellTest, OnlyTheLastOfTheRingsWakes) {
  const Duration took = Measure(3, kLong, [&] {
    bell_.Ring();
    bell_.Ring();
    EXPECT_EQ(words_.asleep, 1u);  // nobody was woken
    bell_.Ring();
    EXPECT_EQ(words_.asleep, 0u);
  });
  EXPECT_LT(took, kInTime);
}

TEST_F(DoorbellTest, AnUrgentRingWakesWhateverIsWaitedFor) {
  EXPECT_LT(Measure(100, kLong, [&] { bell_.RingNow(); }), kInTime);
}

TEST_F(DoorbellTest, WithoutARingItEndsByItself) {
  const Doorbell::Seen seen = bell_.seen();
  const MonotonicTime start = clock_.Now();
  bell_.Wait(seen, 1, Duration::Millis(20));
  EXPECT_GE(clock_.Now() - start, Duration::Millis(20));
  EXPECT_EQ(words_.asleep, 0u);
}

TEST_F(DoorbellTest, CountsGoOnPastTheLargest) {
  words_.rings = UINT32_MAX - 1;
  const Doorbell::Seen seen = bell_.seen();
  for (int i = 0; i < 2; ++i) bell_.Ring();
  const MonotonicTime start = clock_.Now();
  bell_.Wait(seen, 3, Duration::Millis(5));
  EXPECT_GE(clock_.Now() - start, Duration::Millis(5));
  bell_.Ring();
  bell_.Wait(seen, 3, kLong);
  EXPECT_LT(clock_.Now() - start, kInTime);
}

TEST_F(DoorbellTest, APeersNonsenseEndsNoLaterThanTheWait) {
  // It may undo rings and pretend that nobody sleeps.
  EXPECT_LT(Measure(1, Duration::Millis(200),
                    [&] {
                      words_.wake_at = UINT32_MAX / 2;
                      words_.asleep = 0;
                      bell_.Ring();
                      words_.rings = 0;
                    }),
            kInTime);
}

TEST_F(DoorbellTest, NoRingIsEverMissed) {
  DoorbellWords back_words{};
  Doorbell back(&back_words);
  constexpr int kRounds = 20'000;
  std::thread other([&] {
    Doorbell::Seen seen;  // of all zero
    for (int i = 0; i < kRounds; ++i) {
      bell_.Wait(seen, 1, kLong);
      ++seen.rings;
      back.Ring();
    }
  });
  const MonotonicTime start = clock_.Now();
  for (int i = 0; i < kRounds; ++i) {
    const Doorbell::Seen seen = back.seen();
    bell_.Ring();
    back.Wait(seen, 1, kLong);
  }
  other.join();
  EXPECT_LT(clock_.Now() - start, kInTime);
}

}  // namespace
}  // namespace octet
