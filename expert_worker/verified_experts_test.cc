#include "expert_worker/verified_experts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "core/status_macros.h"
#include "expert_worker/expert_ffn.h"
#include "expert_worker/test_util.h"

namespace octet {
namespace {

using ::testing::HasSubstr;

TEST(SumWeightsTest, EveryFlippedBitAndEverySwapChangesIt) {
  std::vector<uint8_t> data(4096);
  std::mt19937 rng(7);
  for (uint8_t& byte : data) byte = static_cast<uint8_t>(rng());
  const WeightSum sum = SumWeights(data.data(), data.size());
  for (size_t bit = 0; bit < data.size() * 8; ++bit) {
    data[bit / 8] ^= static_cast<uint8_t>(1u << bit % 8);
    ASSERT_FALSE(SumWeights(data.data(), data.size()) == sum) << bit;
    data[bit / 8] ^= static_cast<uint8_t>(1u << bit % 8);
  }
  ASSERT_TRUE(SumWeights(data.data(), data.size()) == sum);
  // Words that a plain sum could not tell apart.
  for (size_t at = 0; at + 128 <= data.size(); at += 64) {
    std::swap_ranges(data.begin() + at, data.begin() + at + 8, data.begin() + at + 64);
    EXPECT_FALSE(SumWeights(data.data(), data.size()) == sum) << at;
    std::swap_ranges(data.begin() + at, data.begin() + at + 8, data.begin() + at + 64);
  }
}

class VerifiedExpertTest : public testing::TestWithParam<const char*> {
 protected:
  VerifiedExpertTest() {
    TestModelShape shape;
    shape.format = GetParam();
    shape.hidden = shape.intermediate = kWidth;
    auto expert = SummedWorkerModel(MakeTestModel(shape)).load(ExpertId(1));
    EXPECT_TRUE(expert.ok()) << expert.status();
    expert_ = *std::move(expert);
    std::mt19937 rng(3);
    std::normal_distribution<float> normal;
    for (float& v : x_) v = normal(rng);
  }

  // The layer's output for all rows, or why there is none.
  absl::StatusOr<std::vector<float>> Run(uint32_t layer) {
    const ExecContext& ctx = executor_.context();
    const Arena::Scope scope(*ctx.arena);
    const WeightFormat& format = expert_.layers[layer].gate.format;
    ExpertInput input;
    if (format.is_integer()) {
      input.q = AllocQuantizedRows(ctx, format, kRows, kWidth);
      QuantizeRows(ctx, {x_.data(), kRows, kWidth}, input.q);
    } else {
      input.f32 = {x_.data(), kRows, kWidth};
    }
    std::vector<float> plain(kRows * kWidth), out(kRows * kWidth);
    OCTET_RETURN_IF_ERROR(
        RunExpert(ctx, expert_, LayerId(layer), input, rows_, {plain.data(), kRows, kWidth}));
    OCTET_RETURN_IF_ERROR(
        RunVerifiedExpert(ctx, expert_, LayerId(layer), input, rows_, {out.data(), kRows, kWidth}));
    EXPECT_EQ(out, plain);
    return out;
  }

  static constexpr size_t kRows = 5;
  static constexpr size_t kWidth = 128;
  const std::vector<uint32_t> rows_ = {0, 1, 2, 3, 4};
  std::vector<float> x_ = std::vector<float>(kRows * kWidth);
  MappedExpert expert_;
  ExpertExecutor executor_{2, DetectCpuLevel()};
};

// At either end of a matrix: its scales, where it has some, and its codes.
TEST_P(VerifiedExpertTest, SeesAChangeInAnyMatrixOfTheLayerAlone) {
  EXPECT_TRUE(Run(0).ok());
  EXPECT_TRUE(Run(1).ok());
  EXPECT_TRUE(VerifyLayer(expert_, LayerId(1), nullptr).ok());
  const ExpertWeights& layer = expert_.layers[1];
  for (const PackedWeights* w : {&layer.gate, &layer.up, &layer.down}) {
    auto* const data = const_cast<uint8_t*>(w->data);
    for (uint8_t* const byte : {data, data + PackedBytes(w->format, w->n, w->k) - 1}) {
      *byte ^= 0x40;
      const absl::Status status = Run(1).status();
      EXPECT_TRUE(absl::IsDataLoss(status)) << status;
      EXPECT_THAT(std::string(status.message()), HasSubstr("layer 1"));
      EXPECT_TRUE(absl::IsDataLoss(VerifyLayer(expert_, LayerId(1), nullptr)));
      EXPECT_TRUE(absl::IsDataLoss(VerifyLayer(expert_, LayerId(1), executor_.context().pool)));
      EXPECT_TRUE(Run(0).ok());
      *byte ^= 0x40;
    }
  }
  EXPECT_TRUE(Run(1).ok());
}

TEST_P(VerifiedExpertTest, ALayerThatIsNotThereIsNoDamage) {
  EXPECT_FALSE(
      absl::IsDataLoss(RunVerifiedExpert(executor_.context(), expert_, LayerId(9), {}, rows_, {})));
}

INSTANTIATE_TEST_SUITE_P(Formats, VerifiedExpertTest,
                         testing::Values("f32", "int8g32", "int4g64", "w4xg32"));

}  // namespace
}  // namespace octet
