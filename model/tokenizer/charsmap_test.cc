// Look-ups need no checks because Parse lets nothing pass that leads out of the blob.
#include "model/tokenizer/charsmap.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace octet {
namespace {

using ::testing::HasSubstr;

constexpr uint32_t kValue = 1u << 31;
constexpr uint32_t kHasLeaf = 1u << 8;

// A blob of a trie of 512 units and these replacements.
std::string Blob(const std::vector<uint32_t>& units, const std::string& replacements) {
  const auto bytes = static_cast<uint32_t>(units.size() * sizeof(uint32_t));
  std::string blob(4 + bytes, '\0');
  std::memcpy(blob.data(), &bytes, 4);
  std::memcpy(blob.data() + 4, units.data(), bytes);
  return blob + replacements;
}

// "a" becomes "bc": the root's children begin at 256, the leaf of 'a' lies at 1.
std::vector<uint32_t> Units() {
  std::vector<uint32_t> units(512);
  units[0] = 256u << 10;
  const uint32_t node = 256 ^ 'a';
  units[node] = ((node ^ 1u) << 10) | kHasLeaf | 'a';
  units[1] = kValue | 2;
  return units;
}
const std::string kReplacements("x\0bc\0", 5);

TEST(CharsmapTest, FindsTheLongestRule) {
  const auto map = Charsmap::Parse(Blob(Units(), kReplacements));
  ASSERT_TRUE(map.ok()) << map.status();
  const auto match = map->Longest("aab");
  ASSERT_TRUE(match.has_value());
  EXPECT_EQ(match->length, 1u);
  EXPECT_EQ(match->replacement, "bc");
  EXPECT_FALSE(map->Longest("b").has_value());
  EXPECT_FALSE(map->Longest("").has_value());
}

TEST(CharsmapTest, UnitsThatLeadOutOfTheTrieAreRefused) {
  const auto refused = [](size_t at, uint32_t unit, const std::string& replacements) {
    std::vector<uint32_t> units = Units();
    units[at] = unit;
    const absl::Status status = Charsmap::Parse(Blob(units, replacements)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("leads out of the trie")) << at;
  };
  refused(0, 512u << 10, kReplacements);
  refused(300, 1024u << 10, kReplacements);
  refused(1, kValue | 5, kReplacements);
  // A root that calls itself a value is still where look-ups begin.
  refused(0, kValue | 1024, std::string(2000, '\0'));
}

TEST(CharsmapTest, SizesMustFit) {
  for (const std::string& blob : {std::string("abc"), std::string("\5\0\0\0abcde\0", 10),
                                  std::string("\4\0\0\0\0\0\0\0", 8), std::string(4, '\0')}) {
    EXPECT_EQ(Charsmap::Parse(blob).status().code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_TRUE(Charsmap::Parse("").ok());
}

}  // namespace
}  // namespace octet
