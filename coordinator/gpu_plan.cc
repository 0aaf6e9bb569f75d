#include "coordinator/gpu_plan.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "coordinator/expected_experts.h"
#include "coordinator/gpu_memory.h"
#include "core/limits.h"
#include "core/status_macros.h"

namespace octet {
namespace {

absl::Status CheckRange(absl::string_view setting, uint32_t value, uint32_t max) {
  if (value >= 1 && value <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(setting, ": ", value, " is not allowed; allowed are 1 to ", max));
}

absl::Status CheckInput(const PlanInput& input) {
  OCTET_RETURN_IF_ERROR(CheckRange("gpus", input.gpus, kPlanGpusMax));
  OCTET_RETURN_IF_ERROR(CheckRange("sequences", input.sequences, kRunningRequestsMax));
  OCTET_RETURN_IF_ERROR(CheckRange("context", input.context, input.model.config.context));
  OCTET_RETURN_IF_ERROR(CheckRange("prompt", input.prompt, input.context));
  const bool alone = input.router == RouterGpu::kAlone;
  if (alone && input.gpus == 1) {
    return absl::InvalidArgumentError(
        "router-gpus: 1 leaves no GPU for experts; allowed with --gpus 1 are auto and 0");
  }
  OCTET_RETURN_IF_ERROR(CheckRange("replication", input.replication, ExpertGpus(input, alone)));
  if (input.link.bytes_per_s > 0 && input.link.latency_s >= 0) return absl::OkStatus();
  return absl::InvalidArgumentError("link: a rate above 0 and a latency of at least 0 are needed");
}

// Rows that pass through a model together.
struct StepRows {
  double rows = 0;
  double logit_rows = 0;
  double kv_layer_bytes = 0;       // read by attention
  double attention_layer_ops = 0;  // for a prompt
};

double ProductSeconds(const FormatRates& rates, double call_seconds, double bytes, double rows) {
  const double few = call_seconds + bytes * rates.seconds_per_byte;
  if (rows <= kTileRows) return few * ValueAt(rates.rows_factor, rows);
  const double whole_tiles = std::ceil(rows / kTileRows) * kTileRows;
  return std::max(few,
                  bytes * rates.full_seconds_per_byte * ValueAt(rates.rows_factor, whole_tiles));
}

double Gates(GateKind kind) {
  switch (kind) {
    case GateKind::kNone:
      return 0;
    case GateKind::kLinear:
      return 1;
    case GateKind::kAttention:
      return 3;
  }
  return 0;
}

struct PlanRates {
  FormatRates experts, attention, head;
};

absl::StatusOr<PlanRates> RatesFor(const PlanInput& input) {
  const PlanModel& model = input.model;
  PlanRates rates;
  OCTET_ASSIGN_OR_RETURN(rates.experts, input.gpu.Format("experts", model.expert_format));
  OCTET_ASSIGN_OR_RETURN(rates.attention, input.gpu.Format("attention", model.attention_format));
  OCTET_ASSIGN_OR_RETURN(rates.head, input.gpu.Format("attention", model.head_format));
  return rates;
}

class Estimator {
 public:
  Estimator(const PlanInput& input, const PlanRates& rates, GpuPlan* plan)
      : input_(input),
        model_(input.model),
        config_(input.model.config),
        rates_(rates),
        plan_(plan) {
    for (const GpuUse& gpu : plan->gpus) served_.push_back(gpu.served);
  }

  void Run() {
    const double sequences = input_.sequences;
    const uint32_t choices = Choices(input_.sequences);
    plan_->active_experts = ExpectedActive(config_.experts, config_.top_k, choices);
    plan_->busiest_experts = ExpectedBusiest(served_, config_.top_k, choices);
    const double kv_layer_bytes = DecodeKvLayerBytes();
    CountBytes(kv_layer_bytes * config_.layers);
    plan_->decode = Step({sequences, sequences, kv_layer_bytes, 0});
    plan_->tokens_per_s = sequences / plan_->decode.total();
    EstimateFirstToken();
  }

 private:
  // Rows that choose experts by themselves.
  uint32_t Choices(uint32_t rows) const { return input_.same_experts ? 1 : rows; }

  double DecodeKvLayerBytes() const {
    uint32_t positions = input_.context;
    if (config_.sliding_window > 0) positions = std::min(positions, config_.sliding_window);
    const double blocks = (positions + kKvBlockPositions - 1) / kKvBlockPositions;
    return blocks * input_.sequences * static_cast<double>(model_.kv_block_layer_bytes);
  }

