#include "kernels/math.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace octet {
namespace {

float FloatFromBits(uint32_t bits) {
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}

uint32_t BitsOf(float f) {
  uint32_t bits;
  std::memcpy(&bits, &f, 4);
  return bits;
}

double DoubleFromBits(uint64_t bits) {
  double d;
  std::memcpy(&d, &bits, 8);
  return d;
}

uint64_t BitsOf(double d) {
  uint64_t bits;
  std::memcpy(&bits, &d, 8);
  return bits;
}

// Highest power first.
template <size_t kCount>
double Horner(double x, const double (&coefficients)[kCount]) {
  double sum = coefficients[0];
  for (size_t i = 1; i < kCount; ++i) sum = std::fma(sum, x, coefficients[i]);
  return sum;
}

}  // namespace

float ExpF(float x) {
  if (x != x) return x;
  if (x < -0x1.5d589ep+6f) return 0.0f;
  if (x > 0x1.62e42ep+6f) return std::numeric_limits<float>::infinity();
  // Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits of the sum.
  const float magic = 12582912.0f;
  const float shifted = std::fma(x, 0x1.715476p+0f, magic);
  const float n = shifted - magic;
  const int32_t exponent = static_cast<int32_t>(BitsOf(shifted) - BitsOf(magic));
  float r = std::fma(n, -0x1.62e400p-1f, x);
  r = std::fma(n, -0x1.7f7d1cp-20f, r);
  float p = 1.0f / 5040;
  p = std::fma(p, r, 1.0f / 720);
  p = std::fma(p, r, 1.0f / 120);
  p = std::fma(p, r, 1.0f / 24);
  p = std::fma(p, r, 1.0f / 6);
  p = std::fma(p, r, 0.5f);
  p = std::fma(p, r, 1.0f);
  p = std::fma(p, r, 1.0f);
  // 2^exponent in two factors, as 2^128 has no float.
  const int32_t half = exponent >> 1;
  const float scale_a = FloatFromBits(static_cast<uint32_t>(half + 127) << 23);
  const float scale_b = FloatFromBits(static_cast<uint32_t>(exponent - half + 127) << 23);
  return (p * scale_a) * scale_b;
}

float LogF(float x) { return static_cast<float>(LogD(static_cast<double>(x))); }

double ExpD(double x) {
  if (x != x) return x;
  if (x < -708.0) return 0.0;
  if (x > 709.78) return std::numeric_limits<double>::infinity();
  const double magic = 0x1.8p52;
  const double shifted = std::fma(x, 0x1.71547652b82fep+0, magic);
  const double n = shifted - magic;
  const int64_t exponent = static_cast<int64_t>(BitsOf(shifted) - BitsOf(magic));
  double r = std::fma(n, -0x1.62e42fefa39efp-1, x);
  r = std::fma(n, -0x1.abc9e3b39803fp-56, r);
  const double p = Horner(r, {1.0 / 6227020800.0, 1.0 / 479001600.0, 1.0 / 39916800.0,
                              1.0 / 3628800.0, 1.0 / 362880.0, 1.0 / 40320.0, 1.0 / 5040.0,
                              1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0});
  const int64_t half = exponent >> 1;
  return p * DoubleFromBits(static_cast<uint64_t>(half + 1023) << 52) *
         DoubleFromBits(static_cast<uint64_t>(exponent - half + 1023) << 52);
}

double LogD(double x) {
  if (x != x || x < 0) return std::numeric_limits<double>::quiet_NaN();
  if (x == 0) return -std::numeric_limits<double>::infinity();
  if (x == std::numeric_limits<double>::infinity()) return x;
  int64_t exponent = 0;
  if (x < 0x1p-1022) {
    x *= 0x1p54;
    exponent = -54;
  }
  const uint64_t bits = BitsOf(x);
  exponent += static_cast<int64_t>(bits >> 52) - 1023;
  double m = DoubleFromBits((bits & 0xfffffffffffff) | 0x3ff0000000000000);
  if (m > 0x1.6a09e667f3bcdp+0) {
    m *= 0.5;
    exponent += 1;
  }
  // ln m = 2 atanh s, s = (m - 1) / (m + 1), |s| < 0.172.
  const double f = m - 1.0;
  const double s = f / (2.0 + f);
  const double tail = Horner(s * s, {2.0 / 23, 2.0 / 21, 2.0 / 19, 2.0 / 17, 2.0 / 15, 2.0 / 13,
                                     2.0 / 11, 2.0 / 9, 2.0 / 7, 2.0 / 5, 2.0 / 3});
  const double e = static_cast<double>(exponent);
  // 2s = f - s f, which keeps the leading term exact.
  const double log_m = f - s * (f - s * s * tail);
  return std::fma(e, 0x1.62e42fefa39efp-1, std::fma(e, 0x1.abc9e3b39803fp-56, log_m));
}

void SinCosD(double x, double* sin, double* cos) {
  if (!(std::fabs(x) <= 0x1p30)) {
    *sin = *cos = std::numeric_limits<double>::quiet_NaN();
    return;
  }
  const double magic = 0x1.8p52;
  const double shifted = std::fma(x, 0x1.45f306dc9c883p-1, magic);
  const double n = shifted - magic;
  const uint64_t quadrant = (BitsOf(shifted) - BitsOf(magic)) & 3;
  double r = std::fma(n, -0x1.921fb54442d18p+0, x);
  r = std::fma(n, -0x1.1a62633145c07p-54, r);
  const double z = r * r;
  const double s = std::fma(
      r * z,
      Horner(z, {1.0 / 355687428096000.0, -1.0 / 1307674368000.0, 1.0 / 6227020800.0,
                 -1.0 / 39916800.0, 1.0 / 362880.0, -1.0 / 5040.0, 1.0 / 120.0, -1.0 / 6.0}),
      r);
  const double c = Horner(
      z, {-1.0 / 6402373705728000.0, 1.0 / 20922789888000.0, -1.0 / 87178291200.0,
          1.0 / 479001600.0, -1.0 / 3628800.0, 1.0 / 40320.0, -1.0 / 720.0, 1.0 / 24.0, -0.5, 1.0});
  const double base_sin = (quadrant & 1) ? c : s;
  const double base_cos = (quadrant & 1) ? s : c;
  *sin = (quadrant & 2) ? -base_sin : base_sin;
  *cos = (quadrant == 1 || quadrant == 2) ? -base_cos : base_cos;
}

}  // namespace octet
