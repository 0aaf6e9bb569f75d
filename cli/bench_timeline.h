// Throughput of `octet bench` over time, and prompts whose experts change during the run.
#ifndef OCTET_CLI_BENCH_TIMELINE_H_
#define OCTET_CLI_BENCH_TIMELINE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/bench_stats.h"
#include "core/clock.h"
#include "core/ids.h"

namespace octet {

inline constexpr uint32_t kBenchPhasesMax = 64;
inline constexpr Duration kTimelineStep = Duration::Millis(500);

// The token ids of each phase: a line each, empty lines left out. INVALID_ARGUMENT, with the line,
// for what is no id below `vocab`, for no line and for more than kBenchPhasesMax.
absl::StatusOr<std::vector<std::vector<TokenId>>> ParsePhases(const std::string& text,
                                                              const std::string& file,
                                                              uint32_t vocab);

// The phase of request `index`: each has an equal number of them, in order. `phases` > 0.
inline uint32_t PhaseOf(uint32_t index, uint32_t requests, uint32_t phases) {
  return static_cast<uint32_t>(uint64_t{index} * phases / requests);
}

// CSV: a line per kTimelineStep since `start` with the tokens a second, of prompts (counted when
// their first token comes) and generated, and the phase of the last request that had begun.
std::string TimelineCsv(const std::vector<RequestTimes>& requests, MonotonicTime start);

}  // namespace octet

#endif  // OCTET_CLI_BENCH_TIMELINE_H_
