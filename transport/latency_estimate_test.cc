#include "transport/latency_estimate.h"

#include <gtest/gtest.h>

#include <random>

namespace octet {
namespace {

TEST(LatencyEstimate, IsPatientUntilItKnows) {
  const HedgePolicy policy;
  LatencyEstimate e;
  EXPECT_EQ(e.LateAfter(1, policy), policy.unknown);
  e.Add(1, Duration::Millis(1));
  EXPECT_EQ(e.LateAfter(1, policy), policy.unknown);
}

TEST(LatencyEstimate, NeverBelowTheFloor) {
  const HedgePolicy policy;
  LatencyEstimate e;
  for (int i = 0; i < 50; ++i) e.Add(4, Duration::Micros(200));
  EXPECT_EQ(e.LateAfter(4, policy), policy.floor);
}

TEST(LatencyEstimate, FollowsRows) {
  const HedgePolicy policy;
  LatencyEstimate e;
  std::mt19937 rng(1);
  // 2 ms + 0.1 ms a row, up to 1 ms of noise.
  for (int i = 0; i < 300; ++i) {
    const size_t rows = 1 + rng() % 512;
    e.Add(rows, Duration::Micros(2000 + 100 * static_cast<int64_t>(rows) + rng() % 1000));
  }
  const double few = e.LateAfter(1, policy).millis();
  const double many = e.LateAfter(512, policy).millis();
  EXPECT_EQ(few, policy.floor.millis());
  EXPECT_GT(many, 3 * 53.0);
  EXPECT_LT(many, 3 * 60.0);
}

TEST(LatencyEstimate, APrefillAfterDecodeOnlyGetsTimeInProportion) {
  const HedgePolicy policy;
  LatencyEstimate e;
  for (int i = 0; i < 100; ++i) e.Add(1 + i % 2, Duration::Millis(10));
  EXPECT_GT(e.LateAfter(512, policy).millis(), 1000.0);
}

TEST(LatencyEstimate, ASpikeWidensItForAWhile) {
  const HedgePolicy policy;
  LatencyEstimate e;
  for (int i = 0; i < 50; ++i) e.Add(4, Duration::Millis(10));
  const Duration before = e.LateAfter(4, policy);
  e.Add(4, Duration::Millis(80));
  EXPECT_GT(e.LateAfter(4, policy).millis(), before.millis() + 150);
  for (int i = 0; i < 200; ++i) e.Add(4, Duration::Millis(10));
  EXPECT_LT(e.LateAfter(4, policy).millis(), before.millis() + 10);
}

}  // namespace
}  // namespace octet
