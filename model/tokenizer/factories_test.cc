// Tokenizers from GGUF keys and from directories.
#include <filesystem>
#include <fstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/json.h"
#include "model/tokenizer/golden_test_util.h"
#include "model/tokenizer/sentencepiece_model.h"
#include "model/tokenizer/tokenizer.h"

namespace octet {
namespace {

using ::testing::HasSubstr;

// The keys of the SmolLM2 GGUF, from the serialised vocabulary.
GgufTokenizerData SmolLm2Keys() {
  const auto json = ParseJsonBounded(ReadGolden(OCTET_SOURCE_DIR, "smollm2.json"), 1 << 30);
  GgufTokenizerData data;
  data.model = "gpt2";
  data.pre = "smollm";
  data.tokens = (*json)["tokens"].get<std::vector<std::string>>();
  data.token_types.assign(data.tokens.size(), 1);
  for (const auto& added : (*json)["added_tokens"]) data.token_types[added["id"].get<size_t>()] = 3;
  const auto merges = (*json)["merges"].get<std::vector<size_t>>();
  for (size_t i = 0; i < merges.size(); i += 2) {
    data.merges.push_back(data.tokens[merges[i]] + " " + data.tokens[merges[i + 1]]);
  }
  data.bos_id = 1;
  data.eos_id = 2;
  data.add_bos = false;
  data.chat_template = (*json)["settings"]["chat_template"].get<std::string>();
  return data;
}

GgufTokenizerData LlamaKeys() {
  const auto model = ParseSentencePieceModel(ReadGolden(OCTET_SOURCE_DIR, "sp_bpe.model"));
  GgufTokenizerData data;
  data.model = "llama";
  for (const auto& piece : model->pieces) {
    data.tokens.push_back(piece.text);
    data.scores.push_back(piece.score);
    data.token_types.push_back(static_cast<int32_t>(piece.type));
  }
  data.bos_id = 1;
  data.eos_id = 2;
  return data;
}

void ExpectGolden(const Tokenizer& tokenizer, const std::string& ids, bool parse_special) {
  const auto corpus = GoldenCorpus(OCTET_SOURCE_DIR);
  const auto expected = GoldenIds(OCTET_SOURCE_DIR, ids);
  for (size_t i = 0; i < corpus.size(); ++i) {
    ASSERT_EQ(*tokenizer.Encode(corpus[i], {false, parse_special}), expected[i]) << corpus[i];
  }
}

TEST(TokenizerFromGguf, Gpt2GivesTheReferenceIds) {
  const auto tokenizer = TokenizerFromGguf(SmolLm2Keys());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  ExpectGolden(**tokenizer, "smollm2.ids", true);
  EXPECT_EQ((*tokenizer)->vocab_size(), 49152u);
  EXPECT_EQ((*tokenizer)->bos_id(), 1);
  EXPECT_EQ((*tokenizer)->eos_ids(), std::vector<TokenId>{2});
  EXPECT_FALSE((*tokenizer)->add_bos_default());
  EXPECT_THAT((*tokenizer)->chat_template(), HasSubstr("<|im_start|>"));
  EXPECT_EQ((*tokenizer)->TokenBytes(*(*tokenizer)->IdOf("\xC4\xA0the")), " the");
}

TEST(TokenizerFromGguf, LlamaGivesTheReferenceIds) {
  const auto tokenizer = TokenizerFromGguf(LlamaKeys());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  ExpectGolden(**tokenizer, "sp_bpe.ids", false);
  EXPECT_TRUE((*tokenizer)->add_bos_default());
  GgufTokenizerData without_space = LlamaKeys();
  without_space.add_space_prefix = false;
  const auto bare = TokenizerFromGguf(without_space);
  ASSERT_TRUE(bare.ok());
  EXPECT_EQ((*bare)->Decode(*(*bare)->Encode(" fox", {}), false), " fox");
  EXPECT_EQ(*(*bare)->Encode(" fox", {}), *(*tokenizer)->Encode("fox", {}));
}

TEST(TokenizerFromGguf, EveryKnownPreCompiles) {
  for (const char* pre :
       {"", "default", "gpt-2", "smollm", "starcoder", "refact", "falcon", "llama-bpe", "llama3",
        "dbrx", "qwen2", "deepseek-r1-qwen", "gpt-4o", "tekken", "command-r"}) {
    GgufTokenizerData data = SmolLm2Keys();
    data.pre = pre;
    const auto tokenizer = TokenizerFromGguf(data);
    ASSERT_TRUE(tokenizer.ok()) << pre << ": " << tokenizer.status();
    const std::string text = "Hello world's  12345\n\n  if (x) {\t}\r\n ÄÖü 中文 😀 ";
    EXPECT_EQ((*tokenizer)->Decode(*(*tokenizer)->Encode(text, {}), false), text) << pre;
  }
}

TEST(TokenizerFromGguf, NamesWhatIsWrong) {
  const auto error = [](const GgufTokenizerData& data) {
    return std::string(TokenizerFromGguf(data).status().message());
  };
  GgufTokenizerData data = SmolLm2Keys();
  data.pre = "nosuch";
  EXPECT_THAT(error(data), HasSubstr("tokenizer.ggml.pre is \"nosuch\""));
  EXPECT_EQ(TokenizerFromGguf(data).status().code(), absl::StatusCode::kUnimplemented);
  data = SmolLm2Keys();
  data.model = "bert";
  EXPECT_THAT(error(data), HasSubstr("tokenizer.ggml.model is \"bert\""));
  data = SmolLm2Keys();
  data.merges[7] = "nospace";
  EXPECT_THAT(error(data), HasSubstr("tokenizer.ggml.merges[7]"));
  data = SmolLm2Keys();
  data.token_types.pop_back();
  EXPECT_THAT(error(data), HasSubstr("tokenizer.ggml.token_type"));
  data = SmolLm2Keys();
  data.eos_id = 49152;
  EXPECT_THAT(error(data), HasSubstr("49152"));
  data = LlamaKeys();
  data.scores.clear();
  EXPECT_THAT(error(data), HasSubstr("tokenizer.ggml.scores"));
  data = LlamaKeys();
  data.token_types[5] = 9;
  EXPECT_THAT(error(data), HasSubstr("tokenizer.ggml.token_type[5] is 9"));
  data.tokens.clear();
  EXPECT_THAT(error(data), HasSubstr("tokenizer.ggml.tokens"));
}

class TokenizerDirectory : public ::testing::Test {
 protected:
  void SetUp() override {
    directory_ = std::string(OCTET_BINARY_DIR) + "/tokenizer_directory_" +
                 ::testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(directory_);
    std::filesystem::create_directories(directory_);
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  void Write(const std::string& name, const std::string& bytes) {
    std::ofstream(directory_ + "/" + name, std::ios::binary) << bytes;
  }

  std::string directory_;
};

TEST_F(TokenizerDirectory, ByteLevelWithSettingsFromTheOtherFiles) {
  Write("tokenizer.json", ReadGolden(OCTET_SOURCE_DIR, "smollm_style.json"));
  Write("tokenizer_config.json",
        R"({"bos_token":"<|im_start|>","eos_token":{"content":"<|im_end|>"},"add_bos_token":true,
            "chat_template":[{"name":"tool_use","template":"x"},
                              {"name":"default","template":"y"}]})");
  Write("generation_config.json", R"({"eos_token_id":[0,2]})");
  const auto tokenizer = LoadTokenizerFromDirectory(directory_);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  ExpectGolden(**tokenizer, "smollm_style.ids", true);
  EXPECT_EQ((*tokenizer)->bos_id(), 1);
  EXPECT_EQ((*tokenizer)->eos_ids(), (std::vector<TokenId>{0, 2}));
  EXPECT_TRUE((*tokenizer)->add_bos_default());
  EXPECT_EQ((*tokenizer)->chat_template(), "y");
}

TEST_F(TokenizerDirectory, TokenizerModelGoesBeforeItsConvertedForm) {
  Write("tokenizer.json", ReadGolden(OCTET_SOURCE_DIR, "mixtral_style.json"));
  Write("tokenizer.model", ReadGolden(OCTET_SOURCE_DIR, "sp_bpe.model"));
  Write("chat_template.jinja", "z");
  const auto tokenizer = LoadTokenizerFromDirectory(directory_);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  ExpectGolden(**tokenizer, "sp_bpe.ids", false);
  EXPECT_EQ((*tokenizer)->chat_template(), "z");
  EXPECT_EQ((*tokenizer)->eos_ids(), std::vector<TokenId>{2});
}

TEST_F(TokenizerDirectory, AddedTokensOfASentencePieceModel) {
  Write("tokenizer.model", ReadGolden(OCTET_SOURCE_DIR, "sp_bpe.model"));
  Write("tokenizer_config.json",
        R"({"added_tokens_decoder":{"5000":{"content":"<|im_end|>","special":true}},
            "eos_token":"<|im_end|>"})");
  const auto tokenizer = LoadTokenizerFromDirectory(directory_);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->eos_ids(), std::vector<TokenId>{5000});
  EXPECT_EQ((*tokenizer)->vocab_size(), 5001u);
  EXPECT_EQ((*tokenizer)->Encode("a<|im_end|>", {false, true})->back(), 5000);
  EXPECT_NE((*tokenizer)->Encode("a<|im_end|>", {false, false})->back(), 5000);
  const auto again = DeserializeTokenizer((*tokenizer)->Serialize());
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ((*again)->Encode("a<|im_end|>", {false, true})->back(), 5000);
}

