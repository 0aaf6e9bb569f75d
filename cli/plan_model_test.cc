#include "cli/plan_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace octet {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

PlanFormats Formats(const std::string& experts, const std::string& attention) {
  PlanFormats formats;
  formats.experts = experts;
  formats.attention = attention;
  formats.head = attention;
  return formats;
}

std::string Message(const absl::Status& status) { return std::string(status.message()); }

TEST(PlanModel, BytesOf8x7bByHand) {
  const auto model = MakePlanModel(*PresetShape("8x7b"), Formats("int4g128", "int8g128"));
  ASSERT_TRUE(model.ok()) << model.status();
  // 4 bits, and 2 bytes of scale for 128 weights.
  const uint64_t expert = 3ull * 4096 * 14336;
  EXPECT_EQ(model->expert_layer_bytes, expert / 2 + expert / 128 * 2);
  const uint64_t attention = 2ull * 4096 * 4096 + 2 * 1024 * 4096;
  EXPECT_EQ(model->attention_layer_bytes, attention + attention / 128 * 2);
  const uint64_t head = 32000ull * 4096;
  EXPECT_EQ(model->head_bytes, head + head / 128 * 2);
  // The embedding, an fp32 gate (its 8 outputs fill half a panel of 16) and 65 norms.
  EXPECT_EQ(model->other_router_bytes,
            model->head_bytes + 32ull * 16 * 4096 * 4 + 65ull * 4096 * 4);
  EXPECT_EQ(model->kv_block_layer_bytes, 64ull * 2 * 8 * 128 * 2);
  EXPECT_EQ(model->wire.RowBytes(), 4096u + 4096 / 128 * 4);
  EXPECT_EQ(model->wire.ReplyRowBytes(), 4096u * 4);
}

TEST(PlanModel, FormatsDecideWhatGoesOverTheWire) {
  PlanFormats formats = Formats("w4xg128", "bf16");
  formats.reply = ReplyDType::kBF16;
  const auto w4x = MakePlanModel(*PresetShape("8x7b"), formats);
  EXPECT_EQ(w4x->wire.RowBytes(), 4096u + 4) << "one scale a row";
  EXPECT_EQ(w4x->wire.ReplyRowBytes(), 4096u * 2);
  const auto bf16 = MakePlanModel(*PresetShape("8x7b"), Formats("bf16", "bf16"));
  EXPECT_EQ(bf16->wire.RowBytes(), 4096u * 4);
  EXPECT_EQ(bf16->expert_layer_bytes, 3ull * 4096 * 14336 * 2);
}

TEST(PlanModel, NamesTheSettingOfAnUnknownFormat) {
  EXPECT_THAT(Message(MakePlanModel(*PresetShape("8x7b"), Formats("int5", "bf16")).status()),
              AllOf(HasSubstr("experts: "), HasSubstr("int5")));
  EXPECT_THAT(Message(MakePlanModel(*PresetShape("8x7b"), Formats("bf16", "int5")).status()),
              AllOf(HasSubstr("attention: "), HasSubstr("int5")));
}

TEST(PlanModel, PresetTinyIsTheEmbeddedModel) {
  const auto read = ReadShape(OCTET_SOURCE_DIR "/models/tiny");
  if (!read.ok()) GTEST_SKIP() << "not run: " << read.status();
  const ModelConfig tiny = *PresetShape("tiny");
  EXPECT_EQ(read->layers, tiny.layers);
  EXPECT_EQ(read->hidden, tiny.hidden);
  EXPECT_EQ(read->intermediate, tiny.intermediate);
  EXPECT_EQ(read->heads, tiny.heads);
  EXPECT_EQ(read->kv_heads, tiny.kv_heads);
  EXPECT_EQ(read->head_dim, tiny.head_dim);
  EXPECT_EQ(read->vocab, tiny.vocab);
  EXPECT_EQ(read->context, tiny.context);
  EXPECT_EQ(read->experts, tiny.experts);
  EXPECT_EQ(read->top_k, tiny.top_k);
  EXPECT_EQ(read->gate, tiny.gate);
  EXPECT_EQ(read->tied_embeddings, tiny.tied_embeddings);
}

TEST(PlanModel, ReadsTheShapeOfASourceWithoutPackingIt) {
  const auto shape = ReadShape(OCTET_SOURCE_DIR "/tests/golden/models/mixtral-f32");
  ASSERT_TRUE(shape.ok()) << shape.status();
  EXPECT_EQ(shape->experts, 4u);
  EXPECT_EQ(shape->layers, 2u);
  const absl::Status missing = ReadShape("/nowhere/at/all").status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Message(missing), AllOf(HasSubstr("/nowhere/at/all"), HasSubstr("8x22b")));
}

TEST(PlanLink, NamesAndNumbers) {
  EXPECT_DOUBLE_EQ(LinkFromName("100g", -1)->bytes_per_s, 12.5e9);
  EXPECT_DOUBLE_EQ(LinkFromName("100g", 7)->latency_s, 7e-6);
  EXPECT_DOUBLE_EQ(LinkFromName("0.5", 3)->bytes_per_s, 0.5e9);
  EXPECT_THAT(Message(LinkFromName("2", -1).status()),
              AllOf(HasSubstr("latency-us"), HasSubstr("--link 2")));
  for (const char* wrong : {"", "token-ring", "0", "-1", "nan", "inf", "1e9"}) {
    const absl::Status status = LinkFromName(wrong, 1).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << wrong;
    EXPECT_THAT(Message(status), AllOf(HasSubstr("link: "), HasSubstr("nvlink"))) << wrong;
  }
}

TEST(PlanEstimate, WholeStepsOfOneGpuAreWithinAQuarterOfTheMeasured) {
  for (const MeasuredStep& step : MeasuredSteps()) {
    const auto estimated = PlanMeasured(step.sequences, 1, /*same_experts=*/true);
    ASSERT_TRUE(estimated.ok()) << estimated.status();
    EXPECT_NEAR(estimated->tokens_per_s / step.tokens_per_s, 1, 0.25)
        << step.sequences << " sequences";
  }
}

TEST(PlanEstimate, FirstTokensAreWithinAThirdOfTheMeasured) {
  for (const MeasuredPrompt& prompt : MeasuredPrompts()) {
    const auto estimated = PlanMeasured(1, prompt.tokens, /*same_experts=*/true);
    ASSERT_TRUE(estimated.ok()) << estimated.status();
    EXPECT_NEAR(estimated->first_token.total() / prompt.seconds, 1, 0.35) << prompt.tokens;
  }
}

TEST(PlanEstimate, RowsThatChooseByThemselvesNeedMoreExperts) {
  const auto same = PlanMeasured(16, 1, true), own = PlanMeasured(16, 1, false);
  ASSERT_TRUE(same.ok() && own.ok());
  EXPECT_DOUBLE_EQ(same->active_experts, 2);
  EXPECT_GT(own->active_experts, 7.9);
  EXPECT_LT(own->tokens_per_s, same->tokens_per_s);
  EXPECT_DOUBLE_EQ(PlanMeasured(1, 1, true)->tokens_per_s, PlanMeasured(1, 1, false)->tokens_per_s);
}

}  // namespace
}  // namespace octet
