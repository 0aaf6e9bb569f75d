#include "cli/bench_stats.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace octet {
namespace {

MonotonicTime At(int64_t ms) { return {ms * 1'000'000}; }

TEST(SummarizeTest, RanksAreExact) {
  EXPECT_EQ(Summarize({}).p99, 0);
  EXPECT_EQ(Summarize({5}).p99, 5);
  std::vector<double> values;
  for (int i = 200; i >= 1; --i) values.push_back(i);
  const Summary s = Summarize(values);
  EXPECT_DOUBLE_EQ(s.mean, 100.5);
  EXPECT_EQ(s.median, 100);
  EXPECT_EQ(s.p99, 198);
}

TEST(PercentileTest, IsTheNearestRank) {
  const std::vector<double> values = {5, 1, 4, 2, 3};
  EXPECT_EQ(Percentile(values, 50), 3);
  EXPECT_EQ(Percentile(values, 80), 4);
  EXPECT_EQ(Percentile(values, 81), 5);
  EXPECT_EQ(Percentile(values, 100), 5);
  EXPECT_EQ(Percentile(values, 0), 1);
  EXPECT_EQ(Percentile({}, 50), 0);
}

TEST(SummarizeTest, CountsAndNamesTheGreatest) {
  const Summary summary = Summarize({1, 2, 9});
  EXPECT_EQ(summary.count, 3u);
  EXPECT_EQ(summary.median, 2);
  EXPECT_EQ(summary.p99, 9);
  EXPECT_EQ(summary.max, 9);
}

TEST(SharedDecodeRateTest, CountsWhileAllDecode) {
  RequestTimes a{At(0), {At(100), At(110), At(120), At(130)}, At(131), 1};
  RequestTimes b{At(0), {At(110), At(125), At(150)}, At(151), 1};
  // From 110 to 130: a's at 120 and 130, b's at 125.
  EXPECT_DOUBLE_EQ(SharedDecodeRate({a, b}).value(), 150);
  EXPECT_DOUBLE_EQ(SharedDecodeRate({a}).value(), 100);
}

TEST(SharedDecodeRateTest, NoneWhereNothingWasMeasured) {
  RequestTimes a{At(0), {At(100), At(110)}, At(111), 1};
  RequestTimes later{At(0), {At(110), At(120)}, At(121), 1};
  RequestTimes one{At(0), {At(100)}, At(100), 1};
  RequestTimes at_once{At(0), {At(100), At(100)}, At(100), 1};
  RequestTimes none{At(0), {}, At(100), 1};
  EXPECT_EQ(SharedDecodeRate({}), std::nullopt);
  EXPECT_EQ(SharedDecodeRate({one}), std::nullopt);
  EXPECT_EQ(SharedDecodeRate({at_once}), std::nullopt);
  EXPECT_EQ(SharedDecodeRate({none}), std::nullopt);
  EXPECT_EQ(SharedDecodeRate({a, none}), std::nullopt);
  EXPECT_EQ(SharedDecodeRate({a, later}), std::nullopt);
}

TEST(MakeReportTest, MeasuresFromWhenARequestWasDue) {
  RequestTimes a{At(0), {At(100), At(110), At(140)}, At(141), 10};
  RequestTimes b{At(50), {At(250)}, At(250), 6};
  const BenchReport report = MakeReport({a, b}, 1, Duration::Millis(500));
  EXPECT_EQ(report.requests, 2u);
  EXPECT_EQ(report.failed, 1u);
  EXPECT_DOUBLE_EQ(report.ttft_ms.mean, 150);
  EXPECT_DOUBLE_EQ(report.tpot_ms.mean, 20);
  EXPECT_DOUBLE_EQ(report.itl_ms.p99, 30);
  EXPECT_DOUBLE_EQ(report.e2e_ms.median, 141);
  EXPECT_DOUBLE_EQ(report.output_tokens_per_s, 8);
  EXPECT_DOUBLE_EQ(report.total_tokens_per_s, 40);
  const auto json = nlohmann::json::parse(ReportToJson(report));
  EXPECT_EQ(json["failed"], 1);
  EXPECT_EQ(json["itl_ms"]["p99"], 30.0);
}

}  // namespace
}  // namespace octet
