// Inputs and comparisons that the tests of row kernels share.
#ifndef OCTET_KERNELS_CUDA_ROW_TEST_UTIL_H_
#define OCTET_KERNELS_CUDA_ROW_TEST_UTIL_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "kernels/test_util.h"

namespace octet::cuda::test {

using ::octet::test::Normal;

// One row of each kind, over and over: plain, with a NaN, with infinities, zero, subnormal, the
// least numbers there are, huge, negative zero, tiny, of few different values.
inline std::vector<float> OddRows(size_t rows, size_t cols, uint32_t seed) {
  using Limits = std::numeric_limits<float>;
  std::mt19937 rng(seed);
  std::vector<float> x = Normal(rows * cols, seed);
  for (size_t r = 0; r < rows; ++r) {
    float* row = &x[r * cols];
    const auto each = [&](auto f) { std::transform(row, row + cols, row, f); };
    const size_t kind = r % 10;
    if (kind == 1) row[rng() % cols] = Limits::quiet_NaN();
    if (kind == 2) row[rng() % cols] = Limits::infinity();
    if (kind == 2) row[rng() % cols] = -Limits::infinity();
    if (kind == 3) each([](float) { return 0.0f; });
    if (kind == 4) each([](float v) { return v * 1e-41f; });
    if (kind == 5) each([](float v) { return std::copysign(Limits::denorm_min(), v); });
    if (kind == 6) each([](float v) { return v * 1e30f; });
    if (kind == 7) each([](float) { return -0.0f; });
    if (kind == 8) each([](float v) { return v * 0x1p-101f; });
    if (kind == 9) each([](float v) { return std::nearbyint(v); });
  }
  return x;
}

inline void ExpectSame(const std::vector<float>& got, const std::vector<float>& want) {
  const size_t at = ::octet::test::FirstDifference(got, want);
  if (at < want.size()) {
    ADD_FAILURE() << "element " << at << " of " << want.size() << ": " << got[at] << ", not "
                  << want[at];
  }
}

// A matrix [n, 1] of any values, so that its product with 1 is a row of logits.
struct Column {
  Column(const float* values, size_t n)
      : format(*WeightFormatFromName("f32")), packed(PackedBytes(format, n, 1)) {
    std::memcpy(packed.data(), values, 4 * n);
    w = {format, n, 1, packed.data(), octet::Device{}};
  }
  WeightFormat format;
  ::octet::test::AlignedBytes packed;
  PackedWeights w;
};

struct Host : ::octet::test::TestContext {
  Host() : TestContext(DetectCpuLevel(), 2) {}
};

}  // namespace octet::cuda::test

#endif  // OCTET_KERNELS_CUDA_ROW_TEST_UTIL_H_
