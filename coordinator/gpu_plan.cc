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
  double kv_bytes = 0;       // read by attention, all layers
  double attention_ops = 0;  // all layers
};

double ProductSeconds(const FormatRates& rates, double bytes, double matrices, double rows,
                      double ops_per_row) {
  const double stream = bytes * rates.seconds_per_byte;
  if (rows <= kTileRows) {
    return stream +
           matrices * std::max(0.0, rows - kFreeRows) * ops_per_row / rates.few_rows_ops_per_s;
  }
  const double whole_tiles = std::ceil(rows / kTileRows) * kTileRows;
  return std::max(stream, matrices * whole_tiles * ops_per_row / rates.many_rows_ops_per_s);
}

class Estimator {
 public:
  Estimator(const PlanInput& input, const FormatRates& experts, const FormatRates& attention,
            GpuPlan* plan)
      : input_(input),
        model_(input.model),
        config_(input.model.config),
        experts_(experts),
        attention_(attention),
        plan_(plan) {
    for (const GpuUse& gpu : plan->gpus) served_.push_back(gpu.served);
  }

  void Run() {
    const double sequences = input_.sequences;
    plan_->active_experts = ExpectedActive(config_.experts, config_.top_k, input_.sequences);
    plan_->busiest_experts = ExpectedBusiest(served_, config_.top_k, input_.sequences);
    const double kv_bytes = DecodeKvBytes();
    CountBytes(kv_bytes);
    const StepRows step{sequences, sequences, kv_bytes, 0};
    plan_->decode = Step(step);
    plan_->tokens_per_s = sequences / plan_->decode.total();
    EstimateFirstToken();
  }

 private:
  double DecodeKvBytes() const {
    uint32_t positions = input_.context;
    if (config_.sliding_window > 0) positions = std::min(positions, config_.sliding_window);
    const double blocks = (positions + kKvBlockPositions - 1) / kKvBlockPositions;
    return blocks * input_.sequences * config_.layers * model_.kv_block_layer_bytes;
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

  double AttentionOpsPerRow() const {
    return 4.0 * config_.hidden * config_.head_dim * (config_.heads + config_.kv_heads);
  }

  double ExpertSeconds(double rows) const {
    const auto whole_rows = static_cast<uint32_t>(rows);
    const double active = ExpectedActive(config_.experts, config_.top_k, whole_rows);
    const double busiest = ExpectedBusiest(served_, config_.top_k, whole_rows);
    const double ops = 6.0 * config_.hidden * config_.intermediate;
    return input_.gpu.expert_call_seconds +
           ProductSeconds(experts_, busiest * static_cast<double>(model_.expert_layer_bytes),
                          busiest, rows * config_.top_k / active, ops);
  }

  StepEstimate Step(const StepRows& step) const {
    const GpuRates& gpu = input_.gpu;
    const double layers = config_.layers;
    StepEstimate out;
    const auto set = [&out](StepPhase phase, double seconds) {
      out.seconds[static_cast<size_t>(phase)] = seconds;
    };
    set(StepPhase::kAttentionWeights,
        layers * ProductSeconds(attention_, static_cast<double>(model_.attention_layer_bytes), 1,
                                step.rows, AttentionOpsPerRow()));
    set(StepPhase::kAttention, std::max(step.kv_bytes / gpu.cache_read_bytes_per_s,
                                        step.attention_ops / gpu.attention_ops_per_s));
    if (step.logit_rows > 0) {
      set(StepPhase::kHead, ProductSeconds(attention_, static_cast<double>(model_.head_bytes), 1,
                                           step.logit_rows, 2.0 * config_.vocab * config_.hidden));
    }
    const double pass = step.rows * config_.hidden * 4 / gpu.copy_bytes_per_s;
    const double gate = config_.gate == GateKind::kNone ? 0 : config_.hidden * gpu.chain_seconds;
    set(StepPhase::kRowKernels,
        layers * (gpu.launches_per_layer * (gpu.launch_seconds + 2 * pass) + gate));
    set(StepPhase::kExperts, layers * ExpertSeconds(step.rows));
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
        static_cast<double>(model_.kv_block_layer_bytes) * config_.layers / kKvBlockPositions;
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
                          4.0 * config_.layers * config_.heads * config_.head_dim * pairs};
      const StepEstimate chunk = Step(step);
      for (size_t i = 0; i < kStepPhases; ++i) plan_->first_token.seconds[i] += chunk.seconds[i];
    }
  }

  const PlanInput& input_;
  const PlanModel& model_;
  const ModelConfig& config_;
  const FormatRates& experts_;
  const FormatRates& attention_;
  GpuPlan* const plan_;
  std::vector<uint32_t> served_;  // by GPU
};

// The two kinds of router, as far as they are allowed.
struct Candidates {
  std::vector<GpuPlan> fit;
  std::optional<GpuLayout> nearest;  // to fitting, of those that do not
  bool full = false;                 // what fits leaves no room for an expert beside the router
};

absl::StatusOr<Candidates> Consider(const PlanInput& input, const FormatRates& experts,
                                    const FormatRates& attention) {
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
    Estimator(input, experts, attention, &plan).Run();
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
  OCTET_ASSIGN_OR_RETURN(const FormatRates experts,
                         input.gpu.Format("experts", input.model.expert_format));
  OCTET_ASSIGN_OR_RETURN(const FormatRates attention,
                         input.gpu.Format("attention", input.model.attention_format));
  OCTET_ASSIGN_OR_RETURN(Candidates candidates, Consider(input, experts, attention));
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
