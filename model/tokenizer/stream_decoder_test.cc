#include <random>
#include <string>

#include "gtest/gtest.h"
#include "model/tokenizer/golden_test_util.h"
#include "model/tokenizer/tokenizer.h"
#include "model/tokenizer/utf8.h"

namespace octet {
namespace {

constexpr char kReplacement[] = "\xEF\xBF\xBD";

class StreamDecoding : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    auto tokenizer = GoldenTokenizer(OCTET_SOURCE_DIR, GetParam());
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *std::move(tokenizer);
  }

  // Streams ids and checks that each part is whole characters and that the parts join to Decode.
  std::string Stream(const std::vector<TokenId>& ids, bool skip_special) {
    StreamDecoder decoder(tokenizer_.get(), skip_special);
    std::string joined;
    for (const TokenId id : ids) {
      const std::string part = decoder.Append(id);
      EXPECT_EQ(Utf8ValidLength(part), part.size()) << ::testing::PrintToString(part);
      joined += part;
    }
    const std::string rest = decoder.Flush();
    EXPECT_EQ(Utf8ValidLength(rest), rest.size());
    joined += rest;
    EXPECT_EQ(joined, tokenizer_->Decode(ids, skip_special));
    EXPECT_EQ(decoder.Flush(), "");
    return joined;
  }

  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_P(StreamDecoding, JoinsToTheWholeOnTheCorpus) {
  for (const std::string& text : GoldenCorpus(OCTET_SOURCE_DIR)) {
    const auto ids = tokenizer_->Encode(text, {false, true});
    ASSERT_TRUE(ids.ok());
    Stream(*ids, true);
    Stream(*ids, false);
  }
}

TEST_P(StreamDecoding, AnyIdsGiveWholeCharacters) {
  std::mt19937 random(11);
  for (int round = 0; round < 2000; ++round) {
    std::vector<TokenId> ids(random() % 20);
    // Few values, many of them single bytes, so that characters start and break off often.
    const uint32_t range = round % 2 == 0 ? 300 : tokenizer_->vocab_size() + 10;
    for (TokenId& id : ids) id = static_cast<TokenId>(random() % range) - 2;
    Stream(ids, round % 3 == 0);
  }
}

INSTANTIATE_TEST_SUITE_P(All, StreamDecoding,
                         ::testing::Values("smollm2.json", "llama3_style.json",
                                           "mixtral_style.json", "sp_bpe.model",
                                           "sp_unigram.model"),
                         [](const auto& info) {
                           std::string name = info.param;
                           for (char& c : name) c = c == '.' ? '_' : c;
                           return name;
                         });

// A tokenizer of single bytes makes every split of a character happen.
class StreamOfBytes : public ::testing::Test {
 protected:
  void SetUp() override {
    auto tokenizer = GoldenTokenizer(OCTET_SOURCE_DIR, "sp_bpe.model");
    ASSERT_TRUE(tokenizer.ok());
    tokenizer_ = *std::move(tokenizer);
  }

  std::vector<TokenId> BytesOf(const std::string& text) {
    constexpr char kHex[] = "0123456789ABCDEF";
    std::vector<TokenId> ids;
    for (const char c : text) {
      const uint8_t byte = static_cast<uint8_t>(c);
      const std::string piece = {'<', '0', 'x', kHex[byte >> 4], kHex[byte & 15], '>'};
      ids.push_back(tokenizer_->IdOf(piece).value());
    }
    return ids;
  }

  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_F(StreamOfBytes, HoldsACharacterBackUntilItsLastByte) {
  StreamDecoder decoder(tokenizer_.get(), true);
  const auto ids = BytesOf("é😀");
  EXPECT_EQ(decoder.Append(ids[0]), "");
  EXPECT_EQ(decoder.Append(ids[1]), "é");
  for (size_t i = 2; i < 5; ++i) EXPECT_EQ(decoder.Append(ids[i]), "");
  EXPECT_EQ(decoder.Append(ids[5]), "😀");
  EXPECT_EQ(decoder.Flush(), "");
}

TEST_F(StreamOfBytes, EveryCutOfEmojiEndsInOneReplacement) {
  const std::string text = "a👨‍👩‍👧‍👦é中🇩🇪";
  for (size_t cut = 0; cut <= text.size(); ++cut) {
    const std::string head = text.substr(0, cut);
    const size_t whole = Utf8ValidLength(head);
    const std::string expected = head.substr(0, whole) + (whole < cut ? kReplacement : "");
    EXPECT_EQ(tokenizer_->Decode(BytesOf(head), true), expected) << cut;
  }
}

TEST_F(StreamOfBytes, InvalidBytesBecomeOneReplacementForEachMaximalPart) {
  EXPECT_EQ(tokenizer_->Decode(BytesOf("a\xE2\x82"
                                       "b"),
                               true),
            std::string("a") + kReplacement + "b");
  EXPECT_EQ(tokenizer_->Decode(BytesOf("\xFF\xC0\x80"), true),
            std::string(kReplacement) + kReplacement + kReplacement);
  EXPECT_EQ(tokenizer_->Decode(BytesOf("\xED\xA0\x80"), true),
            std::string(kReplacement) + kReplacement + kReplacement);
  EXPECT_EQ(tokenizer_->Decode(BytesOf("\xF0\x9F\xF0\x9F\x98\x80"), true),
            std::string(kReplacement) + "😀");
}

TEST_F(StreamOfBytes, TheLeadingSpaceGoesOnceAndOnlyFromTheStart) {
  const auto ids = tokenizer_->Encode("fox fox", {});
  ASSERT_TRUE(ids.ok());
  EXPECT_EQ(tokenizer_->Decode(*ids, true), "fox fox");
  std::string joined;
  StreamDecoder continued(tokenizer_.get(), true, StreamDecoder::Start::kContinuation);
  for (const TokenId id : *ids) joined += continued.Append(id);
  EXPECT_EQ(joined, " fox fox");
  // A special token in front that is left out does not use the rule up.
  std::vector<TokenId> with_bos = *ids;
  with_bos.insert(with_bos.begin(), *tokenizer_->bos_id());
  EXPECT_EQ(tokenizer_->Decode(with_bos, true), "fox fox");
}

}  // namespace
}  // namespace octet
