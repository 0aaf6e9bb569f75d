// octet plan, the real binary.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/integration/process.h"

namespace octet {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr int64_t kTimeoutMs = 60'000;

ProcessResult Plan(std::vector<std::string> args) {
  args.insert(args.begin(), {OctetBinary(), "plan"});
  return RunProcess(args, kTimeoutMs);
}

TEST(PlanCommand, PrintsPlacementMemoryBytesTimesAndTheBound) {
  const ProcessResult result =
      Plan({"--model", "8x22b", "--gpus", "8", "--gpu", "h200", "--link", "100g"});
  ASSERT_EQ(result.exit_code, 0) << result.stderr_text;
  for (const char* part : {"8x22b: 56 layers, 8 experts, top 2", "8 h200 (measured on one)",
                           "12.5 GB/s", "GPU 0, with experts", "link bytes", "bound by", "tokens/s",
                           "measured 309", "(not measured)", "prompt of 2048: "}) {
    EXPECT_THAT(result.stdout_text, HasSubstr(part));
  }
}

TEST(PlanCommand, IsListedInHelp) {
  EXPECT_THAT(RunProcess({OctetBinary(), "--help"}, kTimeoutMs).stdout_text,
              HasSubstr("\n  plan "));
}

TEST(PlanCommand, JsonHoldsTheSameAndAddsUp) {
  const ProcessResult result =
      Plan({"--model", "8x22b", "--gpus", "4", "--replication", "2", "--output", "json"});
  ASSERT_EQ(result.exit_code, 0) << result.stderr_text;
  const json plan = json::parse(result.stdout_text);
  ASSERT_EQ(plan["gpus"].size(), 4u);
  ASSERT_EQ(plan["expert_gpus"].size(), 8u);
  size_t replicas = 0;
  for (const json& gpu : plan["gpus"]) {
    replicas += gpu["experts"].size();
    EXPECT_LE(gpu["memory_bytes"], plan["gpu_memory_bytes"]);
  }
  EXPECT_EQ(replicas, 16u);
  double sum = 0, longest = 0;
  for (const auto& [name, seconds] : plan["decode"]["phases"].items()) {
    sum += seconds.get<double>();
    longest = std::max(longest, seconds.get<double>());
  }
  EXPECT_NEAR(plan["decode"]["seconds"].get<double>(), sum, 1e-9);
  EXPECT_EQ(plan["decode"]["phases"][plan["decode"]["bound"].get<std::string>()], longest);
  EXPECT_NEAR(plan["tokens_per_s"].get<double>(), 16 / sum, 1e-6 * 16 / sum);
}

TEST(PlanCommand, ComparesItselfToWhatWasMeasured) {
  const ProcessResult result = Plan({"--output", "json"});
  ASSERT_EQ(result.exit_code, 0) << result.stderr_text;
  const json plan = json::parse(result.stdout_text);
  ASSERT_EQ(plan["step_checks"].size(), 4u);
  for (const json& check : plan["step_checks"]) {
    EXPECT_NEAR(check["estimated_tokens_per_s"].get<double>() /
                    check["measured_tokens_per_s"].get<double>(),
                1, 0.25);
    EXPECT_LE(check["own_experts_tokens_per_s"], check["estimated_tokens_per_s"]);
  }
  ASSERT_EQ(plan["prompt_checks"].size(), 2u);
  for (const json& check : plan["prompt_checks"]) {
    EXPECT_NEAR(check["estimated_seconds"].get<double>() / check["measured_seconds"].get<double>(),
                1, 0.35);
  }
}

TEST(PlanCommand, SaysThatAnH100IsScaledNotMeasured) {
  const ProcessResult result = Plan({"--gpu", "h100"});
  ASSERT_EQ(result.exit_code, 0) << result.stderr_text;
  EXPECT_THAT(result.stdout_text, HasSubstr("scaled from one h200, not measured"));
  EXPECT_EQ(json::parse(Plan({"--gpu", "h100", "--output", "json"}).stdout_text)["gpu_measured"],
            false);
}

TEST(PlanCommand, TakesTheShapeOfAModelDirectory) {
  const ProcessResult result =
      Plan({"--model", OCTET_SOURCE_DIR "/tests/golden/models/mixtral-f32", "--gpus", "2"});
  ASSERT_EQ(result.exit_code, 0) << result.stderr_text;
  EXPECT_THAT(result.stdout_text, HasSubstr("2 layers, 4 experts, top 2"));
}

TEST(PlanCommand, RefusesWhatDoesNotFitAndSaysWhatWould) {
  const ProcessResult result = Plan({"--model", "8x22b", "--experts", "bf16", "--gpus", "2"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_EQ(result.stdout_text, "");
  EXPECT_THAT(result.stderr_text,
              AllOf(HasSubstr("lacks"), HasSubstr("--gpus 3"), HasSubstr("--experts int4g128")));
}

TEST(PlanCommand, NamesABadSetting) {
  const std::vector<std::vector<std::string>> bad = {
      {"gpu", "b200"},     {"model", "9x9b"},    {"experts", "q4_k"},  {"attention", "int3"},
      {"link", "carrier"}, {"context", "40000"}, {"gpus", "0"},        {"router-gpus", "2"},
      {"output", "xml"},   {"context", "0"},     {"replication", "2"}, {"prompt", "5000"}};
  for (const auto& setting : bad) {
    const ProcessResult result = Plan({"--" + setting[0], setting[1]});
    EXPECT_NE(result.exit_code, 0) << setting[0];
    EXPECT_EQ(result.stdout_text, "");
    EXPECT_THAT(result.stderr_text, AllOf(HasSubstr(setting[0]), HasSubstr(setting[1])));
  }
}

}  // namespace
}  // namespace octet
