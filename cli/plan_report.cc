#include "cli/plan_report.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace octet {
namespace {

using nlohmann::json;

std::string GiB(uint64_t bytes) {
  return absl::StrFormat("%.1f", static_cast<double>(bytes) / (1ull << 30));
}

std::string Bytes(double bytes) {
  if (bytes == 0) return "0";
  if (bytes >= 1e9) return absl::StrFormat("%.2f GB", bytes / 1e9);
  if (bytes >= 1e6) return absl::StrFormat("%.2f MB", bytes / 1e6);
  return absl::StrFormat("%.1f kB", bytes / 1e3);
}

std::string ExpertList(const GpuUse& gpu) {
  if (gpu.experts.empty()) return "-";
  return absl::StrJoin(gpu.experts, " ",
                       [](std::string* out, ExpertId e) { absl::StrAppend(out, e.value()); });
}

std::string Header(const PlanReport& report) {
  const PlanInput& in = report.input;
  const ModelConfig& c = in.model.config;
  return absl::StrCat(
      report.model, ": ", c.layers, " layers, ", c.experts, " experts, top ", c.top_k, "; experts ",
      in.model.expert_format, ", attention ", in.model.attention_format, "\n", in.gpus, " ",
      in.gpu.name, in.gpu.measured ? " (measured on one)" : " (scaled from one h200, not measured)",
      absl::StrFormat("; link %s: %.4g GB/s each way, %.3g us (not measured)\n", in.link.name,
                      in.link.bytes_per_s / 1e9, in.link.latency_s * 1e6),
      in.sequences, " sequences of ", in.context, " positions, prompt of ", in.prompt,
      ", replication ", in.replication, "\n");
}

std::string GpuTable(const PlanReport& report) {
  const GpuPlan& plan = report.plan;
  std::string text = absl::StrCat(
      "\nrouter: ", plan.router_alone ? "GPU 0 alone" : "GPU 0, with experts", " (", plan.why,
      ")\n\nmemory in GiB, of ", GiB(report.input.gpu.memory_bytes), "; bytes of a decode step\n");
  absl::StrAppendFormat(&text, "%-4s%-7s%9s%9s%9s%9s  %10s %10s %10s  %s\n", "gpu", "role",
                        "weights", "kv", "scratch", "total", "read", "sent", "received", "experts");
  for (size_t g = 0; g < plan.gpus.size(); ++g) {
    const GpuUse& gpu = plan.gpus[g];
    absl::StrAppendFormat(
        &text, "%-4d%-7s%9s%9s%9s%9s  %10s %10s %10s  %s\n", g, gpu.router ? "router" : "worker",
        GiB(gpu.weight_bytes), GiB(gpu.kv_bytes), GiB(gpu.scratch_bytes), GiB(gpu.memory_bytes()),
        Bytes(gpu.read_bytes), Bytes(gpu.sent_bytes), Bytes(gpu.received_bytes), ExpertList(gpu));
  }
  uint32_t idle = 0;
  for (const GpuUse& gpu : plan.gpus) idle += !gpu.router && gpu.served == 0 ? 1 : 0;
  if (idle > 0) absl::StrAppend(&text, idle, " of them compute nothing\n");
  return text;
}

std::string Estimate(const PlanReport& report) {
  const GpuPlan& plan = report.plan;
  std::string text = absl::StrFormat("\n%-20s%14s%16s\n", "estimate", "decode step", "first token");
  const auto line = [&text](absl::string_view name, double decode, double first) {
    absl::StrAppendFormat(&text, "%-20s%11.3f ms%13.2f ms\n", name, decode * 1e3, first * 1e3);
  };
  for (size_t i = 0; i < kStepPhases; ++i) {
    line(StepPhaseName(static_cast<StepPhase>(i)), plan.decode.seconds[i],
         plan.first_token.seconds[i]);
  }
  line("total", plan.decode.total(), plan.first_token.total());
  absl::StrAppendFormat(&text, "%-20s%14s%16s\n", "bound by", StepPhaseName(plan.decode.bound()),
                        StepPhaseName(plan.first_token.bound()));
  absl::StrAppendFormat(&text,
                        "\n%.0f tokens/s, %.1f a sequence; %.2f of %d experts active in a layer, "
                        "%.2f on the busiest GPU\n",
                        plan.tokens_per_s, 1 / plan.decode.total(), plan.active_experts,
                        report.input.model.config.experts, plan.busiest_experts);
  return text;
}

std::string Checks(const PlanReport& report) {
  std::string text = absl::StrCat(
      "\nthe same estimate for 8x7b int4g128 on one h200, ", kMeasuredStepContext,
      " positions, beside what was measured; in that model all rows of a step choose the same ",
      "experts\n");
  for (const PlanStepCheck& check : report.step_checks) {
    const double ratio = check.estimated_tokens_per_s / check.step.tokens_per_s;
    absl::StrAppendFormat(&text, "%3d sequences: %.0f tokens/s, measured %.0f (%+.0f %%)",
                          check.step.sequences, check.estimated_tokens_per_s,
                          check.step.tokens_per_s, 100 * (ratio - 1));
    if (check.step.sequences > 1) {
      absl::StrAppendFormat(&text, "; where each row chooses by itself %.0f (not measured)",
                            check.own_experts_tokens_per_s);
    }
    absl::StrAppend(&text, "\n");
  }
  for (const PlanPromptCheck& check : report.prompt_checks) {
    absl::StrAppendFormat(&text, "prompt of %d: %.1f ms, measured %.1f (%+.0f %%)\n",
                          check.prompt.tokens, check.estimated_seconds * 1e3,
                          check.prompt.seconds * 1e3,
                          100 * (check.estimated_seconds / check.prompt.seconds - 1));
  }
  return text;
}

// What Checks says.
json StepChecksJson(const PlanReport& report) {
  json checks = json::array();
  for (const PlanStepCheck& check : report.step_checks) {
    checks.push_back({{"sequences", check.step.sequences},
                      {"measured_tokens_per_s", check.step.tokens_per_s},
                      {"estimated_tokens_per_s", check.estimated_tokens_per_s},
                      {"own_experts_tokens_per_s", check.own_experts_tokens_per_s}});
  }
  return checks;
}

json PromptChecksJson(const PlanReport& report) {
  json checks = json::array();
  for (const PlanPromptCheck& check : report.prompt_checks) {
    checks.push_back({{"tokens", check.prompt.tokens},
                      {"measured_seconds", check.prompt.seconds},
                      {"estimated_seconds", check.estimated_seconds}});
  }
  return checks;
}

json EstimateJson(const StepEstimate& estimate) {
  json phases = json::object();
  for (size_t i = 0; i < kStepPhases; ++i) {
    phases[StepPhaseName(static_cast<StepPhase>(i))] = estimate.seconds[i];
  }
  return {{"seconds", estimate.total()},
          {"bound", StepPhaseName(estimate.bound())},
          {"phases", phases}};
}

json GpuJson(const GpuUse& gpu) {
  json experts = json::array();
  for (const ExpertId e : gpu.experts) experts.push_back(e.value());
  return {{"router", gpu.router},
          {"experts", experts},
          {"memory_bytes", gpu.memory_bytes()},
          {"weight_bytes", gpu.weight_bytes},
          {"kv_bytes", gpu.kv_bytes},
          {"scratch_bytes", gpu.scratch_bytes},
          {"read_bytes", gpu.read_bytes},
          {"sent_bytes", gpu.sent_bytes},
          {"received_bytes", gpu.received_bytes}};
}

}  // namespace

