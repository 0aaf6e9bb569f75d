// Ids equal to the reference packages' over the committed corpus, and back.
#include <set>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/tokenizer/golden_test_util.h"
#include "model/tokenizer/tokenizer.h"

namespace octet {
namespace {

using ::testing::ElementsAreArray;

struct Golden {
  const char* tokenizer;
  const char* ids;
  bool parse_special;
};

class TokenizerGolden : public ::testing::TestWithParam<Golden> {};

TEST_P(TokenizerGolden, GivesTheReferenceIds) {
  const auto corpus = GoldenCorpus(OCTET_SOURCE_DIR);
  const auto ids = GoldenIds(OCTET_SOURCE_DIR, GetParam().ids);
  ASSERT_GE(corpus.size(), 5000u);
  ASSERT_EQ(corpus.size(), ids.size());
  const auto tokenizer = GoldenTokenizer(OCTET_SOURCE_DIR, GetParam().tokenizer);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto again = DeserializeTokenizer((*tokenizer)->Serialize());
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ((*again)->Serialize(), (*tokenizer)->Serialize());
  EncodeOptions options;
  options.parse_special = GetParam().parse_special;
  int wrong = 0;
  for (size_t i = 0; i < corpus.size() && wrong < 5; ++i) {
    for (const Tokenizer* t : {tokenizer->get(), again->get()}) {
      const auto got = t->Encode(corpus[i], options);
      ASSERT_TRUE(got.ok()) << got.status();
      wrong += *got != ids[i];
      EXPECT_THAT(*got, ElementsAreArray(ids[i]))
          << "string " << i << ": " << ::testing::PrintToString(corpus[i]);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, TokenizerGolden,
    ::testing::Values(Golden{"smollm_style.json", "smollm_style.ids", true},
                      Golden{"smollm_style.json", "smollm_style.plain.ids", false},
                      Golden{"llama3_style.json", "llama3_style.ids", true},
                      Golden{"llama3_style.json", "llama3_style.plain.ids", false},
                      Golden{"nfc_style.json", "nfc_style.ids", true},
                      Golden{"nfc_style.json", "nfc_style.plain.ids", false},
                      Golden{"mixtral_style.json", "mixtral_style.ids", true},
                      Golden{"mixtral_style.json", "mixtral_style.plain.ids", false},
                      Golden{"smollm2.json", "smollm2.ids", true},
                      Golden{"smollm2.json", "smollm2.plain.ids", false},
                      Golden{"sp_bpe.model", "sp_bpe.ids", false},
                      Golden{"sp_unigram.model", "sp_unigram.ids", false}),
    [](const auto& info) {
      std::string name = info.param.ids;
      for (char& c : name) c = c == '.' ? '_' : c;
      return name;
    });

class TokenizerRoundTrip : public ::testing::TestWithParam<const char*> {};

// Text without the bytes that the vocabulary has no token for (SmolLM2 lacks some control
// characters); the reference leaves them out, too.
std::string Spellable(const Tokenizer& tokenizer, const std::string& text) {
  std::set<char> bytes;
  for (TokenId id = 0; id < static_cast<TokenId>(tokenizer.vocab_size()); ++id) {
    const std::string& token = tokenizer.TokenBytes(id);
    if (token.size() == 1) bytes.insert(token[0]);
  }
  std::string out;
  for (const char c : text) {
    if (bytes.count(c) > 0) out.push_back(c);
  }
  return out;
}

TEST_P(TokenizerRoundTrip, DecodesToTheText) {
  const auto tokenizer = GoldenTokenizer(OCTET_SOURCE_DIR, GetParam());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  int changed = 0;
  for (const std::string& text : GoldenCorpus(OCTET_SOURCE_DIR)) {
    const std::string expected = Spellable(**tokenizer, text);
    changed += expected != text;
    for (const bool parse_special : {false, true}) {
      const auto ids = (*tokenizer)->Encode(text, {false, parse_special});
      ASSERT_TRUE(ids.ok()) << ids.status();
      EXPECT_EQ((*tokenizer)->Decode(*ids, false), expected);
      std::string bytes;
      for (const TokenId id : *ids) bytes += (*tokenizer)->TokenBytes(id);
      EXPECT_EQ(bytes, expected);
    }
  }
  EXPECT_LT(changed, 1000);
}

INSTANTIATE_TEST_SUITE_P(All, TokenizerRoundTrip,
                         ::testing::Values("smollm_style.json", "llama3_style.json",
                                           "smollm2.json"));

TEST(Tokenizer, PlainTextNeverGivesASpecialId) {
  for (const char* name : {"smollm2.json", "mixtral_style.json", "sp_bpe.model"}) {
    const auto tokenizer = GoldenTokenizer(OCTET_SOURCE_DIR, name);
    ASSERT_TRUE(tokenizer.ok());
    for (const std::string& text : GoldenCorpus(OCTET_SOURCE_DIR)) {
      const auto ids = (*tokenizer)->Encode(text, {});
      ASSERT_TRUE(ids.ok());
      for (const TokenId id : *ids) EXPECT_FALSE((*tokenizer)->is_special(id)) << text;
    }
  }
}

TEST(Tokenizer, BosFromTheTemplateComesFirstOnRequest) {
  const auto tokenizer = GoldenTokenizer(OCTET_SOURCE_DIR, "llama3_style.json");
  ASSERT_TRUE(tokenizer.ok());
  EXPECT_TRUE((*tokenizer)->add_bos_default());
  ASSERT_EQ((*tokenizer)->bos_id(), (*tokenizer)->IdOf("<|endoftext|>"));
  const auto with = (*tokenizer)->Encode("fox", {true, false});
  const auto without = (*tokenizer)->Encode("fox", {});
  ASSERT_EQ(with->size(), without->size() + 1);
  EXPECT_EQ(with->front(), *(*tokenizer)->bos_id());
}

}  // namespace
}  // namespace octet
