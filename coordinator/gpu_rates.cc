#include "coordinator/gpu_rates.h"

#include <algorithm>
#include <cstddef>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace octet {
namespace {

// ---- One H200 ----
constexpr double kH200CopyBytesPerS = 4.28e12;
constexpr uint64_t kH200MemoryBytes = 139ull << 30;
// 4 operations for each of 32 * 128 query elements and each pair of 2,048 tokens.
constexpr double kPrefillAttentionOpsPerS = 4.0 * 4096 * (2048 * 2049 / 2) / 1.09e-3;

// Kernels over rows of 4,096, inside a graph: norm with the experts' replies, rope and cache,
// quantising, norm with attention's output, choice of experts.
constexpr double kRowKernels1 = (3.6 + 1.4 + 1.3 + 3.0 + 2.0) * 1e-6;
constexpr double kRowKernels64 = (3.8 + 2.4 + 1.6 + 3.3 + 3.8) * 1e-6;
constexpr double kGate1 = 9.8e-6;
constexpr double kGate64 = 10.1e-6;
constexpr double kRowSecondsPerByte =
    (kRowKernels64 + kGate64 - kRowKernels1 - kGate1) / 63 / 16384;
// A fused multiply-add waits 4 clocks of 1.98 GHz for the one before.
constexpr double kChainSeconds = 4 / 1.98e9;
constexpr double kGateSeconds = kGate1 - 4096 * kChainSeconds;

// Under a profiler every kernel takes longer. By how much: the mean of its times of the six kernels
// above less those that they take in a graph.
constexpr double kProfilerSeconds =
    ((5.3 + 4.4 + 2.5 + 6.2 + 4.4 + 13.3) * 1e-6 - kRowKernels1 - kGate1) / 6;
// Of one sequence of 512 positions, from the profile.
constexpr double kQkvSeconds = 10.4e-6 - kProfilerSeconds;
constexpr double kOutSeconds = 8.6e-6 - kProfilerSeconds;
constexpr double kAttentionSeconds = 8.1e-6 + 4.6e-6 - 2 * kProfilerSeconds;
// Decode attention: keys and values of 8 heads of 128, halves.
constexpr double kPositionBytes = 2.0 * 8 * 128 * 2;
constexpr RatePoint kCacheReads[] = {{1 * 512 * kPositionBytes, kAttentionSeconds},
                                     {1 * 8192 * kPositionBytes, 21.7e-6},
                                     {8 * 8192 * kPositionBytes, 91e-6},
                                     {64 * 2048 * kPositionBytes, 156e-6},
                                     {32 * 8192 * kPositionBytes, 253e-6}};

// A layer's experts of 8x7B (4096 to 14336 and back), top 2 of 8.
constexpr double kExpertWeights = 3.0 * 4096 * 14336;
struct MeasuredExperts {
  const char* format;
  double bytes_per_weight;
  double seconds1;   // 1 token, 2 experts
  double seconds16;  // 16 tokens, 4 rows for each of `experts16`
  double experts16;
  std::vector<RatePoint> more;  // rows for each of 8 experts -> seconds
};
constexpr double kFewRows = 4;

std::vector<MeasuredExperts> AllMeasuredExperts() {
  return {{"int4g128",
           0.5 + 2.0 / 128,
           66.2e-6,
           178.2e-6,
           8,
           {{8, 192e-6}, {16, 214e-6}, {32, 354e-6}, {128, 836e-6}, {1024, 4.93e-3}}},
          {"int8g128", 1 + 2.0 / 128, 93.2e-6, 331e-6, 8, {{16, 353e-6}, {1024, 4.87e-3}}},
          {"w4xg128", 0.5 + 1.0 / 128, 71.0e-6, 190e-6, 8, {{16, 208e-6}, {1024, 5.47e-3}}},
          {"bf16",
           2,
           177e-6,
           588e-6,
           7,
           {{16, 711e-6}, {128, 832e-6}, {512, 2.69e-3}, {1024, 4.76e-3}}}};
}

// Not measured: tokens to the device, a graph's start, waiting; PCIe 5.0 x16 of its data sheet.
constexpr double kHostSeconds = 50e-6;
constexpr double kLogitsBytesPerS = 64e9;

// ---- H100: not measured. The same chip with slower memory: the data sheets' bandwidths are 3.35
// and 4.8 TB/s.
constexpr double kH100CopyBytesPerS = kH200CopyBytesPerS * 3.35 / 4.8;
constexpr uint64_t kH100MemoryBytes = 78ull << 30;

// Two sizes of calls with few rows each give what a call costs and what a byte does. Reading alone
// comes out up to a tenth faster than copying.
FormatRates RatesOf(const MeasuredExperts& m, double slower) {
  const double expert = (m.seconds16 - m.seconds1) / (m.experts16 - 2);
  const double bytes = kExpertWeights * m.bytes_per_weight;
  FormatRates format;
  format.name = m.format;
  format.call_seconds = m.seconds1 - 2 * expert;
  const double all = format.call_seconds + 8 * expert;
  format.seconds_per_byte = slower * expert / bytes;
  format.full_seconds_per_byte = slower * all / (8 * bytes);
  format.rows_factor = {{kFewRows, 1}};
  // What takes longer than its weights' way from memory takes no longer with a slower memory.
  for (const RatePoint& p : m.more) {
    format.rows_factor.push_back({p.x, std::max(1.0, p.y / all / slower)});
  }
  return format;
}

GpuRates Rates(const std::string& name, bool measured, uint64_t memory_bytes,
               double copy_bytes_per_s) {
  const double slower = kH200CopyBytesPerS / copy_bytes_per_s;
  GpuRates rates;
  rates.name = name;
  rates.measured = measured;
  rates.memory_bytes = memory_bytes;
  rates.copy_bytes_per_s = copy_bytes_per_s;
  for (const RatePoint& p : kCacheReads) {
    rates.cache_reads.push_back({p.x, p.y + p.x * (slower - 1) / kH200CopyBytesPerS});
  }
  rates.attention_ops_per_s = kPrefillAttentionOpsPerS;
  rates.row_kernels_seconds = kRowKernels1;
  rates.row_seconds_per_byte = kRowSecondsPerByte * slower;
  rates.gate_seconds = kGateSeconds;
  rates.chain_seconds = kChainSeconds;
  rates.host_seconds = kHostSeconds;
  rates.logits_bytes_per_s = kLogitsBytesPerS;
  for (const MeasuredExperts& m : AllMeasuredExperts()) {
    rates.formats.push_back(RatesOf(m, slower));
  }
  // Queries, keys and values, 6,144 x 4,096, and outputs, 4,096 x 4,096, of int4g128: what is left
  // of their times beside reading, on average.
  const MeasuredExperts int4 = AllMeasuredExperts()[0];
  const double bytes = (6144 + 4096) * 4096.0 * int4.bytes_per_weight;
  rates.product_call_seconds =
      (kQkvSeconds + kOutSeconds - bytes * RatesOf(int4, 1).seconds_per_byte) / 2;
  return rates;
}

}  // namespace

