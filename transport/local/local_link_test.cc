#include "transport/local/local_link.h"

#include <gtest/gtest.h>

#include <memory>

#include "kernels/packed_weights.h"
#include "transport/token_dispatcher.h"

namespace octet {
namespace {

// Expert e scales its row by e + 1/3.
absl::Status ScaleExpert(LayerId, ExpertId expert, const ExpertInput& x,
                         absl::Span<const uint32_t> rows, TensorF32 out) {
  for (size_t i = 0; i < rows.size(); ++i) {
    for (size_t c = 0; c < out.cols; ++c) {
      out.row(i)[c] = x.f32.row(rows[i])[c] * (static_cast<float>(expert.value()) + 1.0f / 3.0f);
    }
  }
  return absl::OkStatus();
}

std::shared_ptr<const Placement> TwoWorkers() {
  auto p = std::make_shared<Placement>();
  p->epoch = Epoch(1);
  p->workers = {{WorkerId(1), ""}, {WorkerId(2), ""}};
  p->expert_replicas = {{WorkerId(1)}, {WorkerId(2)}, {WorkerId(1)}};
  return p;
}

class LocalLinkTest : public ::testing::TestWithParam<ReplyDType> {};

TEST_P(LocalLinkTest, ComputesEverySlotWithTheReplyRounding) {
  SystemClock clock;
  TokenDispatcher dispatcher(
      {}, [](const PlacedWorker&) { return std::make_shared<LocalLink>(ScaleExpert); }, &clock);
  EXPECT_FALSE(dispatcher.Ready());
  dispatcher.SetPlacement(TwoWorkers());
  EXPECT_TRUE(dispatcher.Ready());

  std::vector<float> x = {0.1f, 0.2f, 0.3f, 0.4f, 0.5f, 0.6f};
  std::vector<uint32_t> experts = {2, 0, 1, 2, 0, 1};
  std::vector<float> weights(6, 0.5f);
  WireRows rows;
  rows.format = {2, 0, GetParam()};
  rows.rows = 3;
  rows.f32 = ConstTensorF32(x.data(), 3, 2);
  const TopK choice{3, 2, experts.data(), weights.data()};
  auto handle = dispatcher.Dispatch(StepId(1), 0, LayerId(0), false, rows, choice);
  std::vector<const float*> replies;
  ASSERT_TRUE(dispatcher.Combine(*handle, kNever, &replies).ok());
  ASSERT_EQ(replies.size(), 6u);
  for (size_t slot = 0; slot < 6; ++slot) {
    for (size_t c = 0; c < 2; ++c) {
      float want = x[slot / 2 * 2 + c] * (static_cast<float>(experts[slot]) + 1.0f / 3.0f);
      if (GetParam() == ReplyDType::kBF16) want = BF16ToF32(F32ToBF16(want));
      EXPECT_EQ(replies[slot][c], want) << slot;
    }
  }
  EXPECT_EQ(dispatcher.stats().dispatches, 2u);
  EXPECT_EQ(dispatcher.stats().tokens_per_expert, (std::vector<uint64_t>{2, 2, 2}));
}

INSTANTIATE_TEST_SUITE_P(ReplyTypes, LocalLinkTest,
                         ::testing::Values(ReplyDType::kF32, ReplyDType::kBF16));

}  // namespace
}  // namespace octet
