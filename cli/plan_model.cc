#include "cli/plan_model.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <system_error>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "core/limits.h"
#include "core/status_macros.h"
#include "kernels/kernels.h"
#include "model/model_package.h"
#include "model/source.h"

namespace octet {
namespace {

struct KnownLink {
  const char* name;
  double gigabytes_per_s;
  double latency_us;
};
// Rates of data sheets, one direction: NVLink 4 of Hopper, PCIe 5.0 x16, Ethernet. Latencies are
// assumptions: a send and a receive of NCCL, and a network's and its sockets' on top.
constexpr KnownLink kLinks[] = {{"nvlink", 450, 15},
                                {"pcie", 64, 20},
                                {"100g", 12.5, 30},
                                {"25g", 3.125, 40},
                                {"10g", 1.25, 50}};
constexpr double kLinkGigabytesMax = 1e5;

ModelConfig Mixtral(uint32_t layers, uint32_t hidden, uint32_t intermediate, uint32_t heads) {
  ModelConfig c;
  c.architecture = "mixtral";
  c.layers = layers;
  c.hidden = hidden;
  c.intermediate = intermediate;
  c.heads = heads;
  c.kv_heads = 8;
  c.head_dim = 128;
  c.vocab = 32000;
  c.context = 32768;
  c.experts = 8;
  c.top_k = 2;
  c.gate = GateKind::kLinear;
  return c;
}

ModelConfig Tiny() {
  ModelConfig c = Mixtral(8, 384, 320, 6);
  c.kv_heads = 2;
  c.head_dim = 64;
  c.vocab = 8192;
  c.context = 2048;
  c.gate = GateKind::kAttention;
  c.tied_embeddings = true;
  return c;
}

absl::StatusOr<WeightFormat> Format(const char* setting, const std::string& name,
                                    const std::vector<uint32_t>& inputs) {
  const auto format = WeightFormatFromName(name);
  if (!format.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(setting, ": ", format.status().message()));
  }
  for (const uint32_t k : inputs) {
    const absl::Status allowed = CheckInputs(*format, k);
    if (allowed.ok()) continue;
    return absl::InvalidArgumentError(absl::StrCat(setting, ": ", allowed.message()));
  }
  return format;
}

uint64_t GateBytes(const ModelConfig& c) {
  const WeightFormat f32;
  const uint64_t one = PackedBytes(f32, c.experts, c.hidden);
  switch (c.gate) {
    case GateKind::kNone:
      return 0;
    case GateKind::kLinear:
      return one;
    case GateKind::kAttention:
      return 3 * one;
  }
  return 0;
}

}  // namespace

std::optional<ModelConfig> PresetShape(absl::string_view name) {
  if (name == "8x7b") return Mixtral(32, 4096, 14336, 32);
  if (name == "tiny") return Tiny();
  if (name != "8x22b") return std::nullopt;
  ModelConfig c = Mixtral(56, 6144, 16384, 48);
  c.vocab = 32768;  // of the one that follows instructions
  c.context = 65536;
  return c;
}

absl::StatusOr<ModelConfig> ReadShape(const std::string& model) {
  if (const auto preset = PresetShape(model)) return *preset;
  std::error_code error;
  if (!std::filesystem::exists(model, error)) {
    return absl::NotFoundError(absl::StrCat(
        "model: there is no \"", model.substr(0, 200),
        "\"; allowed are 8x7b, 8x22b, tiny, a packed or Hugging Face directory, a GGUF file"));
  }
  if (std::filesystem::exists(model + "/manifest.json", error)) {
    OCTET_ASSIGN_OR_RETURN(const auto package,
                           ModelPackage::Open(model, ModelPackage::OpenOptions(),
                                              [](absl::string_view, uint64_t, uint64_t) {}));
    return package->config();
  }
  OCTET_ASSIGN_OR_RETURN(const auto source, OpenModelSource(model));
  return source->config();
}

absl::StatusOr<PlanModel> MakePlanModel(const ModelConfig& config, const PlanFormats& formats) {
  const uint32_t query = config.heads * config.head_dim, kv = config.kv_heads * config.head_dim;
  const uint32_t hidden = config.hidden, middle = config.intermediate;
  OCTET_ASSIGN_OR_RETURN(const WeightFormat experts,
                         Format("experts", formats.experts, {hidden, middle}));
  OCTET_ASSIGN_OR_RETURN(const WeightFormat attention,
                         Format("attention", formats.attention, {hidden, query}));
  OCTET_ASSIGN_OR_RETURN(const WeightFormat head, Format("attention", formats.head, {hidden}));
  PlanModel m;
  m.config = config;
  m.expert_format = formats.experts;
  m.attention_format = formats.attention;
  m.head_format = formats.head;
  m.attention_layer_bytes = PackedBytes(attention, query, hidden) +
                            2 * PackedBytes(attention, kv, hidden) +
                            PackedBytes(attention, hidden, query);
  m.head_bytes = PackedBytes(head, config.vocab, hidden);
  const uint64_t norms = uint64_t{4} * hidden * (2 * config.layers + 1);
  m.other_router_bytes =
      (config.tied_embeddings ? 0 : m.head_bytes) + config.layers * GateBytes(config) + norms;
  m.expert_layer_bytes =
      2 * PackedBytes(experts, middle, hidden) + PackedBytes(experts, hidden, middle);
  m.kv_block_layer_bytes = KvBlockLayerBytes(formats.kv, config.kv_heads, config.head_dim);
  m.wire.hidden = hidden;
  m.wire.activation_group = static_cast<uint32_t>(ActivationGroup(experts, hidden));
  m.wire.reply = formats.reply;
  return m;
}

absl::StatusOr<PlanLink> LinkFromName(const std::string& name, double latency_us) {
  for (const KnownLink& link : kLinks) {
    if (name != link.name) continue;
    return PlanLink{name, link.gigabytes_per_s * 1e9,
                    (latency_us < 0 ? link.latency_us : latency_us) * 1e-6};
  }
  double gigabytes_per_s = 0;
  if (!absl::SimpleAtod(name, &gigabytes_per_s) || !std::isfinite(gigabytes_per_s) ||
      gigabytes_per_s <= 0 || gigabytes_per_s > kLinkGigabytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("link: \"", name.substr(0, 80), "\" is not allowed; allowed are nvlink, ",
                     "pcie, 100g, 25g, 10g, or GB/s above 0 and up to ", kLinkGigabytesMax));
  }
  if (latency_us < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("latency-us: is not set; --link ", name, " needs one of at least 0"));
  }
  return PlanLink{absl::StrCat(gigabytes_per_s, " GB/s"), gigabytes_per_s * 1e9, latency_us * 1e-6};
}

absl::StatusOr<GpuPlan> PlanMeasured(uint32_t sequences, uint32_t prompt, bool same_experts) {
  PlanFormats formats;
  formats.experts = "int4g128";
  formats.attention = "int4g128";
  formats.head = "int8g128";
  PlanInput input;
  OCTET_ASSIGN_OR_RETURN(input.model, MakePlanModel(*PresetShape("8x7b"), formats));
  OCTET_ASSIGN_OR_RETURN(input.gpu, GpuRatesFromName("h200"));
  OCTET_ASSIGN_OR_RETURN(input.link, LinkFromName("nvlink", -1));
  input.sequences = sequences;
  input.context = std::max(prompt, kMeasuredStepContext);
  input.prompt = prompt;
  input.same_experts = same_experts;
  return PlanGpus(input);
}

}  // namespace octet
