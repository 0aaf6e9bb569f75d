// octet plan: what a deployment on several GPUs would hold, move and take. Needs none of them.
#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cli/command.h"
#include "cli/plan_model.h"
#include "cli/plan_report.h"
#include "cli/setting_table.h"
#include "cli/terminal.h"
#include "core/limits.h"
#include "core/status_macros.h"

namespace octet {
namespace {

constexpr uint32_t kContextUnlessSet = 4096;

RouterGpu RouterGpuFrom(const std::string& name) {
  if (name == "0") return RouterGpu::kShared;
  return name == "1" ? RouterGpu::kAlone : RouterGpu::kAuto;
}

absl::StatusOr<PlanInput> InputFrom(const Settings& settings) {
  PlanInput input;
  OCTET_ASSIGN_OR_RETURN(const ModelConfig shape, ReadShape(settings.String("model")));
  OCTET_ASSIGN_OR_RETURN(input.gpu, GpuRatesFromName(settings.String("gpu")));
  PlanFormats formats;
  formats.experts = settings.String("experts");
  formats.attention = settings.String("attention");
  formats.head = formats.attention;
  formats.kv = settings.String("kv-dtype") == "f32" ? DType::kF32 : DType::kF16;
  formats.reply = settings.String("reply") == "bf16" ? ReplyDType::kBF16 : ReplyDType::kF32;
  OCTET_ASSIGN_OR_RETURN(input.model, MakePlanModel(shape, formats));
  for (const FormatRates& other : input.gpu.formats) {
    if (other.name == settings.String("experts")) continue;
    formats.experts = other.name;
    auto model = MakePlanModel(shape, formats);
    if (model.ok()) input.other_formats.push_back(*std::move(model));  // else none to propose
  }
  const double latency_us = settings.IsSet("latency-us") ? settings.Float("latency-us") : -1;
  OCTET_ASSIGN_OR_RETURN(input.link, LinkFromName(settings.String("link"), latency_us));
  input.gpus = static_cast<uint32_t>(settings.Int("gpus"));
  input.replication = static_cast<uint32_t>(settings.Int("replication"));
  input.router = RouterGpuFrom(settings.String("router-gpus"));
  input.sequences = static_cast<uint32_t>(settings.Int("sequences"));
  input.context = settings.IsSet("context") ? static_cast<uint32_t>(settings.Int("context"))
                                            : std::min(kContextUnlessSet, shape.context);
  input.prompt =
      settings.IsSet("prompt") ? static_cast<uint32_t>(settings.Int("prompt")) : input.context;
  return input;
}

// The estimate for what was measured as a whole.
absl::Status Check(PlanReport* report) {
  for (const MeasuredStep& step : MeasuredSteps()) {
    OCTET_ASSIGN_OR_RETURN(const GpuPlan same, PlanMeasured(step.sequences, 1, true));
    OCTET_ASSIGN_OR_RETURN(const GpuPlan own, PlanMeasured(step.sequences, 1, false));
    report->step_checks.push_back({step, same.tokens_per_s, own.tokens_per_s});
  }
  for (const MeasuredPrompt& prompt : MeasuredPrompts()) {
    OCTET_ASSIGN_OR_RETURN(const GpuPlan plan, PlanMeasured(1, prompt.tokens, true));
    report->prompt_checks.push_back({prompt, plan.first_token.total()});
  }
  return absl::OkStatus();
}

absl::Status Run(const Settings& settings) {
  PlanReport report;
  report.model = settings.String("model");
  OCTET_ASSIGN_OR_RETURN(report.input, InputFrom(settings));
  OCTET_ASSIGN_OR_RETURN(report.plan, PlanGpus(report.input));
  OCTET_RETURN_IF_ERROR(Check(&report));
  PrintOut(settings.String("output") == "json" ? PlanJson(report) : PlanText(report));
  return absl::OkStatus();
}

std::vector<SettingSpec> PlanSettings() {
  constexpr char kWhat[] = "Model";
  constexpr char kWhere[] = "GPUs";
  constexpr char kLoad[] = "Load";
  return {
      StringSetting(
          "model", "8x7b",
          "8x7b, 8x22b, tiny, or a packed directory, Hugging Face directory or GGUF file, "
          "whose shape is taken",
          kWhat),
      StringSetting("experts", "int4g128", "Format of experts: int4g128, int8g128, w4xg128, bf16",
                    kWhat),
      StringSetting("attention", "int8g128", "Format of attention, embedding, head: as --experts",
                    kWhat),
      ChoiceSetting("reply", "f32", "f32|bf16", "Type of expert results on the wire", kWhat),
      ChoiceSetting("kv-dtype", "f16", "f16|f32", "Type of keys and values", kWhat),
      IntSetting("gpus", "1", 1, kPlanGpusMax, "How many", kWhere),
      StringSetting("gpu", "h200", "Which: h200, or h100 (scaled, not measured)", kWhere),
      StringSetting("link", "nvlink",
                    "Between GPUs: nvlink, pcie, 100g, 25g, 10g, or GB/s in one direction", kWhere),
      FloatSetting("latency-us", "", 0, 1e6, "Of a message on the link; default: the link's",
                   kWhere),
      ChoiceSetting("router-gpus", "auto", "auto|0|1",
                    "1: the router has a GPU for itself; 0: it shares one with experts; auto: what "
                    "is faster of what fits",
                    kWhere),
      IntSetting("replication", "1", 1, kPlanGpusMax, "GPUs that hold each expert", kWhere),
      IntSetting("sequences", "16", 1, kRunningRequestsMax, "Decoded together", kLoad),
      IntSetting("context", "", 1, kContextMax,
                 "Positions of each; default: 4096, or the model's where that is less", kLoad),
      IntSetting("prompt", "", 1, kContextMax,
                 "Tokens before the first one that is generated; default: all of --context", kLoad),
      ChoiceSetting("output", "text", "text|json", "How to print it", "Output")};
}

}  // namespace

Command PlanCommand() {
  Command command;
  command.name = "plan";
  command.group = "Examine a model";
  command.summary = "Plan a model on several GPUs: placement, memory, bytes, times, what bounds it";
  command.settings = Join({PlanSettings(), GeneralSettings()});
  command.run = Run;
  return command;
}

}  // namespace octet
