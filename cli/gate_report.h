// What the gates of a model chose, for people and for programs.
#ifndef OCTET_CLI_GATE_REPORT_H_
#define OCTET_CLI_GATE_REPORT_H_

#include <string>
#include <vector>

#include "router/gate_statistics.h"

namespace octet {

// A line per layer: entropy of the gate, max/mean load, a bar and (up to 16 experts) the number of
// tokens of each expert. The tallest bar of the chart is a full block, the bottom is no token.
// Empty where nothing was counted.
std::string GateReportText(const std::vector<GateLayerStatistics>& layers);
// {"entropy_unit": "bits", "entropy_max": 3.0, "layers": [{"rows", "entropy", "max_over_mean",
// "tokens_per_expert": [..]}]}
std::string GateReportJson(const std::vector<GateLayerStatistics>& layers);

}  // namespace octet

#endif  // OCTET_CLI_GATE_REPORT_H_