double ValueAt(const std::vector<RatePoint>& points, double x) {
  if (x <= points.front().x) return points.front().y;
  for (size_t i = 1; i < points.size(); ++i) {
    const RatePoint &a = points[i - 1], &b = points[i];
    if (x <= b.x) return a.y + (b.y - a.y) * (x - a.x) / (b.x - a.x);
  }
  return points.back().y * x / points.back().x;
}

absl::StatusOr<FormatRates> GpuRates::Format(absl::string_view setting,
                                             absl::string_view format_name) const {
  std::vector<std::string> known;
  for (const FormatRates& format : formats) {
    if (format.name == format_name) return format;
    known.push_back(format.name);
  }
  return absl::InvalidArgumentError(absl::StrCat(setting, ": \"", format_name.substr(0, 80),
                                                 "\" was not measured on a GPU; allowed are ",
                                                 absl::StrJoin(known, ", ")));
}

absl::StatusOr<GpuRates> GpuRatesFromName(absl::string_view name) {
  if (name == "h200") return Rates("h200", true, kH200MemoryBytes, kH200CopyBytesPerS);
  if (name == "h100") return Rates("h100", false, kH100MemoryBytes, kH100CopyBytesPerS);
  return absl::InvalidArgumentError(absl::StrCat("gpu: \"", name.substr(0, 80),
                                                 "\" was not measured; allowed are ",
                                                 absl::StrJoin(GpuNames(), ", ")));
}

std::vector<std::string> GpuNames() { return {"h200", "h100"}; }

std::vector<MeasuredStep> MeasuredSteps() { return {{1, 309}, {4, 1048}, {16, 2999}, {64, 6022}}; }

std::vector<MeasuredPrompt> MeasuredPrompts() { return {{512, 30.6e-3}, {2048, 129e-3}}; }

}  // namespace octet
