// Plans a model on several GPUs from what one GPU was measured to do: who holds what, whether it
// fits, what a step moves, how long it should take and what it waits for. Pure.
//
// One GPU is the router: attention, gate, head and the KV cache. Experts are on the others (the
// router alone) or on all (the router shared). An estimate, with these rules:
//
// Placement: PlanPlacement, within the memory that is left on each GPU. Rows of an expert go to its
//   first replica; further ones cost memory and wait for a failure.
// Memory of a GPU: kReservedBytes + weights + KV cache + scratch.
//   KV cache: sequences * ceil(context / 64) blocks * layers * bytes of a block.
//   Scratch for r = max(sequences, min(prompt, kStepTokensMax)) rows. Router, per row: three rows
//   of hidden, k replies, queries and attended values, keys and values, all fp32, and a wire row;
//   logits of min(sequences, kLogitRowsMax) rows. Worker, per row a wire row and for each of min(k,
//   experts) choices fp32 and int8 of the intermediate and one fp32 reply.
// Bytes read in a decode step: router: attention weights, head, KV cache within the window; worker:
//   its active experts (expected_experts.h).
// Bytes over links in a step, per layer: a row goes once to each other GPU that computes one of its
//   experts (sequences * RowShare * row bytes) and comes back once for each of them (sequences * k
//   * share of experts * reply bytes). Headers and row lists, under 1 %, are left out.
// Times of a step of r rows, all layers; phases follow each other, nothing overlaps:
//   product(call, bytes, r rows for each matrix): the time with few rows is call + bytes *
//     seconds_per_byte; rows_factor of a format says how many times that more rows take. Up to
//     kTileRows rows: (call + bytes * seconds_per_byte) * rows_factor(r), as starting and ending
//     take longer too. Above: bytes * full_seconds_per_byte * rows_factor(r in whole tiles), or the
//     time with few rows where that is longer.
//   attention weights: two products (queries, keys and values in one launch; outputs), r rows.
//   head: a product, one row a sequence.
//   attention: cache_reads(bytes of a layer's KV cache), or for a prompt 4 * heads * head_dim *
//     pairs of query and key / attention_ops_per_s, whichever is longer.
//   experts: a product with the format's call_seconds, ExpectedBusiest experts with r * k /
//     ExpectedActive rows each: a step waits for the GPU that has most active experts.
//   row kernels: row_kernels_seconds + (r - 1) * hidden * 4 * row_seconds_per_byte, and for each of
//     the gate's products gate_seconds + hidden * chain_seconds.
//   host: host_seconds, and the logits of every sequence over logits_bytes_per_s.
//   link: two latencies a layer, and the router's bytes, out and back, over its one link's rate.
// First token: the prompt of one sequence alone, in chunks of kStepTokensMax rows, head once.
#ifndef OCTET_COORDINATOR_GPU_PLAN_H_
#define OCTET_COORDINATOR_GPU_PLAN_H_

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/gpu_rates.h"
#include "core/ids.h"
#include "core/model_config.h"
#include "core/wire_format.h"

namespace octet {

inline constexpr uint32_t kPlanGpusMax = 64;
// Context of the driver, kernels, graphs, communicators: not counted one by one.
inline constexpr uint64_t kReservedBytes = 2ull << 30;

struct PlanModel {
  ModelConfig config;
  std::string expert_format, attention_format, head_format;  // of GpuRates::formats each
  // Packed weights.
  uint64_t attention_layer_bytes = 0;  // queries, keys, values and outputs of one layer
  uint64_t head_bytes = 0;             // read once a step
  uint64_t other_router_bytes = 0;     // embedding where it isn't the head, gates, norms
  uint64_t expert_layer_bytes = 0;     // of one expert
  uint64_t kv_block_layer_bytes = 0;   // kKvBlockPositions positions
  WireFormat wire;
};

// How GPUs reach each other: each has one such link, both directions at once.
struct PlanLink {
  std::string name;
  double bytes_per_s = 0;  // in each direction
  double latency_s = 0;    // one way, the calls at both ends included
};

enum class RouterGpu : uint8_t { kAuto, kShared, kAlone };

struct PlanInput {
  PlanModel model;
  GpuRates gpu;
  PlanLink link;
  uint32_t gpus = 1;
  uint32_t replication = 1;
  RouterGpu router = RouterGpu::kAuto;  // kAuto: the faster one of those that fit
  uint32_t sequences = 1;
  uint32_t context = 1;  // positions of each sequence
  uint32_t prompt = 1;   // tokens of the prompt whose first token is estimated
  // All rows of a step choose the same experts, any set as likely as another; else each row its
  // own.
  bool same_experts = false;
  // The same model with experts in other formats, to propose where this one does not fit.
  std::vector<PlanModel> other_formats;
};

enum class StepPhase : uint8_t {
  kAttentionWeights,
  kAttention,
  kHead,
  kRowKernels,
  kExperts,
  kHost,
  kLinkLatency,
  kLinkBytes,
};
inline constexpr size_t kStepPhases = 8;
// "attention weights", "link latency".
const char* StepPhaseName(StepPhase phase);

struct StepEstimate {
  std::array<double, kStepPhases> seconds{};  // [StepPhase]
  double of(StepPhase phase) const { return seconds[static_cast<size_t>(phase)]; }
  double total() const;
  // The longest phase; the earlier of equal ones.
  StepPhase bound() const;
};

struct GpuUse {
  bool router = false;
  std::vector<ExpertId> experts;  // replicas it holds
  uint32_t served = 0;            // of them, whose rows it gets
  uint64_t weight_bytes = 0, kv_bytes = 0, scratch_bytes = 0;
  // One decode step, expected.
  double read_bytes = 0, sent_bytes = 0, received_bytes = 0;
  uint64_t memory_bytes() const { return kReservedBytes + weight_bytes + kv_bytes + scratch_bytes; }
};

struct GpuPlan {
  bool router_alone = false;
  std::string why;                                 // of router_alone
  std::vector<GpuUse> gpus;                        // GPU 0 is the router
  std::vector<std::vector<uint32_t>> expert_gpus;  // [expert], first replica first
  double active_experts = 0, busiest_experts = 0;  // of a layer in a decode step
  StepEstimate decode, first_token;
  double tokens_per_s = 0;  // all sequences
};

// INVALID_ARGUMENT names the setting, its value and what is allowed. FAILED_PRECONDITION where it
// does not fit: by how much, on which GPU, and which single change of sequences, GPUs or format
// makes it fit.
absl::StatusOr<GpuPlan> PlanGpus(const PlanInput& input);

}  // namespace octet

#endif  // OCTET_COORDINATOR_GPU_PLAN_H_
