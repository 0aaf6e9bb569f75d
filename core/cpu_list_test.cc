#include "core/cpu_list.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "absl/strings/match.h"

namespace octet {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(CpuListTest, TakesNumbersAndRangesInTheirOrder) {
  EXPECT_THAT(*ParseCpuList(""), IsEmpty());
  EXPECT_THAT(*ParseCpuList("3"), ElementsAre(3));
  EXPECT_THAT(*ParseCpuList("8,0-3"), ElementsAre(8, 0, 1, 2, 3));
  EXPECT_THAT(*ParseCpuList("5-5,1023"), ElementsAre(5, 1023));
  EXPECT_EQ(FormatCpuList({8, 0, 1}), "8,0,1");
}

TEST(CpuListTest, NamesWhatIsWrong) {
  const std::pair<const char*, const char*> bad[] = {{"a", "\"a\""},
                                                     {"1,", "\"\""},
                                                     {"-1", "\"-1\""},
                                                     {"3-1", "backwards"},
                                                     {"1-", "\"1-\""},
                                                     {"0-2,1", "core 1 stands there twice"},
                                                     {"1024", "from 0 to 1023"},
                                                     {"0-99999999999", "0-99999999999"}};
  for (const auto& [text, part] : bad) {
    const absl::Status status = ParseCpuList(text).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << text;
    EXPECT_TRUE(absl::StrContains(status.message(), part)) << status;
  }
}

TEST(CpuListTest, AThreadIsPinnedToTheCoreThatItAsksFor) {
  const std::vector<int> allowed = AllowedCores();
  ASSERT_FALSE(allowed.empty());
  std::thread([&] {
    ASSERT_TRUE(PinThisThread(allowed.back()));
    EXPECT_THAT(AllowedCores(), ElementsAre(allowed.back()));
  }).join();
  EXPECT_EQ(AllowedCores(), allowed);
}

}  // namespace
}  // namespace octet
