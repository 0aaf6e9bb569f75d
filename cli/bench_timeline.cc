#include "cli/bench_timeline.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "cli/request_settings.h"
#include "core/status_macros.h"

namespace octet {

absl::StatusOr<std::vector<std::vector<TokenId>>> ParsePhases(const std::string& text,
                                                              const std::string& file,
                                                              uint32_t vocab) {
  std::vector<std::vector<TokenId>> phases;
  uint32_t number = 0;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    const std::string where = absl::StrCat("skew: ", file, ", line ", ++number);
    OCTET_ASSIGN_OR_RETURN(std::vector<TokenId> ids, ParseTokenIds(std::string(line), where));
    if (ids.empty()) continue;
    const auto past = std::find_if(ids.begin(), ids.end(),
                                   [&](TokenId id) { return static_cast<uint32_t>(id) >= vocab; });
    if (past != ids.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat(where, ": token id ", *past, ", allowed are 0 to ", vocab - 1));
    }
    phases.push_back(std::move(ids));
  }
  if (phases.empty() || phases.size() > kBenchPhasesMax) {
    return absl::InvalidArgumentError(absl::StrCat("skew: ", file, " has ", phases.size(),
                                                   " lines of token ids, allowed are 1 to ",
                                                   kBenchPhasesMax));
  }
  return phases;
}

std::string TimelineCsv(const std::vector<RequestTimes>& requests, MonotonicTime start) {
  struct Step {
    uint64_t prompt = 0, generated = 0;
    uint32_t phase = 0;
  };
  std::vector<Step> steps;
  const auto at = [&](MonotonicTime when) -> Step& {
    const auto step =
        static_cast<size_t>(std::max<int64_t>(when.ns - start.ns, 0) / kTimelineStep.ns);
    if (step >= steps.size()) steps.resize(step + 1);
    return steps[step];
  };
  for (const RequestTimes& request : requests) {
    if (!request.tokens.empty()) at(request.tokens.front()).prompt += request.prompt_tokens;
    for (const MonotonicTime token : request.tokens) ++at(token).generated;
    Step& begun = at(request.start);
    begun.phase = std::max(begun.phase, request.phase);
  }
  const double seconds = static_cast<double>(kTimelineStep.ns) / 1e9;
  std::string csv = "seconds,prompt_tokens_per_s,tokens_per_s,phase\n";
  uint32_t phase = 0;
  for (size_t i = 0; i < steps.size(); ++i) {
    phase = std::max(phase, steps[i].phase);
    absl::StrAppendFormat(&csv, "%.1f,%.1f,%.1f,%d\n", static_cast<double>(i) * seconds,
                          static_cast<double>(steps[i].prompt) / seconds,
                          static_cast<double>(steps[i].generated) / seconds, phase);
  }
  return csv;
}

}  // namespace octet