std::string PlanText(const PlanReport& report) {
  return absl::StrCat(Header(report), GpuTable(report), Estimate(report), Checks(report));
}

std::string PlanJson(const PlanReport& report) {
  const PlanInput& in = report.input;
  const GpuPlan& plan = report.plan;
  json gpus = json::array();
  for (const GpuUse& gpu : plan.gpus) gpus.push_back(GpuJson(gpu));
  const json document = {
      {"model", report.model},
      {"experts", in.model.expert_format},
      {"attention", in.model.attention_format},
      {"gpu", in.gpu.name},
      {"gpu_measured", in.gpu.measured},
      {"gpu_memory_bytes", in.gpu.memory_bytes},
      {"link", {{"bytes_per_s", in.link.bytes_per_s}, {"latency_s", in.link.latency_s}}},
      {"sequences", in.sequences},
      {"context", in.context},
      {"prompt", in.prompt},
      {"replication", in.replication},
      {"router_alone", plan.router_alone},
      {"router_why", plan.why},
      {"gpus", gpus},
      {"expert_gpus", plan.expert_gpus},
      {"active_experts", plan.active_experts},
      {"busiest_experts", plan.busiest_experts},
      {"decode", EstimateJson(plan.decode)},
      {"tokens_per_s", plan.tokens_per_s},
      {"first_token", EstimateJson(plan.first_token)},
      {"step_checks", StepChecksJson(report)},
      {"prompt_checks", PromptChecksJson(report)}};
  // A path need not be UTF-8.
  return document.dump(1, ' ', false, json::error_handler_t::replace) + "\n";
}

}  // namespace octet
