#include "router/request_output.h"

#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "router/test_util.h"

namespace octet {
namespace {

constexpr TokenId kEos = 256;

struct Collected {
  std::vector<TokenId> tokens;
  std::vector<std::string> texts;
  std::string text;
  std::optional<FinishReason> finish;
  std::string match;
};

class RequestOutputTest : public testing::Test {
 protected:
  // Feeds tokens until one finishes the request.
  Collected Feed(const StopSettings& stop, const std::vector<TokenId>& tokens,
                 uint32_t resume_index = 0, uint32_t tokens_max = 100, bool skip_special = true) {
    RequestOutput output(tokenizer_.get(), stop, {kEos}, skip_special, resume_index, tokens_max);
    Collected all;
    for (const TokenId token : tokens) {
      RequestOutput::Step step = output.OnToken(token, std::nullopt);
      if (step.chunk.has_value()) {
        for (const TokenId id : step.chunk->token_ids) all.tokens.push_back(id);
        all.texts.push_back(step.chunk->text);
        all.text += step.chunk->text;
      }
      all.finish = step.finish;
      all.match = output.stop_match();
      if (all.finish.has_value()) break;
    }
    return all;
  }
  static std::vector<TokenId> Bytes(const std::string& text) {
    std::vector<TokenId> ids;
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    return ids;
  }

  std::unique_ptr<Tokenizer> tokenizer_ = MakeByteTokenizer(300);
};

TEST_F(RequestOutputTest, EndOfSequenceIsATokenWithoutText) {
  const Collected all = Feed({}, {'h', 'i', kEos, 'x'});
  EXPECT_EQ(all.tokens, (std::vector<TokenId>{'h', 'i', kEos}));
  EXPECT_EQ(all.text, "hi");
  EXPECT_EQ(all.finish, FinishReason::kStop);
}

TEST_F(RequestOutputTest, IgnoredEndOfSequenceGoesOn) {
  StopSettings stop;
  stop.ignore_eos = true;
  const Collected all = Feed(stop, {'h', kEos, 'x'}, 0, 3);
  EXPECT_EQ(all.text, "hx");
  EXPECT_EQ(all.finish, FinishReason::kLength);
  EXPECT_EQ(Feed(stop, {'h', kEos, 'x'}, 0, 3, false).text, "h</s>x");
}

TEST_F(RequestOutputTest, LengthReleasesWhatWasHeld) {
  StopSettings stop;
  stop.stop_strings = {"lot"};
  const Collected all = Feed(stop, Bytes("hello"), 0, 5);
  EXPECT_EQ(all.text, "hello");
  EXPECT_EQ(all.texts, (std::vector<std::string>{"h", "e", "", "l", "lo"}));
  EXPECT_EQ(all.finish, FinishReason::kLength);
}

TEST_F(RequestOutputTest, TextEndsBeforeTheStopString) {
  StopSettings stop;
  stop.stop_strings = {"\n\n", "lo w"};
  const Collected all = Feed(stop, Bytes("hello world"));
  EXPECT_EQ(all.text, "hel");
  EXPECT_EQ(all.match, "lo w");
  EXPECT_EQ(all.finish, FinishReason::kStop);
  EXPECT_EQ(all.tokens.size(), 7u);
}

TEST_F(RequestOutputTest, StopIdsEndLikeEndOfSequence) {
  StopSettings stop;
  stop.stop_ids = {'l'};
  const Collected all = Feed(stop, Bytes("hello"));
  EXPECT_EQ(all.text, "he");
  EXPECT_EQ(all.tokens.size(), 3u);
  EXPECT_EQ(all.match, "");
}

TEST_F(RequestOutputTest, NothingStopsBeforeMinTokens) {
  StopSettings stop;
  stop.min_tokens = 4;
  stop.stop_strings = {"b"};
  stop.stop_ids = {'z'};
  RequestOutput output(tokenizer_.get(), stop, {kEos}, true, 0, 100);
  for (int i = 0; i < 4; ++i) {
    EXPECT_THAT(output.forbidden(), testing::ElementsAre('z', kEos)) << i;
    EXPECT_EQ(output.OnToken('b', std::nullopt).finish.has_value(), i == 3);
  }
  EXPECT_TRUE(output.forbidden().empty());
  EXPECT_EQ(Feed(stop, Bytes("abababab")).text, "aba");
}

TEST_F(RequestOutputTest, CharactersComeWholeAndBrokenOnesAtTheEnd) {
  const Collected all = Feed({}, {0xe2, 0x82, 0xac, 0xe2, 0x82, kEos});
  EXPECT_THAT(all.texts, testing::ElementsAre("", "", "\xe2\x82\xac", "", "", "\xef\xbf\xbd"));
}

TEST_F(RequestOutputTest, AResumedStreamGoesOnWhereTheChunksEnded) {
  StopSettings stop;
  stop.stop_strings = {"stop", "x\xe2\x82\xac"};
  std::vector<TokenId> tokens = Bytes("a st\xe2\x82\xac sto\xc3\xa9 x");
  tokens.push_back(kEos);
  const Collected whole = Feed(stop, tokens);
  ASSERT_EQ(whole.tokens, tokens);
  for (uint32_t resume = 0; resume <= tokens.size(); ++resume) {
    const Collected rest = Feed(stop, tokens, resume);
    std::string before;
    for (uint32_t i = 0; i < resume; ++i) before += whole.texts[i];
    EXPECT_EQ(before + rest.text, whole.text) << resume;
    EXPECT_EQ(rest.tokens.size() + resume, tokens.size());
    EXPECT_EQ(rest.finish, whole.finish);
  }
}

}  // namespace
}  // namespace octet
