// Helpers of the kernel tests: aligned memory, bit comparison, random matrices of every format.
#ifndef OCTET_KERNELS_TEST_UTIL_H_
#define OCTET_KERNELS_TEST_UTIL_H_

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iostream>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "core/check.h"
#include "kernels/exec_context.h"
#include "kernels/packed_weights.h"
#include "kernels/panel_layout.h"

namespace octet::test {

// Equal bits, or both NaN: the payload of a NaN is not part of the contract.
inline bool BitsEqual(float a, float b) {
  return (a != a && b != b) || std::memcmp(&a, &b, 4) == 0;
}

inline size_t FirstDifference(const std::vector<float>& a, const std::vector<float>& b) {
  OCTET_CHECK_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    if (!BitsEqual(a[i], b[i])) return i;
  }
  return a.size();
}

// Of the difference, in the Euclidean norm, against `want`.
inline double RelativeError(const std::vector<float>& got, const std::vector<float>& want) {
  OCTET_CHECK_EQ(got.size(), want.size());
  double error = 0, norm = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    error += (got[i] - want[i]) * (got[i] - want[i]);
    norm += want[i] * want[i];
  }
  return std::sqrt(error / norm);
}

// 64-byte aligned, zeroed.
class AlignedBytes {
 public:
  explicit AlignedBytes(size_t bytes) : storage_(bytes + 64), bytes_(bytes) {
    const auto address = reinterpret_cast<uintptr_t>(storage_.data());
    data_ = storage_.data() + (64 - address % 64) % 64;
  }
  AlignedBytes(AlignedBytes&&) = default;
  uint8_t* data() { return data_; }
  size_t size() const { return bytes_; }

 private:
  std::vector<uint8_t> storage_;
  uint8_t* data_ = nullptr;
  size_t bytes_ = 0;
};

// Levels this CPU runs, scalar first; names the others on stdout.
inline std::vector<CpuLevel> AvailableLevels() {
  std::vector<CpuLevel> levels;
  for (const CpuLevel level :
       {CpuLevel::kScalar, CpuLevel::kAvx2, CpuLevel::kAvx512, CpuLevel::kAmx}) {
    if (level <= DetectCpuLevel()) {
      levels.push_back(level);
    } else {
      std::cout << "level " << CpuLevelName(level) << " was not run: this CPU lacks it\n";
    }
  }
  return levels;
}

// A context with memory and threads of its own.
struct TestContext {
  TestContext(CpuLevel level, int threads) : pool(threads) {
    ctx.level = level;
    ctx.pool = &pool;
    ctx.arena = &arena;
  }
  ThreadPool pool;
  Arena arena;
  ExecContext ctx;
};

inline std::vector<float> Normal(size_t n, uint32_t seed, float scale = 1.0f) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> x(n);
  for (float& v : x) v = normal(rng);
  return x;
}

// A random matrix of any named format, through GGUF blocks where the format has them (so that every
// code and odd scales occur), else quantised from normal floats. `plain` keeps scales moderate.
struct RandomMatrix {
  RandomMatrix(const std::string& name, size_t n, size_t k, uint32_t seed, bool plain = true)
      : format(*WeightFormatFromName(name)), packed(PackedBytes(format, n, k)) {
    std::mt19937 rng(seed);
    std::normal_distribution<float> normal(0.0f, 0.1f);
    const size_t row_bytes = GgufRowBytes(format, k);
    const size_t block = format.scale == ScaleEncoding::kF16 ? 32 : 256;
    if (!format.is_integer() || row_bytes == 0 || k % block != 0) {
      std::vector<float> source(n * k);
      for (float& v : source) v = normal(rng);
      OCTET_CHECK(PackFloatWeights(format, {source.data(), n, k}, packed.data()).ok());
      if (!plain && format.scale == ScaleEncoding::kF32xI4) ScrambleW4x(k, &rng);
    } else {
      std::vector<uint8_t> blocks(n * row_bytes);
      for (uint8_t& b : blocks) b = static_cast<uint8_t>(rng());
      const size_t block_bytes = row_bytes / (k / block);
      const std::vector<size_t> scales =
          format.scale == ScaleEncoding::kF16xI8
              ? std::vector<size_t>{208}
              : (format.minimum ? std::vector<size_t>{0, 2} : std::vector<size_t>{0});
      for (size_t b = 0; b < blocks.size(); b += block_bytes) {
        const uint32_t what = plain ? 15 : rng() % 16;
        if (what < 4) std::memset(&blocks[b], what % 2 == 0 ? 0xff : 0x00, block_bytes);
        for (const size_t offset : scales) {
          const float scale = what == 5 ? 0.0f : what == 6 ? 3e-7f : what == 7 ? 6e4f : normal(rng);
          const uint16_t h = F32ToF16(scale);
          std::memcpy(&blocks[b + offset], &h, 2);
        }
      }
      OCTET_CHECK(PackGgufBlocks(format, n, k, blocks.data(), packed.data()).ok());
    }
    w = {format, n, k, packed.data(), Device{}};
  }

  // Any codes and factors, extremes often, and odd scales.
  void ScrambleW4x(size_t k, std::mt19937* rng) {
    const PanelLayout layout = MakePanelLayout(format, k);
    for (size_t at = 0; at < packed.size(); at += layout.bytes) {
      uint8_t* panel = packed.data() + at;
      for (size_t i = 0; i < 16; ++i) {
        const uint32_t what = (*rng)() % 8;
        const float scale = what == 0 ? 0.0f : what == 1 ? 1e-42f : what == 2 ? -3e20f : 0.013f;
        std::memcpy(panel + 4 * i, &scale, 4);
      }
      for (size_t i = layout.second; i < layout.values; ++i) {
        const int factor = static_cast<int>((*rng)() % 41) - 20;
        panel[i] = static_cast<uint8_t>(std::max(-15, std::min(15, factor)));
      }
      const uint32_t what = (*rng)() % 4;
      for (size_t i = layout.values; i < layout.bytes; ++i) {
        panel[i] = what == 0 ? 0x00 : what == 1 ? 0xff : static_cast<uint8_t>((*rng)());
      }
    }
  }

  WeightFormat format;
  AlignedBytes packed;
  PackedWeights w;
};

}  // namespace octet::test

#endif  // OCTET_KERNELS_TEST_UTIL_H_