TEST_F(TokenizerDirectory, ReadsWhatSerializeWrote) {
  const auto original = GoldenTokenizer(OCTET_SOURCE_DIR, "sp_unigram.model");
  ASSERT_TRUE(original.ok());
  Write("tokenizer.json", (*original)->Serialize());
  const auto tokenizer = LoadTokenizerFromDirectory(directory_);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  ExpectGolden(**tokenizer, "sp_unigram.ids", false);
  EXPECT_EQ((*tokenizer)->Serialize(), (*original)->Serialize());
}

// A seed that no longer loads would leave the fuzz target with nothing to mutate.
TEST(TokenizerSeeds, AllLoad) {
  const auto load = [](const std::string& name) {
    const std::string bytes = ReadGolden(OCTET_SOURCE_DIR, "../../fuzz/corpus/tokenizer/" + name);
    if (name.starts_with("own")) return DeserializeTokenizer(bytes);
    return name.starts_with("sp") ? TokenizerFromSentencePiece(bytes) : TokenizerFromHfJson(bytes);
  };
  for (const char* name :
       {"hf_byte_level", "hf_split", "hf_metaspace", "own_bpe", "own_sp", "sp_bpe", "sp_unigram"}) {
    const auto tokenizer = load(name);
    ASSERT_TRUE(tokenizer.ok()) << name << ": " << tokenizer.status();
    EXPECT_FALSE((*tokenizer)->Encode("ab c", {})->empty()) << name;
  }
}

TEST_F(TokenizerDirectory, NamesTheFileThatIsWrong) {
  EXPECT_EQ(LoadTokenizerFromDirectory(directory_).status().code(), absl::StatusCode::kNotFound);
  Write("tokenizer.json", "{");
  EXPECT_THAT(std::string(LoadTokenizerFromDirectory(directory_).status().message()),
              HasSubstr("tokenizer.json"));
}

}  // namespace
}  // namespace octet