  // Bytes that the router sends to and gets from this GPU in all layers.
  double SentTo(const GpuUse& gpu, double rows) const {
    return config_.layers * rows * RowShare(config_.experts, config_.top_k, gpu.served) *
           static_cast<double>(model_.wire.RowBytes());
  }
  double ReceivedFrom(const GpuUse& gpu, double rows) const {
    return config_.layers * rows * config_.top_k * gpu.served / config_.experts *
           static_cast<double>(model_.wire.ReplyRowBytes());
  }

  void CountBytes(double kv_bytes) {
    for (GpuUse& gpu : plan_->gpus) {
      gpu.read_bytes = plan_->active_experts * gpu.served / config_.experts * config_.layers *
                       static_cast<double>(model_.expert_layer_bytes);
      if (gpu.router) {
        gpu.read_bytes += kv_bytes + static_cast<double>(model_.head_bytes) +
                          static_cast<double>(config_.layers * model_.attention_layer_bytes);
        continue;
      }
      gpu.received_bytes = SentTo(gpu, input_.sequences);
      gpu.sent_bytes = ReceivedFrom(gpu, input_.sequences);
      plan_->gpus[0].sent_bytes += gpu.received_bytes;
      plan_->gpus[0].received_bytes += gpu.sent_bytes;
    }
  }

  double ExpertSeconds(double rows) const {
    const uint32_t choices = Choices(static_cast<uint32_t>(rows));
    const double active = ExpectedActive(config_.experts, config_.top_k, choices);
    const double busiest = ExpectedBusiest(served_, config_.top_k, choices);
    return ProductSeconds(rates_.experts, rates_.experts.call_seconds,
                          busiest * static_cast<double>(model_.expert_layer_bytes),
                          rows * config_.top_k / active);
  }

  double AttentionWeightSeconds(double rows) const {
    // The two parts differ in bytes only, and time is linear in those and in calls.
    return ProductSeconds(rates_.attention, 2 * input_.gpu.product_call_seconds,
                          static_cast<double>(model_.attention_layer_bytes), rows);
  }

  double RowKernelSeconds(double rows) const {
    const GpuRates& gpu = input_.gpu;
    return gpu.row_kernels_seconds + (rows - 1) * config_.hidden * 4 * gpu.row_seconds_per_byte +
           Gates(config_.gate) * (gpu.gate_seconds + config_.hidden * gpu.chain_seconds);
  }

  StepEstimate Step(const StepRows& step) const {
    const GpuRates& gpu = input_.gpu;
    const double layers = config_.layers;
    StepEstimate out;
    const auto set = [&out](StepPhase phase, double seconds) {
      out.seconds[static_cast<size_t>(phase)] = seconds;
    };
    set(StepPhase::kAttentionWeights, layers * AttentionWeightSeconds(step.rows));
    set(StepPhase::kAttention,
        layers * std::max(ValueAt(gpu.cache_reads, step.kv_layer_bytes),
                          step.attention_layer_ops / gpu.attention_ops_per_s));
    if (step.logit_rows > 0) {
      set(StepPhase::kHead,
          ProductSeconds(rates_.head, gpu.product_call_seconds,
                         static_cast<double>(model_.head_bytes), step.logit_rows));
    }
    set(StepPhase::kRowKernels, layers * RowKernelSeconds(step.rows));
    set(StepPhase::kExperts, layers * ExpertSeconds(step.rows));
    set(StepPhase::kHost,
        gpu.host_seconds + step.logit_rows * config_.vocab * 4 / gpu.logits_bytes_per_s);
    double link_bytes = 0;
    bool remote = false;
    for (const GpuUse& other : plan_->gpus) {
      if (other.router || other.served == 0) continue;
      remote = true;
      link_bytes += SentTo(other, step.rows) + ReceivedFrom(other, step.rows);
    }
    set(StepPhase::kLinkLatency, remote ? layers * 2 * input_.link.latency_s : 0);
    set(StepPhase::kLinkBytes, link_bytes / input_.link.bytes_per_s);
    return out;
  }

  void EstimateFirstToken() {
    const double bytes_per_position =
        static_cast<double>(model_.kv_block_layer_bytes) / kKvBlockPositions;
    for (uint32_t begin = 0; begin < input_.prompt; begin += kStepTokensMax) {
      const uint32_t rows = std::min(input_.prompt - begin, kStepTokensMax);
      double pairs = 0;
      for (uint32_t p = begin; p < begin + rows; ++p) {
        const uint32_t seen = p + 1;
        pairs += config_.sliding_window > 0 ? std::min(seen, config_.sliding_window) : seen;
      }
      const bool last = begin + rows == input_.prompt;
      const StepRows step{static_cast<double>(rows), last ? 1.0 : 0.0,
                          bytes_per_position * (begin + rows),
                          4.0 * config_.heads * config_.head_dim * pairs};
      const StepEstimate chunk = Step(step);
      for (size_t i = 0; i < kStepPhases; ++i) plan_->first_token.seconds[i] += chunk.seconds[i];
    }
  }

