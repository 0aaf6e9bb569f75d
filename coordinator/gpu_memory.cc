#include "coordinator/gpu_memory.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "coordinator/placement_planner.h"
#include "core/limits.h"
#include "core/status_macros.h"

namespace octet {
namespace {

uint64_t RowsMax(const PlanInput& input) {
  return std::max(input.sequences, std::min(input.prompt, kStepTokensMax));
}

uint64_t KvBytes(const PlanInput& input) {
  const uint64_t blocks = (input.context + kKvBlockPositions - 1) / kKvBlockPositions;
  return input.sequences * blocks * input.model.config.layers * input.model.kv_block_layer_bytes;
}

uint64_t RouterScratch(const PlanInput& input) {
  const ModelConfig& c = input.model.config;
  const uint64_t floats =
      uint64_t{3 + c.top_k} * c.hidden + uint64_t{2} * (c.heads + c.kv_heads) * c.head_dim;
  return RowsMax(input) * (floats * 4 + input.model.wire.RowBytes()) +
         uint64_t{4} * c.vocab * std::min(input.sequences, kLogitRowsMax);
}

uint64_t WorkerScratch(const PlanInput& input) {
  const ModelConfig& c = input.model.config;
  const uint64_t entry = uint64_t{c.intermediate} * 5 + uint64_t{c.hidden} * 4;
  return RowsMax(input) * (input.model.wire.RowBytes() + c.top_k * entry);
}

std::vector<GpuUse> WithoutExperts(const PlanInput& input, bool router_alone) {
  std::vector<GpuUse> gpus(input.gpus);
  const PlanModel& m = input.model;
  gpus[0].router = true;
  gpus[0].weight_bytes =
      m.config.layers * m.attention_layer_bytes + m.head_bytes + m.other_router_bytes;
  gpus[0].kv_bytes = KvBytes(input);
  gpus[0].scratch_bytes = RouterScratch(input);
  for (uint32_t g = router_alone ? 1 : 0; g < input.gpus; ++g) {
    gpus[g].scratch_bytes += WorkerScratch(input);
  }
  return gpus;
}

// Worker ids are numbers of GPUs.
absl::StatusOr<PlacementPlan> Place(const PlanInput& input, bool router_alone,
                                    const std::vector<GpuUse>& gpus, bool within_memory) {
  PlannerInput planner;
  for (uint32_t g = router_alone ? 1 : 0; g < input.gpus; ++g) {
    PlannerWorker worker;
    worker.id = WorkerId(g);
    const uint64_t used = gpus[g].memory_bytes();
    if (within_memory) {
      // 0 would mean that there is no bound.
      worker.memory_bytes =
          used < input.gpu.memory_bytes ? input.gpu.memory_bytes - used : uint64_t{1};
    }
    planner.workers.push_back(worker);
  }
  planner.experts = input.model.config.experts;
  planner.expert_bytes = input.model.config.layers * input.model.expert_layer_bytes;
  planner.replication = input.replication;
  return PlanPlacement(planner);
}

GpuLayout Fill(const PlanInput& input, std::vector<GpuUse> gpus, const PlacementPlan& plan) {
  GpuLayout layout;
  layout.gpus = std::move(gpus);
  layout.expert_gpus.resize(plan.expert_replicas.size());
  for (uint32_t e = 0; e < plan.expert_replicas.size(); ++e) {
    for (const WorkerId id : plan.expert_replicas[e]) {
      GpuUse& gpu = layout.gpus[id.value()];
      gpu.served += layout.expert_gpus[e].empty() ? 1 : 0;
      gpu.experts.push_back(ExpertId(e));
      gpu.weight_bytes += input.model.config.layers * input.model.expert_layer_bytes;
      layout.expert_gpus[e].push_back(static_cast<uint32_t>(id.value()));
    }
  }
  for (uint32_t g = 0; g < layout.gpus.size(); ++g) {
    const uint64_t needed = layout.gpus[g].memory_bytes();
    if (needed <= input.gpu.memory_bytes + layout.missing_bytes) continue;
    layout.missing_bytes = needed - input.gpu.memory_bytes;
    layout.fullest = g;
  }
  return layout;
}

std::string GiB(uint64_t bytes) {
  return absl::StrFormat("%.1f GiB", static_cast<double>(bytes) / (1ull << 30));
}

// The most sequences that fit, 0 for none.
uint32_t SequencesThatFit(PlanInput input) {
  uint32_t fit = 0, too_many = input.sequences;
  while (too_many - fit > 1) {
    input.sequences = fit + (too_many - fit) / 2;
    (Fits(input) ? fit : too_many) = input.sequences;
  }
  return fit;
}

std::vector<std::string> ChangesThatFit(const PlanInput& input) {
  std::vector<std::string> changes;
  const uint32_t sequences = SequencesThatFit(input);
  if (sequences > 0) changes.push_back(absl::StrCat("--sequences ", sequences));
  PlanInput other = input;
  while (++other.gpus <= kPlanGpusMax) {
    if (!Fits(other)) continue;
    changes.push_back(absl::StrCat("--gpus ", other.gpus));
    break;
  }
  other.gpus = input.gpus;
  for (const PlanModel& model : input.other_formats) {
    other.model = model;
    if (Fits(other)) changes.push_back(absl::StrCat("--experts ", model.expert_format));
  }
  return changes;
}

}  // namespace

uint32_t ExpertGpus(const PlanInput& input, bool router_alone) {
  return router_alone ? input.gpus - 1 : input.gpus;
}

absl::StatusOr<GpuLayout> LayOut(const PlanInput& input, bool router_alone) {
  if (ExpertGpus(input, router_alone) < input.replication) {
    return absl::FailedPreconditionError(absl::StrCat("replication: ", input.replication,
                                                      " needs as many GPUs with experts, there ",
                                                      "are ", ExpertGpus(input, router_alone)));
  }
  const std::vector<GpuUse> gpus = WithoutExperts(input, router_alone);
  OCTET_ASSIGN_OR_RETURN(PlacementPlan plan, Place(input, router_alone, gpus, true));
  if (!plan.unplaced.empty() || !plan.under_replicated.empty()) {
    // Spread evenly, to say how far it is from fitting.
    OCTET_ASSIGN_OR_RETURN(plan, Place(input, router_alone, gpus, false));
  }
  return Fill(input, gpus, plan);
}

bool Fits(const PlanInput& input) {
  for (const bool alone : {false, true}) {
    if (input.router == (alone ? RouterGpu::kShared : RouterGpu::kAlone)) continue;
    const auto layout = LayOut(input, alone);
    if (layout.ok() && layout->missing_bytes == 0) return true;
  }
  return false;
}

absl::Status DoesNotFit(const PlanInput& input, const GpuLayout& layout) {
  const GpuUse& gpu = layout.gpus[layout.fullest];
  std::vector<std::string> holds;
  if (gpu.router) holds.push_back("router");
  if (!gpu.experts.empty()) holds.push_back(absl::StrCat(gpu.experts.size(), " experts"));
  const std::vector<std::string> changes = ChangesThatFit(input);
  return absl::FailedPreconditionError(absl::StrCat(
      "memory: GPU ", layout.fullest, " (", absl::StrJoin(holds, ", "), ") lacks ",
      GiB(layout.missing_bytes), " of ", GiB(gpu.memory_bytes()), ": weights ",
      GiB(gpu.weight_bytes), ", KV cache ", GiB(gpu.kv_bytes), ", scratch ", GiB(gpu.scratch_bytes),
      ", reserved ", GiB(kReservedBytes), "; an ", input.gpu.name, " has ",
      GiB(input.gpu.memory_bytes), "; ",
      changes.empty() ? "no change of sequences, GPUs or expert format alone makes it fit"
                      : absl::StrCat("would fit: ", absl::StrJoin(changes, " or "))));
}

}  // namespace octet
