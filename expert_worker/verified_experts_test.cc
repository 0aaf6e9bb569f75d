#include "expert_worker/verified_experts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <vector>

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

// The sums are those of the loaded weights, with and without threads, in every format.
TEST(VerifyLayerTest, SeesAChangeInAnyMatrixOfTheLayerAlone) {
  for (const char* format : {"f32", "int8g32", "int4g64"}) {
    SCOPED_TRACE(format);
    TestModelShape shape;
    shape.format = format;
    shape.hidden = shape.intermediate = 128;
    const auto expert = SummedWorkerModel(MakeTestModel(shape)).load(ExpertId(1));
    ASSERT_TRUE(expert.ok());
    ThreadPool pool(2);
    EXPECT_TRUE(VerifyLayer(*expert, LayerId(0), nullptr).ok());
    EXPECT_TRUE(VerifyLayer(*expert, LayerId(1), &pool).ok());
    const ExpertWeights& layer = expert->layers[1];
    for (const PackedWeights* w : {&layer.gate, &layer.up, &layer.down}) {
      auto* const last = const_cast<uint8_t*>(w->data) + PackedBytes(w->format, w->n, w->k) - 1;
      *last ^= 0x40;
      const absl::Status status = VerifyLayer(*expert, LayerId(1), &pool);
      EXPECT_TRUE(absl::IsDataLoss(status)) << status;
      EXPECT_THAT(std::string(status.message()), HasSubstr("layer 1"));
      EXPECT_EQ(VerifyLayer(*expert, LayerId(1), nullptr), status);
      EXPECT_TRUE(VerifyLayer(*expert, LayerId(0), &pool).ok());
      *last ^= 0x40;
    }
    EXPECT_TRUE(VerifyLayer(*expert, LayerId(1), &pool).ok());
  }
}

}  // namespace
}  // namespace octet
