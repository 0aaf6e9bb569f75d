// From the times of requests to the figures that `octet bench` reports. Pure.
#ifndef OCTET_CLI_BENCH_STATS_H_
#define OCTET_CLI_BENCH_STATS_H_

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "core/clock.h"

namespace octet {

// One request as its client saw it. `start` is when it was due, so that waiting for a free client
// counts.
struct RequestTimes {
  MonotonicTime start;
  std::vector<MonotonicTime> tokens;  // arrival of each
  MonotonicTime end;
  uint32_t prompt_tokens = 0;
  uint32_t phase = 0;  // of a run with --skew
};

struct Summary {
  double mean = 0;
  double median = 0;
  double p99 = 0;
  double max = 0;
  size_t count = 0;
};

// The smallest value with at least `percent` % of the values not above it (nearest rank); 0 of
// none.
double Percentile(std::vector<double> values, size_t percent);

// All zero for no values. The median of an even count is the lower one; p99 is the smallest value
// with at least 99 % of the values not above it.
Summary Summarize(std::vector<double> values);

// Tokens a second of all requests together while each of them decodes: from the last first token to
// the first last one. None where there is no such time.
std::optional<double> SharedDecodeRate(const std::vector<RequestTimes>& requests);

struct BenchReport {
  size_t requests = 0;
  size_t failed = 0;
  double seconds = 0;
  double output_tokens_per_s = 0;
  double total_tokens_per_s = 0;  // prompts included
  double requests_per_s = 0;
  Summary ttft_ms;  // due to first token
  Summary tpot_ms;  // mean gap of one request
  Summary itl_ms;   // every gap
  Summary e2e_ms;
};

BenchReport MakeReport(const std::vector<RequestTimes>& requests, size_t failed, Duration elapsed);
std::string ReportToText(const BenchReport& report);
std::string ReportToJson(const BenchReport& report);

}  // namespace octet

#endif  // OCTET_CLI_BENCH_STATS_H_
