// Truncated, flipped and hostile tokenizer files: an error or a tokenizer that works, never a
// crash.
#include <random>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/json.h"
#include "model/tokenizer/golden_test_util.h"
#include "model/tokenizer/tokenizer.h"

namespace octet {
namespace {

using ::testing::HasSubstr;
using Loader = absl::StatusOr<std::unique_ptr<Tokenizer>> (*)(std::string_view);

struct Source {
  const char* name;
  const char* file;
  Loader load;
};

std::string BytesOf(const Source& source) {
  const std::string bytes = ReadGolden(OCTET_SOURCE_DIR, source.file);
  if (source.load != &DeserializeTokenizer) return bytes;
  return (*GoldenTokenizer(OCTET_SOURCE_DIR, source.file))->Serialize();
}

// What loads must also encode and decode without trouble.
void Exercise(const absl::StatusOr<std::unique_ptr<Tokenizer>>& tokenizer) {
  if (!tokenizer.ok()) {
    EXPECT_FALSE(tokenizer.status().message().empty());
    return;
  }
  const auto ids = (*tokenizer)->Encode("The fox  é😀 中文 123 <s> ﷺ Ⅷ\n\t", {true, true});
  if (ids.ok()) (*tokenizer)->Decode(*ids, false);
  std::vector<TokenId> all;
  for (TokenId id = -1; id <= static_cast<TokenId>((*tokenizer)->vocab_size()); id += 7) {
    all.push_back(id);
  }
  (*tokenizer)->Decode(all, true);
}

class BadTokenizer : public ::testing::TestWithParam<Source> {};

TEST_P(BadTokenizer, TruncatedAnywhereIsNoCrash) {
  const std::string bytes = BytesOf(GetParam());
  std::mt19937 random(3);
  for (int i = 0; i < 200; ++i) {
    const size_t length = i < 20 ? static_cast<size_t>(i) : random() % bytes.size();
    const auto tokenizer = GetParam().load(std::string_view(bytes).substr(0, length));
    // A SentencePiece file may be cut between two fields and still be whole.
    if (GetParam().load != &TokenizerFromSentencePiece) {
      EXPECT_FALSE(tokenizer.ok()) << length;
    }
    Exercise(tokenizer);
  }
}

TEST_P(BadTokenizer, FlippedBitsAreNoCrash) {
  const std::string bytes = BytesOf(GetParam());
  std::mt19937 random(4);
  for (int i = 0; i < 300; ++i) {
    std::string flipped = bytes;
    for (uint32_t flips = random() % 3 + 1; flips > 0; --flips) {
      flipped[random() % flipped.size()] ^= static_cast<char>(1u << random() % 8);
    }
    Exercise(GetParam().load(flipped));
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, BadTokenizer,
    ::testing::Values(Source{"hf_byte_level", "llama3_style.json", &TokenizerFromHfJson},
                      Source{"hf_metaspace", "mixtral_style.json", &TokenizerFromHfJson},
                      Source{"sp_bpe", "sp_bpe.model", &TokenizerFromSentencePiece},
                      Source{"sp_unigram", "sp_unigram.model", &TokenizerFromSentencePiece},
                      Source{"own_bpe", "nfc_style.json", &DeserializeTokenizer},
                      Source{"own_sp", "sp_bpe.model", &DeserializeTokenizer}),
    [](const auto& info) { return std::string(info.param.name); });

// nfc_style.json with one member replaced.
absl::Status Changed(const std::string& pointer, const nlohmann::json& value) {
  auto json = ParseJsonBounded(ReadGolden(OCTET_SOURCE_DIR, "nfc_style.json"), 1 << 30);
  (*json)[nlohmann::json::json_pointer(pointer)] = value;
  return TokenizerFromHfJson(json->dump()).status();
}

TEST(HfTokenizerJson, NamesWhatIsNotSupported) {
  const std::pair<const char*, nlohmann::json> cases[] = {
      {"/model/type", "WordPiece"},
      {"/model/end_of_word_suffix", "</w>"},
      {"/normalizer", {{"type", "Lowercase"}}},
      {"/pre_tokenizer", {{"type", "BertPreTokenizer"}}},
      {"/decoder", {{"type", "CTC"}}},
      {"/post_processor", {{"type", "BertProcessing"}}},
  };
  for (const auto& [pointer, value] : cases) {
    const absl::Status status = Changed(pointer, value);
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << pointer;
    const std::string named =
        value.is_string() ? value.get<std::string>() : value["type"].get<std::string>();
    EXPECT_THAT(std::string(status.message()), HasSubstr(named)) << pointer;
  }
}

TEST(HfTokenizerJson, NamesWhatIsWrong) {
  const std::tuple<const char*, nlohmann::json, const char*> cases[] = {
      {"/model/merges/3", "zzz yyy", "merges[3]"},
      {"/model/merges/3", 5, "merges[3]"},
      {"/model/merges/3", {"\xC3\xA9", "Z"}, "merge"},
      {"/model/vocab/a", 4000000000u, "vocab entry \"a\""},
      {"/model/vocab/a", -1, "vocab entry \"a\""},
      {"/model/vocab/a", 5, "twice"},
      {"/model/vocab", {1, 2}, "vocab"},
      {"/added_tokens/0/id", -3, "added_tokens[0]"},
      {"/added_tokens/0/content", "", "added_tokens[0]"},
      {"/added_tokens", {{"a", 1}}, "added_tokens"},
      {"/pre_tokenizer",
       {{"type", "Split"}, {"pattern", {{"Regex", "("}}}, {"behavior", "Isolated"}},
       "pattern \"(\""},
      {"/pre_tokenizer",
       {{"type", "Split"}, {"pattern", {{"Regex", "[a&&b]"}}}, {"behavior", "Isolated"}},
       "intersection"},
      {"/pre_tokenizer",
       {{"type", "Split"}, {"pattern", {{"Regex", "a"}}}, {"behavior", "Sideways"}},
       "Sideways"},
      {"/pre_tokenizer/add_prefix_space", "yes", "add_prefix_space"},
  };
  for (const auto& [pointer, value, message] : cases) {
    const absl::Status status = Changed(pointer, value);
    EXPECT_FALSE(status.ok()) << pointer;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message)) << pointer;
  }
}

TEST(HfTokenizerJson, APatternThatBacktracksForeverIsAnError) {
  auto json = ParseJsonBounded(ReadGolden(OCTET_SOURCE_DIR, "llama3_style.json"), 1 << 30);
  (*json)["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(?:a|a)*(?:b|c)";
  const auto tokenizer = TokenizerFromHfJson(json->dump());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto ids = (*tokenizer)->Encode(std::string(40, 'a'), {});
  EXPECT_EQ(ids.status().code(), absl::StatusCode::kResourceExhausted);
}

TEST(Tokenizer, RefusesTextThatIsNotUtf8) {
  const auto tokenizer = GoldenTokenizer(OCTET_SOURCE_DIR, "llama3_style.json");
  ASSERT_TRUE(tokenizer.ok());
  const auto ids = (*tokenizer)->Encode("ab\xFFyz", {});
  EXPECT_EQ(ids.status().message(), "text is not UTF-8 at byte 2");
}

TEST(Tokenizer, LongRunsStayFast) {
  for (const char* name : {"smollm2.json", "mixtral_style.json", "sp_bpe.model"}) {
    const auto tokenizer = GoldenTokenizer(OCTET_SOURCE_DIR, name);
    ASSERT_TRUE(tokenizer.ok());
    for (const char* unit : {"a", " ", "\n", "1", "é", "ab ", "😀"}) {
      std::string text;
      while (text.size() < 300'000) text += unit;
      const auto ids = (*tokenizer)->Encode(text, {});
      ASSERT_TRUE(ids.ok()) << ids.status();
      EXPECT_EQ((*tokenizer)->Decode(*ids, false), text) << name << " of " << unit;
    }
  }
}

}  // namespace
}  // namespace octet
