#include "cli/gate_report.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/math.h"

namespace octet {
namespace {

constexpr size_t kNumbersMax = 16;  // experts of a line that still fits a terminal

double EntropyMax(const std::vector<GateLayerStatistics>& layers) {
  return LogD(static_cast<double>(layers[0].rows_per_expert.size())) / LogD(2.0);
}

uint64_t Busiest(const std::vector<GateLayerStatistics>& layers) {
  uint64_t most = 0;
  for (const GateLayerStatistics& layer : layers) {
    for (const uint64_t rows : layer.rows_per_expert) most = std::max(most, rows);
  }
  return most;
}

// An eighth of a block for each eighth of `full`, rounded; a least bar for anything above 0.
const char* Bar(uint64_t rows, uint64_t full) {
  static constexpr const char* kBars[] = {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  if (rows == 0) return kBars[0];
  return kBars[std::max<uint64_t>(1, (rows * 16 + full) / (2 * full))];
}

}  // namespace

std::string GateReportText(const std::vector<GateLayerStatistics>& layers) {
  const uint64_t full = layers.empty() ? 0 : Busiest(layers);
  if (full == 0) return "";
  const size_t experts = layers[0].rows_per_expert.size();
  const bool numbers = experts <= kNumbersMax;
  const size_t width = absl::StrCat(full).size();
  std::string text = absl::StrFormat(
      "gate, over %d tokens: entropy in bits (at most %.2f), load max/mean, tokens of experts 0 to "
      "%d\n"
      "layer  entropy  max/mean\n",
      layers[0].rows, EntropyMax(layers), experts - 1);
  for (size_t i = 0; i < layers.size(); ++i) {
    const GateLayerStatistics& layer = layers[i];
    absl::StrAppend(
        &text, absl::StrFormat("%5d  %7.2f  %8.2f  ", i, layer.entropy_bits, layer.max_over_mean));
    for (const uint64_t rows : layer.rows_per_expert) {
      const char* bar = Bar(rows, full);
      absl::StrAppend(&text, bar, bar, numbers ? " " : "");
    }
    for (size_t e = 0; numbers && e < experts; ++e) {
      absl::StrAppend(&text, absl::StrFormat(" %*d", width, layer.rows_per_expert[e]));
    }
    text += "\n";
  }
  return text;
}

std::string GateReportJson(const std::vector<GateLayerStatistics>& layers) {
  nlohmann::ordered_json json;
  json["entropy_unit"] = "bits";
  json["entropy_max"] = layers.empty() ? 0.0 : EntropyMax(layers);
  json["layers"] = nlohmann::ordered_json::array();
  for (const GateLayerStatistics& layer : layers) {
    json["layers"].push_back({{"rows", layer.rows},
                              {"entropy", layer.entropy_bits},
                              {"max_over_mean", layer.max_over_mean},
                              {"tokens_per_expert", layer.rows_per_expert}});
  }
  return json.dump();
}

}  // namespace octet
