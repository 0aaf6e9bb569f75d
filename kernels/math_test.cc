#include "kernels/math.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>

namespace octet {
namespace {

// Distance from the exact value in units of the last place of the float next to it.
double UlpError(float value, long double exact) {
  const float near = static_cast<float>(exact);
  const long double ulp =
      static_cast<long double>(std::nextafter(std::fabs(near), INFINITY)) - std::fabs(near);
  return static_cast<double>(std::fabs(static_cast<long double>(value) - exact) / ulp);
}

TEST(MathTest, ExpIsWithinTwoUlpOverItsWholeRange) {
  double worst = 0;
  for (double x = -87.336; x < 88.722; x += 0.00037) {
    const float f = static_cast<float>(x);
    worst = std::max(worst, UlpError(ExpF(f), std::exp(static_cast<long double>(f))));
  }
  EXPECT_LT(worst, 2.0);
  RecordProperty("worst_ulp", std::to_string(worst));
}

TEST(MathTest, ExpAtItsEdges) {
  EXPECT_EQ(ExpF(0.0f), 1.0f);
  EXPECT_EQ(ExpF(-0.0f), 1.0f);
  EXPECT_EQ(ExpF(-INFINITY), 0.0f);
  EXPECT_EQ(ExpF(INFINITY), INFINITY);
  EXPECT_TRUE(std::isnan(ExpF(NAN)));
  EXPECT_EQ(ExpF(89.0f), INFINITY);
  EXPECT_EQ(ExpF(-88.0f), 0.0f);
  EXPECT_FALSE(std::signbit(ExpF(-1000.0f)));
  EXPECT_TRUE(std::isfinite(ExpF(88.7228f)));
  // Nothing subnormal comes out: the last value above the threshold is still normal.
  for (float x = -87.33f; x > -87.35f; x = std::nextafter(x, -INFINITY)) {
    const float y = ExpF(x);
    ASSERT_TRUE(y == 0.0f || y >= std::numeric_limits<float>::min()) << x;
    if (std::exp(static_cast<double>(x)) < std::numeric_limits<float>::min()) {
      ASSERT_EQ(y, 0.0f) << x;
    }
  }
}

TEST(MathTest, LogIsWithinTwoUlp) {
  std::mt19937 rng(5);
  double worst = 0;
  for (int i = 0; i < 400000; ++i) {
    const uint32_t bits = rng() % 0x7f800000u;
    float x;
    std::memcpy(&x, &bits, 4);
    if (i % 4 == 0) x = 1.0f + static_cast<float>(static_cast<int>(rng() % 2001) - 1000) * 1e-6f;
    if (x == 0 || x == 1.0f) continue;
    worst = std::max(worst, UlpError(LogF(x), std::log(static_cast<long double>(x))));
  }
  EXPECT_LT(worst, 1.0);
  EXPECT_EQ(LogF(1.0f), 0.0f);
  EXPECT_EQ(LogF(0.0f), -INFINITY);
  EXPECT_EQ(LogF(INFINITY), INFINITY);
  EXPECT_TRUE(std::isnan(LogF(-1.0f)));
  EXPECT_TRUE(std::isnan(LogF(NAN)));
}

TEST(MathTest, DoubleFunctionsAreAccurate) {
  std::mt19937_64 rng(6);
  std::uniform_real_distribution<double> wide(-2097152.0, 2097152.0), narrow(-700.0, 700.0);
  for (int i = 0; i < 200000; ++i) {
    const double x = i % 2 == 0 ? wide(rng) : wide(rng) / 1e5;
    double s, c;
    SinCosD(x, &s, &c);
    ASSERT_NEAR(s, static_cast<double>(std::sin(static_cast<long double>(x))), 1e-15) << x;
    ASSERT_NEAR(c, static_cast<double>(std::cos(static_cast<long double>(x))), 1e-15) << x;
    const double y = narrow(rng);
    const long double e = std::exp(static_cast<long double>(y));
    ASSERT_LT(std::fabs((static_cast<long double>(ExpD(y)) - e) / e), 4e-16L) << y;
    const double z = std::fabs(x);
    const long double l = std::log(static_cast<long double>(z));
    ASSERT_NEAR(LogD(z), static_cast<double>(l), 4e-16 * std::max(1.0, std::fabs(LogD(z)))) << z;
  }
}

}  // namespace
}  // namespace octet
