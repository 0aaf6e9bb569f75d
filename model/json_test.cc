#include "model/json.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace octet {
namespace {

using ::testing::HasSubstr;

TEST(ParseJsonBounded, ReadsADocument) {
  auto json = ParseJsonBounded(R"({"a":[1,2.5,"x"],"b":{"a":null}})", 1000);
  ASSERT_TRUE(json.ok()) << json.status();
  EXPECT_EQ((*json)["a"][2], "x");
  EXPECT_TRUE((*json)["b"]["a"].is_null());
}

TEST(ParseJsonBounded, RefusesDuplicateKeysAtAnyDepth) {
  auto json = ParseJsonBounded(R"({"a":[{"k":1,"k":2}]})", 1000);
  ASSERT_FALSE(json.ok());
  EXPECT_THAT(std::string(json.status().message()), HasSubstr("\"k\" appears twice"));
  EXPECT_TRUE(ParseJsonBounded(R"({"a":{"k":1},"b":{"k":2}})", 1000).ok());
}

TEST(ParseJsonBounded, BoundsDepthAndSize) {
  const std::string deep64 = std::string(64, '[') + std::string(64, ']');
  const std::string deep65 = std::string(65, '[') + std::string(65, ']');
  EXPECT_TRUE(ParseJsonBounded(deep64, 1000).ok());
  auto json = ParseJsonBounded(deep65, 1000);
  ASSERT_FALSE(json.ok());
  EXPECT_THAT(std::string(json.status().message()), HasSubstr("nested deeper than 64"));
  EXPECT_FALSE(ParseJsonBounded(std::string(5'000'000, '['), 10'000'000).ok());
  EXPECT_FALSE(ParseJsonBounded("[1,2,3]", 6).ok());
  EXPECT_TRUE(ParseJsonBounded("[1,2,3]", 7).ok());
}

TEST(ParseJsonBounded, RefusesWhatIsNotJson) {
  for (const char* bad :
       {"", "{", "[1,]", "{\"a\":1} x", "\"\xff\"", "nul", "\"\\ud800\"", "NaN"}) {
    EXPECT_FALSE(ParseJsonBounded(bad, 1000).ok()) << bad;
  }
}

TEST(JsonFields, NameFieldValueAndWhatIsAllowed) {
  auto json =
      ParseJsonBounded(R"({"n":7,"s":"x","f":3.0,"big":18446744073709551615,"z":null})", 1000);
  ASSERT_TRUE(json.ok());
  EXPECT_EQ(*JsonInt(*json, "n", "f.json", 0, 10), 7);
  EXPECT_EQ(*JsonIntOr(*json, "z", "f.json", 0, 10, 4), 4);
  EXPECT_EQ(*JsonStringOr(*json, "none", "f.json", "d"), "d");
  auto bad = JsonInt(*json, "n", "f.json", 0, 5);
  EXPECT_EQ(bad.status().message(), "f.json: field \"n\" is 7, allowed is an integer from 0 to 5");
  EXPECT_FALSE(JsonInt(*json, "big", "f.json", INT64_MIN, INT64_MAX).ok());
  EXPECT_FALSE(JsonInt(*json, "f", "f.json", 0, 10).ok());
  EXPECT_FALSE(JsonString(*json, "n", "f.json").ok());
  EXPECT_FALSE(JsonBoolOr(*json, "s", "f.json", true).ok());
  EXPECT_FALSE(JsonString(*json, "z", "f.json").ok());
}

}  // namespace
}  // namespace octet