  const PlanInput& input_;
  const PlanModel& model_;
  const ModelConfig& config_;
  const PlanRates& rates_;
  GpuPlan* const plan_;
  std::vector<uint32_t> served_;  // by GPU
};

// The two kinds of router, as far as they are allowed.
struct Candidates {
  std::vector<GpuPlan> fit;
  std::optional<GpuLayout> nearest;  // to fitting, of those that do not
  bool full = false;                 // what fits leaves no room for an expert beside the router
};

absl::StatusOr<Candidates> Consider(const PlanInput& input, const PlanRates& rates) {
  Candidates candidates;
  for (const bool alone : {false, true}) {
    if (input.router == (alone ? RouterGpu::kShared : RouterGpu::kAlone)) continue;
    if (ExpertGpus(input, alone) < input.replication) continue;
    OCTET_ASSIGN_OR_RETURN(GpuLayout layout, LayOut(input, alone));
    if (layout.missing_bytes > 0) {
      if (!candidates.nearest.has_value() ||
          layout.missing_bytes < candidates.nearest->missing_bytes) {
        candidates.nearest = std::move(layout);
      }
      continue;
    }
    // Memory made the router alone; the other candidate says so.
    if (input.router == RouterGpu::kAuto && layout.gpus[0].experts.empty() && !alone &&
        ExpertGpus(input, true) >= input.replication) {
      candidates.full = true;
      continue;
    }
    GpuPlan plan;
    plan.router_alone = alone;
    plan.gpus = std::move(layout.gpus);
    plan.expert_gpus = std::move(layout.expert_gpus);
    Estimator(input, rates, &plan).Run();
    candidates.fit.push_back(std::move(plan));
  }
  return candidates;
}

std::string Why(const PlanInput& input, const Candidates& candidates, const GpuPlan& chosen) {
  if (input.router != RouterGpu::kAuto) return "as asked";
  if (input.gpus == 1) return "there is one GPU";
  const char* other = chosen.router_alone ? "sharing it" : "a router alone";
  if (candidates.nearest.has_value() || candidates.full) {
    return absl::StrCat(other, " does not fit");
  }
  if (candidates.fit.size() == 1) {
    return absl::StrCat(other, " leaves too few GPUs for --replication ", input.replication);
  }
  const GpuPlan& slower = candidates.fit[&chosen == &candidates.fit[0] ? 1 : 0];
  return absl::StrFormat("%s would take %.2f ms a step instead of %.2f", other,
                         slower.decode.total() * 1e3, chosen.decode.total() * 1e3);
}

}  // namespace

const char* StepPhaseName(StepPhase phase) {
  switch (phase) {
    case StepPhase::kAttentionWeights:
      return "attention weights";
    case StepPhase::kAttention:
      return "attention";
    case StepPhase::kHead:
      return "head";
    case StepPhase::kRowKernels:
      return "row kernels";
    case StepPhase::kExperts:
      return "experts";
    case StepPhase::kHost:
      return "host";
    case StepPhase::kLinkLatency:
      return "link latency";
    case StepPhase::kLinkBytes:
      return "link bytes";
  }
  return "";
}

double StepEstimate::total() const { return std::accumulate(seconds.begin(), seconds.end(), 0.0); }

StepPhase StepEstimate::bound() const {
  return static_cast<StepPhase>(std::max_element(seconds.begin(), seconds.end()) - seconds.begin());
}

absl::StatusOr<GpuPlan> PlanGpus(const PlanInput& input) {
  OCTET_RETURN_IF_ERROR(CheckInput(input));
  OCTET_ASSIGN_OR_RETURN(const PlanRates rates, RatesFor(input));
  OCTET_ASSIGN_OR_RETURN(Candidates candidates, Consider(input, rates));
  if (candidates.fit.empty()) return DoesNotFit(input, *candidates.nearest);
  // The shared router comes first and stays where the other is no faster.
  GpuPlan* best = &candidates.fit[0];
  for (GpuPlan& plan : candidates.fit) {
    if (plan.decode.total() < best->decode.total()) best = &plan;
  }
  best->why = Why(input, candidates, *best);
  return std::move(*best);
}

}  // namespace octet
