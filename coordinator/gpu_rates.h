// What GPUs were measured to do, for plans of clusters that are not at hand (gpu_plan.h). Every
// measured figure of the estimate stands in gpu_rates.cc and nowhere else; docs/gpu.md has the
// measurements themselves and how to repeat them.
#ifndef OCTET_COORDINATOR_GPU_RATES_H_
#define OCTET_COORDINATOR_GPU_RATES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace octet {

// y was measured at x.
struct RatePoint {
  double x = 0, y = 0;
};
// Linear between points (x ascending, the last above 0): the first's y below them, in proportion
// to the last's above.
double ValueAt(const std::vector<RatePoint>& points, double x);

// Products with weights of one format.
struct FormatRates {
  std::string name;  // as in core/weight_format.h
  // Few rows: what starting and ending the kernels of a layer's experts costs beside reading
  // weights, and reading them.
  double call_seconds = 0;
  double seconds_per_byte = 0;
  // Both together, for eight experts of 8x7B.
  double full_seconds_per_byte = 0;
  // Rows of one matrix -> time of those eight experts over that with few rows.
  std::vector<RatePoint> rows_factor;
};

struct GpuRates {
  std::string name;
  // False: times of the measured GPU, scaled by copy bandwidth.
  bool measured = true;
  uint64_t memory_bytes = 0;
  double copy_bytes_per_s = 0;         // read and written, both counted
  std::vector<RatePoint> cache_reads;  // bytes of a layer's KV cache -> seconds of decode attention
  double attention_ops_per_s = 0;      // attention of prefill, in fp32
  double product_call_seconds = 0;     // one launch of q, k and v, of o, or of the head
  double row_kernels_seconds = 0;      // a layer's kernels over rows but the gate, for one row
  double row_seconds_per_byte = 0;     // each further row of those, per byte of a row in fp32
  double gate_seconds = 0;             // of a gate's product, beside its chain
  double chain_seconds = 0;            // one of the dependent additions that a gate's logit is
  double host_seconds = 0;             // a step's start and end
  double logits_bytes_per_s = 0;       // to the host
  std::vector<FormatRates> formats;

  // INVALID_ARGUMENT names `setting`, the format and those that were measured.
  absl::StatusOr<FormatRates> Format(absl::string_view setting, absl::string_view name) const;
};

// Above so many rows of a matrix the kernels for many rows are used, which compute whole tiles of
// them.
inline constexpr uint32_t kTileRows = 64;

// "h200" or "h100"; INVALID_ARGUMENT lists them.
absl::StatusOr<GpuRates> GpuRatesFromName(absl::string_view name);
std::vector<std::string> GpuNames();

// Whole steps of an 8x7B model on one H200: experts, queries, keys, values and outputs in int4g128,
// the head in int8g128, a cache of halves (bench/cuda/step_bench.cc). The estimate is checked
// against them. That model's weights are random with a mean below 0, which drowns what tells tokens
// apart: computed on the host, all rows of a step choose the same two experts of a layer. So does
// the estimate that is checked: with experts used evenly a step of 16 would take longer.
struct MeasuredStep {
  uint32_t sequences = 0;
  double tokens_per_s = 0;
};
inline constexpr uint32_t kMeasuredStepContext = 512;  // positions of each sequence
std::vector<MeasuredStep> MeasuredSteps();

// First tokens of prompts, the same model.
struct MeasuredPrompt {
  uint32_t tokens = 0;
  double seconds = 0;
};
std::vector<MeasuredPrompt> MeasuredPrompts();

}  // namespace octet

#endif  // OCTET_COORDINATOR_GPU_RATES_H_
