#include "coordinator/gpu_rates.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace octet {
namespace {

// ---- Whole steps, tokens per second ----
constexpr double kStep1TokensPerS = 250;
constexpr double kStep16TokensPerS = 2600;
constexpr double kStep64TokensPerS = 4500;
constexpr bool kStepsMeasured = false;

// ---- One H200 ----
constexpr double kH200CopyBytesPerS = 4.28e12;
constexpr uint64_t kH200MemoryBytes = 139ull << 30;
constexpr double kDecodeAttentionShare = 0.99;      // of copy bandwidth: 32 sequences of 8,192
constexpr double kPrefillAttentionOpsPerS = 31e12;  // 2,048 tokens: 1.09 ms a layer
constexpr double kLaunchSeconds = 2e-6;
constexpr uint32_t kLaunchesPerLayer = 12;
// Not measured by itself: fitted so that whole steps of 1 and of 16 sequences, with two and with
// eight active experts, come out together.
constexpr double kExpertCallSeconds = 14e-6;
// A fused multiply-add waits 4 clocks of 1.98 GHz for the one before.
constexpr double kChainSeconds = 4 / 1.98e9;

// A layer's experts of 8x7B (4096 to 14336 and back), 16 tokens that hit `experts` of them.
constexpr double kExpertWeights = 3.0 * 4096 * 14336;
constexpr double kExpertOpsPerRow = 2 * kExpertWeights;
struct MeasuredExperts {
  const char* format;
  double experts;
  double bytes_per_weight;
  double seconds;
  double many_rows_ops_per_s;  // 4,096 tokens
  bool rows_measured;
};
constexpr double kInt4ManyRowsOpsPerS = 527e12;
constexpr double kInt4Seconds16 = 0.205e-3;
constexpr double kInt4Seconds64 = 0.32e-3;
constexpr MeasuredExperts kMeasuredExperts[] = {
    {"int4g128", 8, 0.5 + 2.0 / 128, kInt4Seconds16, kInt4ManyRowsOpsPerS, true},
    {"int8g128", 8, 1 + 2.0 / 128, 0.355e-3, kInt4ManyRowsOpsPerS, false},
    {"w4xg128", 8, 0.5 + 1.0 / 128, 0.215e-3, kInt4ManyRowsOpsPerS, false},
    {"bf16", 7, 2, 0.588e-3, 607e12, true},
};
// 16 tokens are 4 rows for each of 8 experts, 64 are 16.
constexpr double kInt4FewRowsOpsPerS =
    8 * (16 - kFreeRows) * kExpertOpsPerRow / (kInt4Seconds64 - kInt4Seconds16);

// ---- H100: not measured. The same chip with slower memory: the data sheets' bandwidths are 3.35
// and 4.8 TB/s.
constexpr double kH100CopyBytesPerS = kH200CopyBytesPerS * 3.35 / 4.8;
constexpr uint64_t kH100MemoryBytes = 78ull << 30;

GpuRates Rates(const std::string& name, bool measured, uint64_t memory_bytes,
               double copy_bytes_per_s) {
  GpuRates rates;
  rates.name = name;
  rates.measured = measured;
  rates.memory_bytes = memory_bytes;
  rates.copy_bytes_per_s = copy_bytes_per_s;
  rates.cache_read_bytes_per_s = copy_bytes_per_s * kDecodeAttentionShare;
  rates.attention_ops_per_s = kPrefillAttentionOpsPerS;
  rates.launch_seconds = kLaunchSeconds;
  rates.launches_per_layer = kLaunchesPerLayer;
  rates.expert_call_seconds = kExpertCallSeconds;
  rates.chain_seconds = kChainSeconds;
  const double slower = kH200CopyBytesPerS / copy_bytes_per_s;
  for (const MeasuredExperts& m : kMeasuredExperts) {
    FormatRates format;
    format.name = m.format;
    const double bytes = m.experts * kExpertWeights * m.bytes_per_weight;
    format.seconds_per_byte = slower * (m.seconds - kExpertCallSeconds) / bytes;
    format.many_rows_ops_per_s = m.many_rows_ops_per_s;
    // Tensor cores do both kinds of products of bf16.
    format.few_rows_ops_per_s = format.name == "bf16" ? m.many_rows_ops_per_s : kInt4FewRowsOpsPerS;
    format.rows_measured = m.rows_measured;
    rates.formats.push_back(format);
  }
  return rates;
}

}  // namespace

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

std::vector<MeasuredStep> MeasuredSteps() {
  return {{1, kStep1TokensPerS, kStepsMeasured},
          {16, kStep16TokensPerS, kStepsMeasured},
          {64, kStep64TokensPerS, kStepsMeasured}};
}

}  // namespace octet
