#include "cli/gate_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <vector>

namespace octet {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;

std::vector<GateLayerStatistics> TwoLayers() {
  GateLayerStatistics even{8, {4, 4, 4, 4}, 1.75, 1.0};
  GateLayerStatistics odd{8, {8, 7, 1, 0}, 0.5, 2.0};
  return {even, odd};
}

TEST(GateReportTest, BarsAreInProportionToTheBusiestExpertOfAll) {
  const std::string text = GateReportText(TwoLayers());
  EXPECT_THAT(text, HasSubstr("over 8 tokens"));
  EXPECT_THAT(text, HasSubstr("at most 2.00"));
  EXPECT_THAT(text, HasSubstr("    0     1.75      1.00  ▄▄ ▄▄ ▄▄ ▄▄  4 4 4 4\n"));
  EXPECT_THAT(text, HasSubstr("    1     0.50      2.00  ██ ▇▇ ▁▁     8 7 1 0\n"));
}

TEST(GateReportTest, ManyExpertsFitALineWithoutNumbers) {
  GateLayerStatistics layer{100, std::vector<uint64_t>(64, 5), 5.5, 1.0};
  layer.rows_per_expert[63] = 987'654'321;
  const std::string text = GateReportText({layer});
  EXPECT_THAT(text, HasSubstr("▁██\n"));
  EXPECT_THAT(text, Not(HasSubstr("987654321")));
}

TEST(GateReportTest, NothingCountedIsNoChart) {
  EXPECT_EQ(GateReportText({}), "");
  EXPECT_EQ(GateReportText({{0, {0, 0}, 0, 0}}), "");
}

TEST(GateReportTest, JsonHoldsEveryFigure) {
  const json report = json::parse(GateReportJson(TwoLayers()));
  EXPECT_EQ(report["entropy_unit"], "bits");
  EXPECT_NEAR(report["entropy_max"].get<double>(), 2.0, 1e-12);
  ASSERT_EQ(report["layers"].size(), 2u);
  EXPECT_EQ(report["layers"][1]["rows"], 8);
  EXPECT_EQ(report["layers"][1]["entropy"], 0.5);
  EXPECT_EQ(report["layers"][1]["max_over_mean"], 2.0);
  EXPECT_EQ(report["layers"][1]["tokens_per_expert"], json({8, 7, 1, 0}));
}

}  // namespace
}  // namespace octet
