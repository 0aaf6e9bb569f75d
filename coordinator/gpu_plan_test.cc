#include "coordinator/gpu_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "core/limits.h"

namespace octet {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

// Rates that make the arithmetic visible: one second for 1,000 bytes, nothing else takes time.
GpuRates Rates() {
  GpuRates rates;
  rates.name = "test";
  rates.memory_bytes = 100ull << 30;
  rates.copy_bytes_per_s = 1e30;
  rates.cache_reads = {{1000, 1}};
  rates.attention_ops_per_s = 1e30;
  rates.logits_bytes_per_s = 1e30;
  FormatRates format;
  format.name = "int4g128";
  format.seconds_per_byte = format.full_seconds_per_byte = 1e-3;
  format.rows_factor = {{4, 1}, {1e9, 1}};
  rates.formats = {format};
  return rates;
}

PlanInput Small(uint32_t gpus) {
  PlanInput input;
  ModelConfig& c = input.model.config;
  c.layers = 2;
  c.hidden = 256;
  c.intermediate = 512;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = 64;
  c.vocab = 1000;
  c.context = 1024;
  c.experts = 4;
  c.top_k = 2;
  c.gate = GateKind::kLinear;
  input.model.expert_format = "int4g128";
  input.model.attention_format = input.model.head_format = "int4g128";
  input.model.attention_layer_bytes = 1000;
  input.model.head_bytes = 500;
  input.model.other_router_bytes = 300;
  input.model.expert_layer_bytes = 2000;
  input.model.kv_block_layer_bytes = 4096;
  input.model.wire = {256, 128, ReplyDType::kF32};
  input.gpu = Rates();
  input.link = {"test", 1e30, 0};
  input.gpus = gpus;
  input.sequences = 3;
  input.context = 100;
  input.prompt = 10;
  return input;
}

GpuPlan Plan(const PlanInput& input) {
  auto plan = PlanGpus(input);
  EXPECT_TRUE(plan.ok()) << plan.status();
  return plan.ok() ? *std::move(plan) : GpuPlan();
}

TEST(GpuPlan, BytesOfASharedRouterByHand) {
  PlanInput input = Small(2);
  input.router = RouterGpu::kShared;
  const GpuPlan plan = Plan(input);
  EXPECT_FALSE(plan.router_alone);
  EXPECT_THAT(plan.expert_gpus,
              ElementsAre(ElementsAre(0u), ElementsAre(1u), ElementsAre(0u), ElementsAre(1u)));
  const GpuUse &router = plan.gpus[0], &worker = plan.gpus[1];
  // Two experts of two layers of 2,000 bytes each; two blocks of 64 positions for each sequence.
  EXPECT_EQ(worker.weight_bytes, 8000u);
  EXPECT_EQ(router.weight_bytes, 2u * 1000 + 500 + 300 + 8000);
  EXPECT_EQ(router.kv_bytes, 3u * 2 * 2 * 4096);
  EXPECT_EQ(worker.kv_bytes, 0u);
  // 10 rows of the prompt: a wire row of 256 codes and 2 scales, 2 choices each.
  EXPECT_EQ(worker.scratch_bytes, 10u * (264 + 2 * (512 * 5 + 256 * 4)));
  EXPECT_EQ(router.scratch_bytes,
            worker.scratch_bytes + 10u * (4 * (5 * 256 + 2 * (4 + 2) * 64) + 264) + 4u * 1000 * 3);
  // Three rows leave an expert untouched with probability 1/8: 3.5 of 4 are active.
  EXPECT_DOUBLE_EQ(plan.active_experts, 3.5);
  EXPECT_DOUBLE_EQ(worker.read_bytes, 1.75 * 2 * 2000);
  EXPECT_DOUBLE_EQ(router.read_bytes, 1.75 * 2 * 2000 + 2 * 1000 + 500 + 3 * 2 * 2 * 4096);
  // Five of the six pairs of experts have one of two: 2.5 rows a layer; 3 replies of 256 fp32.
  EXPECT_DOUBLE_EQ(worker.received_bytes, 2 * 2.5 * 264);
  EXPECT_DOUBLE_EQ(worker.sent_bytes, 2 * 3 * 1024.0);
  EXPECT_DOUBLE_EQ(router.sent_bytes, worker.received_bytes);
  EXPECT_DOUBLE_EQ(router.received_bytes, worker.sent_bytes);
}

TEST(GpuPlan, TimesByHand) {
  PlanInput input = Small(3);
  input.router = RouterGpu::kAlone;
  input.link = {"test", 100, 0.25};
  input.gpu.row_kernels_seconds = 1.5;
  input.gpu.row_seconds_per_byte = 1.0 / 1024;
  input.gpu.gate_seconds = 0.25;
  input.gpu.chain_seconds = 0.125;
  input.gpu.product_call_seconds = 0.5;
  input.gpu.formats[0].call_seconds = 0.75;
  input.gpu.host_seconds = 3;
  input.gpu.logits_bytes_per_s = 1000;
  const GpuPlan plan = Plan(input);
  EXPECT_TRUE(plan.router_alone);
  const StepEstimate& step = plan.decode;
  EXPECT_DOUBLE_EQ(step.of(StepPhase::kAttentionWeights), 2 * (2 * 0.5 + 1.0));
  EXPECT_DOUBLE_EQ(step.of(StepPhase::kAttention), 3 * 2 * 2 * 4.096);
  EXPECT_DOUBLE_EQ(step.of(StepPhase::kHead), 0.5 + 0.5);
  // Two rows of 1,024 bytes past the first.
  EXPECT_DOUBLE_EQ(step.of(StepPhase::kRowKernels), 2 * (1.5 + 2 + 0.25 + 256 * 0.125));
  EXPECT_DOUBLE_EQ(step.of(StepPhase::kHost), 3 + 3 * 4.0);
  EXPECT_DOUBLE_EQ(step.of(StepPhase::kExperts), 2 * (0.75 + plan.busiest_experts * 2));
  EXPECT_DOUBLE_EQ(step.of(StepPhase::kLinkLatency), 2 * 2 * 0.25);
  // Two workers of two experts each.
  EXPECT_DOUBLE_EQ(step.of(StepPhase::kLinkBytes), 2 * 2 * (2.5 * 264 + 3 * 1024) / 100.0);
  EXPECT_DOUBLE_EQ(plan.tokens_per_s, 3 / step.total());
}

TEST(GpuPlan, RowsTakeTimeAsMeasuredAndWholeTilesWhereTheyAreMany) {
  PlanInput input = Small(1);
  FormatRates& format = input.gpu.formats[0];
  format.call_seconds = 2;
  format.full_seconds_per_byte = 1.5e-3;
  format.rows_factor = {{4, 1}, {32, 2}, {128, 6}, {192, 10}};
  const auto seconds = [&](uint32_t sequences) {
    input.sequences = sequences;  // half of them for each of 4 experts, all of which are hit
    return Plan(input).decode.of(StepPhase::kExperts);
  };
  EXPECT_NEAR(seconds(64), 2 * (2 + 8) * 2, 1e-6);
  EXPECT_NEAR(seconds(128), 2 * (2 + 8) * (2 + 4 / 3.0), 1e-6) << "a third of the way";
  EXPECT_NEAR(seconds(200), 2 * 8 * 1.5 * 6, 1e-6) << "100 rows are two tiles of 64";
  EXPECT_NEAR(seconds(512), 2 * 8 * 1.5 * 10 * 256 / 192, 1e-6) << "in proportion from the last";
  format.full_seconds_per_byte = 1e-9;
  EXPECT_NEAR(seconds(512), 2 * (2 + 8), 1e-6) << "weights take longer to come";
}

TEST(GpuPlan, RowsThatChooseTheSameExpertsHitFewOfThem) {
  PlanInput input = Small(1);
  input.gpu.formats[0].rows_factor = {{4, 1}, {8, 3}};
  input.sequences = 8;
  input.same_experts = true;
  const GpuPlan plan = Plan(input);
  EXPECT_DOUBLE_EQ(plan.active_experts, 2);
  EXPECT_DOUBLE_EQ(plan.gpus[0].read_bytes - 2 * 1000 - 500 - 8 * 2 * 2 * 4096, 2 * 2 * 2000.0);
  EXPECT_DOUBLE_EQ(plan.decode.of(StepPhase::kExperts), 2 * 2 * 2 * 3) << "8 rows each";
}

TEST(GpuPlan, AnAttentionGateIsThreeProducts) {
  PlanInput input = Small(1);
  input.gpu.gate_seconds = 1;
  EXPECT_DOUBLE_EQ(Plan(input).decode.of(StepPhase::kRowKernels), 2);
  input.model.config.gate = GateKind::kAttention;
  EXPECT_DOUBLE_EQ(Plan(input).decode.of(StepPhase::kRowKernels), 6);
}

TEST(GpuPlan, NamesWhatBoundsAStep) {
  const auto bound = [](auto change) {
    PlanInput input = Small(2);
    input.gpu.cache_reads = {{1e30, 0}};
    change(&input);
    return Plan(input).decode.bound();
  };
  EXPECT_EQ(bound([](PlanInput*) {}), StepPhase::kExperts);
  EXPECT_EQ(bound([](PlanInput* in) { in->gpu.cache_reads = {{100, 1}}; }), StepPhase::kAttention);
  EXPECT_EQ(bound([](PlanInput* in) { in->model.attention_layer_bytes = 100'000; }),
            StepPhase::kAttentionWeights);
  EXPECT_EQ(bound([](PlanInput* in) { in->model.head_bytes = 100'000; }), StepPhase::kHead);
  EXPECT_EQ(bound([](PlanInput* in) { in->gpu.chain_seconds = 1; }), StepPhase::kRowKernels);
  EXPECT_EQ(bound([](PlanInput* in) { in->gpu.host_seconds = 100; }), StepPhase::kHost);
  EXPECT_EQ(bound([](PlanInput* in) { in->link.latency_s = 100; }), StepPhase::kLinkLatency);
  EXPECT_EQ(bound([](PlanInput* in) { in->link.bytes_per_s = 1; }), StepPhase::kLinkBytes);
}

TEST(GpuPlan, FirstTokenOfALongPromptGoesInChunks) {
  PlanInput input = Small(1);
  input.model.config.context = input.context = input.prompt = kStepTokensMax + 1000;
  input.gpu.attention_ops_per_s = 1e6;
  input.gpu.cache_reads = {{1e30, 0}};
  const double n = input.prompt;
  const StepEstimate whole = Plan(input).first_token;
  EXPECT_NEAR(whole.of(StepPhase::kAttention), 2.0 * 4 * 4 * 64 * n * (n + 1) / 2 / 1e6, 1e-3);
  EXPECT_DOUBLE_EQ(whole.of(StepPhase::kAttentionWeights), 2 * 2 * 1.0) << "two chunks";
  EXPECT_DOUBLE_EQ(whole.of(StepPhase::kHead), 0.5) << "once";
  input.model.config.sliding_window = 100;
  const double pairs = 100.0 * 101 / 2 + (n - 100) * 100;
  EXPECT_NEAR(Plan(input).first_token.of(StepPhase::kAttention), 2.0 * 4 * 4 * 64 * pairs / 1e6,
              1e-3);
}

TEST(GpuPlan, AWindowBoundsWhatAttentionReadsNotWhatItHolds) {
  PlanInput input = Small(1);
  const GpuPlan whole = Plan(input);
  input.model.config.sliding_window = 64;
  const GpuPlan window = Plan(input);
  EXPECT_DOUBLE_EQ(window.decode.of(StepPhase::kAttention),
                   whole.decode.of(StepPhase::kAttention) / 2);
  EXPECT_EQ(window.gpus[0].kv_bytes, whole.gpus[0].kv_bytes);
}

TEST(GpuPlan, MoreGpusAreNeverSlowerWithoutLinks) {
  for (const uint32_t experts : {4u, 6u, 8u, 16u}) {
    for (const uint32_t sequences : {1u, 2u, 16u, 100u}) {
      double before = std::numeric_limits<double>::infinity();
      for (uint32_t gpus = 1; gpus <= experts + 2; ++gpus) {
        PlanInput input = Small(gpus);
        input.model.config.experts = experts;
        input.sequences = sequences;
        input.link.bytes_per_s = std::numeric_limits<double>::infinity();
        const double now = Plan(input).decode.total();
        EXPECT_LE(now, before * (1 + 1e-12))
            << experts << " experts, " << sequences << " sequences, " << gpus << " GPUs";
        before = now;
      }
    }
  }
}

TEST(GpuPlan, ReplicasCostMemoryOnly) {
  PlanInput input = Small(4);
  const GpuPlan one = Plan(input);
  input.replication = 2;
  const GpuPlan two = Plan(input);
  EXPECT_THAT(two.expert_gpus[1], ElementsAre(1u, 2u));
  EXPECT_EQ(two.gpus[1].weight_bytes, 2 * one.gpus[1].weight_bytes);
  EXPECT_DOUBLE_EQ(two.decode.total(), one.decode.total());
}

TEST(GpuPlan, TheRouterSharesWhereThereIsRoom) {
  PlanInput input = Small(2);
  const GpuPlan roomy = Plan(input);
  EXPECT_FALSE(roomy.router_alone) << "two GPUs compute experts sooner than one";
  EXPECT_THAT(roomy.why, HasSubstr("a router alone would take"));
  input.model.expert_layer_bytes = 1 << 20;      // 2 MiB an expert
  input.model.kv_block_layer_bytes = 512 << 10;  // 6 MiB of cache
  const auto with_memory = [&input](uint64_t mib) {
    input.gpu.memory_bytes = kReservedBytes + (mib << 20);
    return Plan(input);
  };
  const GpuPlan tight = with_memory(9);
  EXPECT_FALSE(tight.router_alone);
  EXPECT_EQ(tight.gpus[0].experts.size(), 1u) << "beside 6 MiB of cache";
  EXPECT_EQ(tight.gpus[1].experts.size(), 3u);
  input.gpus = 3;
  const GpuPlan full = with_memory(7);
  EXPECT_TRUE(full.router_alone);
  EXPECT_EQ(full.why, "sharing it does not fit");
  EXPECT_TRUE(full.gpus[0].experts.empty());
  for (const GpuUse& gpu : full.gpus) EXPECT_LE(gpu.memory_bytes(), input.gpu.memory_bytes);
}

TEST(GpuPlan, SaysWhatWouldFit) {
  PlanInput input = Small(1);
  input.model.expert_layer_bytes = 10ull << 30;   // 80 GiB in all
  input.model.kv_block_layer_bytes = 1ull << 30;  // 4 GiB a sequence
  input.sequences = 6;
  PlanModel smaller = input.model;
  smaller.expert_format = "int2";
  smaller.expert_layer_bytes /= 2;
  PlanModel larger = input.model;
  larger.expert_format = "int9";
  larger.expert_layer_bytes *= 2;
  input.other_formats = {smaller, larger};
  const absl::Status status = PlanGpus(input).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  // 2 reserved, 80 of weights, 24 of cache.
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("lacks 6.0 GiB of 106.0 GiB"), HasSubstr("weights 80.0 GiB"),
                    HasSubstr("KV cache 24.0 GiB"), HasSubstr("--sequences 4"),
                    HasSubstr("--gpus 2"), HasSubstr("--experts int2"), Not(HasSubstr("int9"))));
  input.sequences = 4;
  EXPECT_TRUE(PlanGpus(input).ok());
  input.sequences = 5;
  EXPECT_FALSE(PlanGpus(input).ok());
}

TEST(GpuPlan, NamesWhatIsOutOfRange) {
  const auto message = [](auto change) {
    PlanInput input = Small(2);
    change(&input);
    const absl::Status status = PlanGpus(input).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_THAT(message([](PlanInput* in) { in->gpus = 65; }),
              AllOf(HasSubstr("gpus: 65"), HasSubstr("1 to 64")));
  EXPECT_THAT(message([](PlanInput* in) { in->context = 1025; }),
              AllOf(HasSubstr("context: 1025"), HasSubstr("1 to 1024")));
  EXPECT_THAT(message([](PlanInput* in) { in->prompt = 101; }),
              AllOf(HasSubstr("prompt: 101"), HasSubstr("1 to 100")));
  EXPECT_THAT(message([](PlanInput* in) { in->replication = 3; }),
              AllOf(HasSubstr("replication: 3"), HasSubstr("1 to 2")));
  EXPECT_THAT(message([](PlanInput* in) {
                in->router = RouterGpu::kAlone;
                in->gpus = 1;
              }),
              HasSubstr("router-gpus: 1"));
  EXPECT_THAT(message([](PlanInput* in) { in->model.expert_format = "q4_k"; }),
              AllOf(HasSubstr("experts: \"q4_k\""), HasSubstr("int4g128")));
}

TEST(GpuRates, ValuesAreLinearBetweenPointsAndInProportionBeyond) {
  const std::vector<RatePoint> points = {{2, 10}, {4, 20}, {8, 24}};
  EXPECT_DOUBLE_EQ(ValueAt(points, 0), 10);
  EXPECT_DOUBLE_EQ(ValueAt(points, 3), 15);
  EXPECT_DOUBLE_EQ(ValueAt(points, 4), 20);
  EXPECT_DOUBLE_EQ(ValueAt(points, 7), 23);
  EXPECT_DOUBLE_EQ(ValueAt(points, 16), 48);
}

TEST(GpuRates, MeasuredTimesOfExpertsComeBack) {
  struct Measured {
    const char* format;
    double bytes_per_weight, ms1, ms16, ms64, ms4096;
  };
  for (const Measured& m : {Measured{"int4g128", 0.5 + 2.0 / 128, 0.0662, 0.1782, 0.214, 4.93},
                            Measured{"int8g128", 1 + 2.0 / 128, 0.0932, 0.331, 0.353, 4.87},
                            Measured{"w4xg128", 0.5 + 1.0 / 128, 0.0710, 0.190, 0.208, 5.47},
                            Measured{"bf16", 2, 0.177, 0.670, 0.711, 4.76}}) {
    PlanInput input = Small(1);
    input.model.config.layers = 1;
    input.model.config.hidden = 4096;
    input.model.config.intermediate = 14336;
    input.model.config.experts = 8;
    input.gpu = *GpuRatesFromName("h200");
    input.model.expert_format = m.format;
    input.model.expert_layer_bytes = static_cast<uint64_t>(3.0 * 4096 * 14336 * m.bytes_per_weight);
    const auto ms = [&](uint32_t sequences) {
      input.sequences = sequences;
      return 1e3 * Plan(input).decode.of(StepPhase::kExperts);
    };
    EXPECT_NEAR(ms(1) / m.ms1, 1, 0.001) << m.format;
    // All but certainly all of 8 experts are hit.
    EXPECT_NEAR(ms(16) / m.ms16, 1, 0.02) << m.format;
    EXPECT_NEAR(ms(64) / m.ms64, 1, 0.001) << m.format;
    input.model.config.context = input.context = input.prompt = 4096;
    EXPECT_NEAR(1e3 * Plan(input).first_token.of(StepPhase::kExperts) / m.ms4096, 1, 0.06)
        << m.format << ", in steps of " << kStepTokensMax << " tokens";
  }
}

TEST(GpuRates, OtherGpusAreRefusedOrScaled) {
  const auto unknown = GpuRatesFromName("b200").status();
  EXPECT_EQ(unknown.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(unknown.message()),
              AllOf(HasSubstr("b200"), HasSubstr("h200"), HasSubstr("h100")));
  const auto h200 = GpuRatesFromName("h200"), h100 = GpuRatesFromName("h100");
  EXPECT_TRUE(h200->measured);
  EXPECT_FALSE(h100->measured);
  EXPECT_NEAR(h100->formats[0].seconds_per_byte * h100->copy_bytes_per_s,
              h200->formats[0].seconds_per_byte * h200->copy_bytes_per_s, 1e-9);
}

}  // namespace
}  // namespace octet
