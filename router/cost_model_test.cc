#include "router/cost_model.h"

#include <cmath>
#include <random>

#include "gtest/gtest.h"

namespace octet {
namespace {

// A machine on which a step takes what the function says.
double TrueMs(const StepShape& s) {
  return 12 + 0.4 * static_cast<double>(s.rows) + 3e-5 * s.attended;
}

StepShape Decode(size_t rows, double context) {
  return {rows, static_cast<double>(rows) * context, false};
}
StepShape Prefill(size_t rows, double position) {
  const double n = static_cast<double>(rows);
  return {rows, n * position + n * (n + 1) / 2, true};
}

TEST(CostModelTest, LearnsALinearMachineWithNoise) {
  std::mt19937 random(1);
  std::uniform_real_distribution<double> noise(0.95, 1.05);
  StepCostModel model;
  for (int i = 0; i < 60; ++i) {
    const StepShape prefill = Prefill(32 + random() % 400, random() % 3000);
    model.Observe(prefill, TrueMs(prefill) * noise(random));
    const StepShape decode = Decode(1 + random() % 8, random() % 3000);
    model.Observe(decode, TrueMs(decode) * noise(random));
  }
  for (const StepShape& probe : {Prefill(128, 2000), Prefill(400, 100), Decode(4, 1000)}) {
    EXPECT_NEAR(model.PredictMs(probe), TrueMs(probe), 0.15 * TrueMs(probe)) << probe.rows;
  }
}

TEST(CostModelTest, LongDecodingDoesNotWashOutThePriceOfPrefill) {
  StepCostModel model;
  for (int i = 0; i < 10; ++i) {
    const StepShape prefill = Prefill(64 + 40 * static_cast<size_t>(i), 100.0 * i);
    model.Observe(prefill, TrueMs(prefill));
  }
  const double before = model.PredictMs(Prefill(256, 500));
  for (int i = 0; i < 5000; ++i) {
    const StepShape decode = Decode(4, 200 + i);
    model.Observe(decode, TrueMs(decode));
  }
  EXPECT_NEAR(model.PredictMs(Prefill(256, 500)), before, 0.15 * before);
}

TEST(CostModelTest, NothingIsEverPredictedToTakeNegativeTime) {
  StepCostModel model;
  for (int i = 0; i < 20; ++i) {
    // Larger steps that are faster: no line with positive slopes fits.
    model.Observe(Prefill(10 + 10 * static_cast<size_t>(i), 0), 100 - 4 * i);
  }
  EXPECT_GE(model.PredictMs(Decode(1, 0)), 0);
  EXPECT_GE(model.PredictMs(Prefill(4000, 4000)), 0);
}

TEST(PrefillRowsWithinTest, IsTheLargestThatFits) {
  StepCostModel model;
  for (int i = 0; i < 200; ++i) {
    const StepShape s = i % 2 == 0
                            ? Prefill(16 + 37 * (static_cast<size_t>(i) % 13), 50.0 * (i % 40))
                            : Decode(1 + static_cast<size_t>(i) % 7, 50.0 * (i % 31));
    model.Observe(s, TrueMs(s));
  }
  const StepShape decode = Decode(6, 1500);
  const size_t rows = PrefillRowsWithin(model, decode, 1000, 80, 512);
  ASSERT_GT(rows, 0u);
  ASSERT_LT(rows, 512u);
  const auto predict = [&](size_t n) {
    StepShape s = Prefill(n, 1000);
    s.rows += decode.rows;
    s.attended += decode.attended;
    return model.PredictMs(s);
  };
  EXPECT_LE(predict(rows), 80);
  EXPECT_GT(predict(rows + 1), 80);
  EXPECT_EQ(PrefillRowsWithin(model, decode, 1000, 1, 512), 0u);
  EXPECT_EQ(PrefillRowsWithin(model, decode, 1000, 1e9, 512), 512u);
}

}  // namespace
}  // namespace octet
