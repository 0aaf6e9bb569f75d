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

// Products with weights of one format.
struct FormatRates {
  std::string name;  // as in core/weight_format.h
  // Reading weights while few rows are multiplied, without what a call costs by itself.
  double seconds_per_byte = 0;
  // Rows past kFreeRows for one matrix, in the kernels that read weights for few rows: multiply and
  // add counted apart.
  double few_rows_ops_per_s = 0;
  // In the kernels for many rows, the same way.
  double many_rows_ops_per_s = 0;
  // False where another format's figures for more than kFreeRows rows stand in.
  bool rows_measured = true;
};

struct GpuRates {
  std::string name;
  // False: times of the measured GPU, scaled by copy bandwidth.
  bool measured = true;
  uint64_t memory_bytes = 0;
  double copy_bytes_per_s = 0;        // read and written, both counted
  double cache_read_bytes_per_s = 0;  // attention of decode
  double attention_ops_per_s = 0;     // attention of prefill, in fp32
  double launch_seconds = 0;          // a kernel over a few rows, from start to start
  uint32_t launches_per_layer = 0;
  double expert_call_seconds = 0;  // start and end of a layer's expert kernels
  double chain_seconds = 0;        // one of the dependent additions that a gate's logit is
  std::vector<FormatRates> formats;

  // INVALID_ARGUMENT names `setting`, the format and those that were measured.
  absl::StatusOr<FormatRates> Format(absl::string_view setting, absl::string_view name) const;
};

// Rows of one matrix that cost no more time than one: its weights take as long to arrive.
inline constexpr double kFreeRows = 4;
// Above so many rows of a matrix the kernels for many rows are used, which compute whole tiles of
// them.
inline constexpr uint32_t kTileRows = 64;

// "h200" or "h100"; INVALID_ARGUMENT lists them.
absl::StatusOr<GpuRates> GpuRatesFromName(absl::string_view name);
std::vector<std::string> GpuNames();

// Whole steps of an 8x7B model on one H200: experts, queries, keys, values and outputs in int4g128,
// the head in int8g128, a cache of halves. The estimate is checked against them.
struct MeasuredStep {
  uint32_t sequences = 0;
  double tokens_per_s = 0;
  bool measured = true;  // else an expectation, and reports say so
};
inline constexpr uint32_t kMeasuredStepContext = 512;  // positions of each sequence
std::vector<MeasuredStep> MeasuredSteps();

}  // namespace octet

#endif  // OCTET_COORDINATOR_GPU_RATES_H_
