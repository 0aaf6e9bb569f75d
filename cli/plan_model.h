// Shapes and links that `octet plan` knows by name, and the bytes of a model in given formats.
#ifndef OCTET_CLI_PLAN_MODEL_H_
#define OCTET_CLI_PLAN_MODEL_H_

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "coordinator/gpu_plan.h"
#include "core/model_config.h"
#include "core/tensor_view.h"
#include "core/wire_format.h"

namespace octet {

// "8x7b" and "8x22b" (Mixtral's), "tiny" (models/tiny's); nothing for another name.
std::optional<ModelConfig> PresetShape(absl::string_view name);
// A preset, or the shape of a packed directory, a Hugging Face directory or a GGUF file, of which
// only the description is read. NOT_FOUND lists the presets.
absl::StatusOr<ModelConfig> ReadShape(const std::string& model);

struct PlanFormats {
  std::string experts, attention, head;  // as in core/weight_format.h
  DType kv = DType::kF16;
  ReplyDType reply = ReplyDType::kF32;
};
// Byte counts as PackedBytes and KvBlockLayerBytes have them. INVALID_ARGUMENT names the setting
// with the unknown format, or a format that the shape does not allow.
absl::StatusOr<PlanModel> MakePlanModel(const ModelConfig& config, const PlanFormats& formats);

// "nvlink", "pcie", "100g", "25g", "10g", or a number in GB/s, which needs a latency.
// latency_us < 0: the name's. INVALID_ARGUMENT names the setting and what is allowed.
absl::StatusOr<PlanLink> LinkFromName(const std::string& name, double latency_us);

// What the estimate says about the model of MeasuredSteps() on one GPU: its decode step, and the
// first token of a prompt of `prompt`. `same_experts`: as measured, else with rows that choose by
// themselves.
absl::StatusOr<GpuPlan> PlanMeasured(uint32_t sequences, uint32_t prompt, bool same_experts);

}  // namespace octet

#endif  // OCTET_CLI_PLAN_MODEL_H_
