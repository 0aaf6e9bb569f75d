#include "kernels/packed_weights.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

#include "core/limits.h"
#include "kernels/panel_layout.h"
#include "kernels/test_util.h"

namespace octet {
namespace {

using test::AlignedBytes;
using test::BitsEqual;

struct Record {
  std::string name;
  size_t rows = 0;
  size_t k = 0;
  size_t row_bytes = 0;
  std::vector<uint8_t> blocks;
  std::vector<float> floats;
};

std::vector<Record> LoadRecords() {
  std::ifstream file(OCTET_SOURCE_DIR "/tests/golden/gguf_blocks/blocks.bin", std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  std::vector<Record> records;
  for (size_t at = 0; at + 28 <= bytes.size();) {
    Record record;
    record.name = std::string(&bytes[at], strnlen(&bytes[at], 16));
    uint32_t header[3];
    std::memcpy(header, &bytes[at + 16], 12);
    record.rows = header[0];
    record.k = header[1];
    record.row_bytes = header[2];
    at += 28;
    record.blocks.assign(&bytes[at], &bytes[at] + record.rows * record.row_bytes);
    at += record.blocks.size();
    record.floats.resize(record.rows * record.k);
    std::memcpy(record.floats.data(), &bytes[at], record.floats.size() * 4);
    at += record.floats.size() * 4;
    records.push_back(std::move(record));
  }
  return records;
}

TEST(PackedWeightsTest, GgufBlocksDecodeToTheirReferenceFloats) {
  const std::vector<Record> records = LoadRecords();
  ASSERT_EQ(records.size(), 11u);
  for (const Record& r : records) {
    SCOPED_TRACE(r.name);
    const WeightFormat format = *WeightFormatFromName(r.name);
    EXPECT_EQ(GgufRowBytes(format, r.k), r.row_bytes);
    AlignedBytes packed(PackedBytes(format, r.rows, r.k));
    ASSERT_TRUE(PackGgufBlocks(format, r.rows, r.k, r.blocks.data(), packed.data()).ok());
    const PackedWeights w{format, r.rows, r.k, packed.data(), Device{}};
    std::vector<float> row(r.k);
    for (size_t i = 0; i < r.rows; ++i) {
      UnpackRow(w, i, row.data());
      for (size_t k = 0; k < r.k; ++k) {
        ASSERT_TRUE(BitsEqual(row[k], r.floats[i * r.k + k]))
            << "row " << i << " column " << k << ": " << row[k] << " " << r.floats[i * r.k + k];
      }
    }
  }
}

TEST(PackedWeightsTest, RowThatIsNoWholeBlockIsRefused) {
  std::vector<uint8_t> bytes(1024);
  const absl::Status q4 =
      PackGgufBlocks(*WeightFormatFromName("q4_0"), 1, 40, bytes.data(), nullptr);
  EXPECT_EQ(q4.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(q4.message().find("40"), absl::string_view::npos);
  EXPECT_EQ(PackGgufBlocks(*WeightFormatFromName("q6_k"), 1, 128, bytes.data(), nullptr).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(PackGgufBlocks(*WeightFormatFromName("int4g64"), 1, 64, bytes.data(), nullptr).code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(PackedWeightsTest, QuantisedWeightsStayNearTheirSource) {
  std::mt19937 rng(3);
  std::normal_distribution<float> normal;
  const size_t n = 21, k = 200;  // neither is a whole panel or group
  std::vector<float> source(n * k);
  for (float& v : source) v = normal(rng);
  for (size_t i = 0; i < k; ++i) source[i] = 0.0f;
  // Largest error in steps of the largest magnitude of the group.
  const std::vector<std::pair<std::string, float>> formats = {
      {"f32", 0.0f},           {"f16", 0x1p-11f},       {"bf16", 0x1p-8f},
      {"int8g32", 0.6f / 127}, {"int8g64", 0.6f / 127}, {"int8g128", 0.6f / 127},
      {"int4g32", 1.1f / 7},   {"int4g64", 1.1f / 7},   {"int4g128", 1.1f / 7}};
  for (const auto& [name, bound] : formats) {
    SCOPED_TRACE(name);
    const WeightFormat format = *WeightFormatFromName(name);
    AlignedBytes packed(PackedBytes(format, n, k));
    ASSERT_TRUE(PackFloatWeights(format, {source.data(), n, k}, packed.data()).ok());
    const PackedWeights w{format, n, k, packed.data(), Device{}};
    std::vector<float> row(k);
    for (size_t r = 0; r < n; ++r) {
      UnpackRow(w, r, row.data());
      for (size_t i = 0; i < k; ++i) {
        const size_t group = format.is_integer() ? format.group : 1;
        float absmax = 0;
        for (size_t j = i / group * group; j < std::min(k, (i / group + 1) * group); ++j) {
          absmax = std::max(absmax, std::fabs(source[r * k + j]));
        }
        ASSERT_LE(std::fabs(row[i] - source[r * k + i]), bound * absmax) << r << " " << i;
      }
    }
  }
}

double RelativeSquaredError(const std::string& name, const std::vector<float>& source, size_t n,
                            size_t k) {
  const WeightFormat format = *WeightFormatFromName(name);
  AlignedBytes packed(PackedBytes(format, n, k));
  EXPECT_TRUE(PackFloatWeights(format, {source.data(), n, k}, packed.data()).ok());
  const PackedWeights w{format, n, k, packed.data(), Device{}};
  std::vector<float> row(k);
  double error = 0, square = 0;
  for (size_t r = 0; r < n; ++r) {
    UnpackRow(w, r, row.data());
    for (size_t i = 0; i < k; ++i) {
      const double v = source[r * k + i];
      error += (row[i] - v) * (row[i] - v);
      square += v * v;
    }
  }
  return error / square;
}

TEST(PackedWeightsTest, W4xLosesHardlyMoreThanInt4) {
  std::mt19937 rng(8);
  std::normal_distribution<float> normal;
  const size_t n = 32, k = 1024;
  std::vector<float> source(n * k);
  // Groups of unlike magnitude, as real matrices have them.
  for (size_t i = 0; i < source.size(); ++i) {
    source[i] = normal(rng) * 0.02f * (1.0f + 0.3f * static_cast<float>(i / 32 % 5));
  }
  for (const std::string group : {"32", "64", "128"}) {
    const double int4 = RelativeSquaredError("int4g" + group, source, n, k);
    const double w4x = RelativeSquaredError("w4xg" + group, source, n, k);
    std::cout << "group " << group << ": int4 " << int4 << ", w4x " << w4x << "\n";
    EXPECT_LT(w4x, 1.1 * int4) << group;
  }
}

TEST(PackedWeightsTest, W4xKeepsItsContract) {
  const WeightFormat format = *WeightFormatFromName("w4xg32");
  std::mt19937 rng(8);
  const size_t n = 18, k = 100;
  std::vector<float> source(n * k, 0.0f);
  for (size_t r = 1; r < n; ++r) {
    for (size_t i = 0; i < k; ++i) {
      const float v = static_cast<float>(static_cast<int>(rng() % 2001) - 1000);
      source[r * k + i] = r == 2 ? v * 1e-41f : r == 3 ? v * 1e32f : i < 32 && r == 4 ? 0.0f : v;
    }
  }
  AlignedBytes packed(PackedBytes(format, n, k));
  ASSERT_TRUE(PackFloatWeights(format, {source.data(), n, k}, packed.data()).ok());
  const PackedWeights w{format, n, k, packed.data(), Device{}};
  const PanelLayout layout = MakePanelLayout(format, k);
  EXPECT_EQ(layout.padded_k, 128u);
  std::vector<float> row(k);
  for (size_t r = 0; r < n; ++r) {
    const uint8_t* panel = packed.data() + r / 16 * layout.bytes;
    for (size_t g = 0; g < 4; ++g) {
      const int factor = GetW4xFactor(layout, panel, g, r % 16);
      EXPECT_TRUE(factor >= -15 && factor <= 15 && factor != 0) << factor;
    }
    EXPECT_TRUE(std::isfinite(GetW4xScale(panel, r % 16)));
    // What pads a row is weight 0.
    for (size_t i = k; i < 128; ++i)
      EXPECT_EQ(GetCode(format, panel + layout.values, i, r % 16), 8);
    UnpackRow(w, r, row.data());
    const float absmax = *std::max_element(source.begin() + static_cast<ptrdiff_t>(r * k),
                                           source.begin() + static_cast<ptrdiff_t>((r + 1) * k));
    for (size_t i = 0; i < k; ++i) {
      // The second row is too small for a scale.
      ASSERT_NEAR(row[i], r == 2 ? 0.0f : source[r * k + i], 0.25f * absmax) << r << " " << i;
    }
  }
}

TEST(PackedWeightsTest, W4xRefusesRowsWhoseSumsWouldNotFit) {
  const WeightFormat format = *WeightFormatFromName("w4xg128");
  EXPECT_TRUE(CheckInputs(format, kW4xInputsMax).ok());
  EXPECT_EQ(CheckInputs(format, kW4xInputsMax + 1).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(CheckInputs(*WeightFormatFromName("int4g128"), kIntermediateMax).ok());
  const std::vector<float> source(kW4xInputsMax + 1);
  EXPECT_EQ(PackFloatWeights(format, {source.data(), 1, source.size()}, nullptr).code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(PackedWeightsTest, WeightsThatAreNotFiniteAreNamed) {
  std::vector<float> source(64, 1.0f);
  source[37] = NAN;
  AlignedBytes packed(1 << 16);
  for (const char* name : {"f32", "f16", "int8g32", "int4g32", "w4xg32"}) {
    const absl::Status status =
        PackFloatWeights(*WeightFormatFromName(name), {source.data(), 2, 32}, packed.data());
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << name;
    EXPECT_NE(status.message().find("row 1, column 5"), absl::string_view::npos) << status;
  }
  source[37] = 1e9f;
  for (const char* name : {"f16", "int8g32", "int4g32"}) {
    EXPECT_FALSE(
        PackFloatWeights(*WeightFormatFromName(name), {source.data(), 2, 32}, packed.data()).ok());
  }
  EXPECT_EQ(
      PackFloatWeights(*WeightFormatFromName("q4_k"), {source.data(), 1, 64}, packed.data()).code(),
      absl::StatusCode::kInvalidArgument);
}

TEST(HalfTest, EveryHalfSurvivesAndRoundingIsToNearestEven) {
  for (uint32_t h = 0; h < 0x10000; ++h) {
    const float f = F16ToF32(static_cast<uint16_t>(h));
    const bool nan = (h & 0x7c00) == 0x7c00 && (h & 0x3ff) != 0;
    EXPECT_EQ(std::isnan(f), nan);
    EXPECT_EQ(F32ToF16(f), nan ? (h | 0x200) : h);
    if (nan || (h & 0x7c00) == 0x7c00 || ((h + 1) & 0x7c00) == 0x7c00) continue;
    // Halfway to the next half goes to the even one, a hair to either side to the nearer one.
    const float next = F16ToF32(static_cast<uint16_t>(h + 1));
    const float middle = (f + next) / 2;
    if (std::signbit(f) != std::signbit(next)) continue;
    EXPECT_EQ(F32ToF16(middle), h % 2 == 0 ? h : h + 1);
    EXPECT_EQ(F32ToF16(std::nextafter(middle, f)), h);
    EXPECT_EQ(F32ToF16(std::nextafter(middle, next)), h + 1);
  }
  EXPECT_EQ(F32ToF16(65519.0f), 0x7bff);
  EXPECT_EQ(F32ToF16(65520.0f), 0x7c00);
  EXPECT_EQ(F32ToF16(-1e30f), 0xfc00);
}

TEST(HalfTest, Bfloat16RoundsToNearestEven) {
  EXPECT_EQ(F32ToBF16(1.0f), 0x3f80);
  EXPECT_EQ(F32ToBF16(1.0f + 0x1p-8f), 0x3f80);
  EXPECT_EQ(F32ToBF16(1.0f + 3 * 0x1p-8f), 0x3f82);
  EXPECT_EQ(F32ToBF16(std::nextafter(1.0f + 0x1p-8f, 2.0f)), 0x3f81);
  EXPECT_TRUE(std::isnan(BF16ToF32(F32ToBF16(NAN))));
  EXPECT_EQ(BF16ToF32(F32ToBF16(-INFINITY)), -INFINITY);
}

}  // namespace
}  // namespace octet
