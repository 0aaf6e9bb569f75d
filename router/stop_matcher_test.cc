#include "router/stop_matcher.h"

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace octet {
namespace {

TEST(StopMatcherTest, HoldsBackWhatMayBecomeAStop) {
  StopMatcher matcher({"END"});
  EXPECT_EQ(matcher.Append("abcE"), "abc");
  EXPECT_EQ(matcher.Append("N"), "");
  EXPECT_EQ(matcher.Append("x"), "ENx");
  EXPECT_EQ(matcher.Append("yEN"), "y");
  EXPECT_EQ(matcher.Append("D tail"), "");
  ASSERT_NE(matcher.match(), nullptr);
  EXPECT_EQ(*matcher.match(), "END");
  EXPECT_EQ(matcher.Append("more"), "");
  EXPECT_EQ(matcher.Flush(), "");
}

TEST(StopMatcherTest, FlushGivesBackAnUnfinishedStop) {
  StopMatcher matcher({"\n\n"});
  EXPECT_EQ(matcher.Append("line\n"), "line");
  EXPECT_EQ(matcher.Flush(), "\n");
  EXPECT_EQ(matcher.match(), nullptr);
}

TEST(StopMatcherTest, TheFirstToEndWins) {
  StopMatcher matcher({"abcd", "c"});
  EXPECT_EQ(matcher.Append("xabcd"), "xab");
  EXPECT_EQ(*matcher.match(), "c");
  StopMatcher same_end({"c", "abc"});
  EXPECT_EQ(same_end.Append("xabc"), "x");
  EXPECT_EQ(*same_end.match(), "abc");
}

TEST(StopMatcherTest, UnmatchedTextPasses) {
  StopMatcher matcher({"stop"});
  EXPECT_EQ(matcher.AppendUnmatched("stop st"), "stop st");
  // What passed is not looked at again.
  EXPECT_EQ(matcher.Append("op"), "op");
  EXPECT_EQ(matcher.match(), nullptr);
}

// The definition, on the whole text at once.
std::string Reference(const std::string& text, const std::vector<std::string>& stops) {
  for (size_t end = 1; end <= text.size(); ++end) {
    size_t longest = 0;
    for (const std::string& stop : stops) {
      if (stop.size() <= end && text.compare(end - stop.size(), stop.size(), stop) == 0) {
        longest = std::max(longest, stop.size());
      }
    }
    if (longest > 0) return text.substr(0, end - longest);
  }
  return text;
}

TEST(StopMatcherTest, TheCutIntoPiecesDoesNotMatter) {
  std::mt19937 random(3);
  const auto word = [&](size_t length) {
    std::string s;
    for (size_t i = 0; i < length; ++i) s += static_cast<char>('a' + random() % 3);
    return s;
  };
  for (int round = 0; round < 3000; ++round) {
    std::vector<std::string> stops;
    for (size_t i = 0; i < 1 + random() % 3; ++i) stops.push_back(word(1 + random() % 6));
    const std::string text = word(40);
    StopMatcher matcher(stops);
    std::string shown;
    for (size_t at = 0; at < text.size();) {
      const size_t n = 1 + random() % 7;
      shown += matcher.Append(text.substr(at, n));
      ASSERT_EQ(text.compare(0, shown.size(), shown), 0);
      at += n;
    }
    if (matcher.match() == nullptr) shown += matcher.Flush();
    ASSERT_EQ(shown, Reference(text, stops)) << text;
  }
}

}  // namespace
}  // namespace octet
