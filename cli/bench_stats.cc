#include "cli/bench_stats.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace octet {
namespace {

nlohmann::ordered_json SummaryJson(const Summary& s) {
  return {{"mean", s.mean}, {"median", s.median}, {"p99", s.p99}};
}

// Of sorted values: the smallest rank that covers `percent` %, in integers.
double NearestRank(const std::vector<double>& sorted, size_t percent) {
  return sorted[std::max<size_t>(1, (sorted.size() * percent + 99) / 100) - 1];
}

}  // namespace

double Percentile(std::vector<double> values, size_t percent) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return NearestRank(values, percent);
}

Summary Summarize(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  double sum = 0;
  for (const double v : values) sum += v;
  return {sum / static_cast<double>(values.size()), NearestRank(values, 50),
          NearestRank(values, 99), values.back(), values.size()};
}

std::optional<double> SharedDecodeRate(const std::vector<RequestTimes>& requests) {
  if (requests.empty()) return std::nullopt;
  MonotonicTime from{INT64_MIN};
  MonotonicTime to = kNever;
  for (const RequestTimes& r : requests) {
    if (r.tokens.empty()) return std::nullopt;
    from = std::max(from, r.tokens.front());
    to = std::min(to, r.tokens.back());
  }
  if (to <= from) return std::nullopt;
  double tokens = 0;
  for (const RequestTimes& r : requests) {
    for (const MonotonicTime t : r.tokens) tokens += t > from && t <= to ? 1 : 0;
  }
  return tokens / (to - from).seconds();
}

BenchReport MakeReport(const std::vector<RequestTimes>& requests, size_t failed, Duration elapsed) {
  BenchReport report;
  report.requests = requests.size();
  report.failed = failed;
  report.seconds = elapsed.seconds();
  std::vector<double> ttft, tpot, itl, e2e;
  double output = 0;
  double prompt = 0;
  for (const RequestTimes& r : requests) {
    prompt += r.prompt_tokens;
    output += static_cast<double>(r.tokens.size());
    e2e.push_back((r.end - r.start).millis());
    if (r.tokens.empty()) continue;
    ttft.push_back((r.tokens.front() - r.start).millis());
    for (size_t i = 1; i < r.tokens.size(); ++i) {
      itl.push_back((r.tokens[i] - r.tokens[i - 1]).millis());
    }
    if (r.tokens.size() > 1) {
      tpot.push_back((r.tokens.back() - r.tokens.front()).millis() /
                     static_cast<double>(r.tokens.size() - 1));
    }
  }
  if (report.seconds > 0) {
    report.output_tokens_per_s = output / report.seconds;
    report.total_tokens_per_s = (output + prompt) / report.seconds;
    report.requests_per_s = static_cast<double>(requests.size()) / report.seconds;
  }
  report.ttft_ms = Summarize(std::move(ttft));
  report.tpot_ms = Summarize(std::move(tpot));
  report.itl_ms = Summarize(std::move(itl));
  report.e2e_ms = Summarize(std::move(e2e));
  return report;
}

std::string ReportToText(const BenchReport& report) {
  std::string text = absl::StrFormat(
      "requests %d, failed %d, %.2f s\noutput %.1f tokens/s, with prompts %.1f tokens/s, "
      "%.2f requests/s\n%-12s %10s %10s %10s\n",
      report.requests, report.failed, report.seconds, report.output_tokens_per_s,
      report.total_tokens_per_s, report.requests_per_s, "ms", "mean", "median", "p99");
  const std::pair<const char*, const Summary*> rows[] = {{"TTFT", &report.ttft_ms},
                                                         {"TPOT", &report.tpot_ms},
                                                         {"ITL", &report.itl_ms},
                                                         {"E2E", &report.e2e_ms}};
  for (const auto& row : rows) {
    absl::StrAppendFormat(&text, "%-12s %10.2f %10.2f %10.2f\n", row.first, row.second->mean,
                          row.second->median, row.second->p99);
  }
  return text;
}

std::string ReportToJson(const BenchReport& report) {
  nlohmann::ordered_json json;
  json["requests"] = report.requests;
  json["failed"] = report.failed;
  json["seconds"] = report.seconds;
  json["output_tokens_per_s"] = report.output_tokens_per_s;
  json["total_tokens_per_s"] = report.total_tokens_per_s;
  json["requests_per_s"] = report.requests_per_s;
  json["ttft_ms"] = SummaryJson(report.ttft_ms);
  json["tpot_ms"] = SummaryJson(report.tpot_ms);
  json["itl_ms"] = SummaryJson(report.itl_ms);
  json["e2e_ms"] = SummaryJson(report.e2e_ms);
  return json.dump();
}

}  // namespace octet
