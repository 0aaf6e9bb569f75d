// Reading GGUF files that are wrong in every way.
#include "model/gguf.h"

#include <algorithm>
#include <random>
#include <string>

#include "absl/strings/str_cat.h"
#include "core/limits.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/test_util.h"

namespace octet {
namespace {

using ::testing::HasSubstr;

constexpr uint32_t kF32 = 0;
constexpr uint32_t kQ40 = 2;

std::string Error(const std::string& bytes) {
  const auto header = ParseGguf(bytes, "f");
  return header.ok() ? "accepted" : std::string(header.status().message());
}

// One tensor `a` of 8 floats.
std::string Good() {
  GgufBytes file;
  file.Header(1, 1).KeyString("general.architecture", "llama").Tensor("a", {4, 2}, kF32, 0);
  return file.Pad(32).Raw(std::string(32, 'x')).bytes();
}

TEST(Gguf, ReadsValuesOfEveryType) {
  GgufBytes file;
  file.Header(0, 15);
  file.String("u8").U32(0).U8(200);
  file.String("i8").U32(1).U8(0xff);
  file.String("u16").U32(2).U8(1).U8(2);
  file.String("i16").U32(3).U8(0xfe).U8(0xff);
  file.String("u32").U32(4).U32(0xffffffff);
  file.String("i32").U32(5).U32(0xfffffffd);
  file.String("f32").U32(6).F32(1.5f);
  file.String("bool").U32(7).U8(1);
  file.String("string").U32(8).String("text");
  file.String("u64").U32(10).U64(UINT64_MAX);
  file.String("i64").U32(11).U64(static_cast<uint64_t>(-4));
  file.String("f64").U32(12).U64(0x3ff8000000000000u);
  file.String("strings").U32(9).U32(8).U64(2).String("a").String("");
  file.String("ints").U32(9).U32(5).U64(2).U32(7).U32(0xffffffff);
  file.String("floats").U32(9).U32(6).U64(1).F32(-2.0f);
  const auto header = ParseGguf(file.bytes(), "f");
  ASSERT_TRUE(header.ok()) << header.status();
  const auto integer = [&](const char* key) {
    return GgufInt(*header, key, INT64_MIN, INT64_MAX, "f").value_or(12345);
  };
  EXPECT_EQ(integer("u8"), 200);
  EXPECT_EQ(integer("i8"), -1);
  EXPECT_EQ(integer("u16"), 513);
  EXPECT_EQ(integer("i16"), -2);
  EXPECT_EQ(integer("u32"), 4294967295);
  EXPECT_EQ(integer("i32"), -3);
  EXPECT_EQ(integer("i64"), -4);
  EXPECT_FALSE(GgufInt(*header, "u64", 0, INT64_MAX, "f").ok()) << "beyond int64";
  EXPECT_FALSE(GgufInt(*header, "f32", 0, 9, "f").ok());
  EXPECT_FALSE(GgufInt(*header, "u8", 0, 199, "f").ok());
  EXPECT_EQ(*GgufFloatOr(*header, "f32", 0, "f"), 1.5);
  EXPECT_EQ(*GgufFloatOr(*header, "f64", 0, "f"), 1.5);
  EXPECT_EQ(*GgufStringOr(*header, "string", "", "f"), "text");
  EXPECT_EQ(*GgufStringOr(*header, "absent", "fallback", "f"), "fallback");
  EXPECT_EQ(header->values.at("strings").strings, (std::vector<std::string>{"a", ""}));
  EXPECT_EQ(header->values.at("ints").integers, (std::vector<int64_t>{7, -1}));
  EXPECT_EQ(header->values.at("floats").floats, (std::vector<double>{-2.0}));
}

TEST(Gguf, TensorsHaveShapesAndPlaces) {
  const auto header = ParseGguf(Good(), "f");
  ASSERT_TRUE(header.ok()) << header.status();
  const GgufTensor& tensor = header->tensors.at("a");
  EXPECT_EQ(tensor.dims, (std::vector<uint64_t>{4, 2}));
  EXPECT_EQ(tensor.bytes, 32u);
  EXPECT_EQ(tensor.begin % 32, 0u);
  EXPECT_EQ(tensor.begin + 32, Good().size());
}

TEST(Gguf, NamesWhatIsWrongInTheHeader) {
  EXPECT_THAT(Error("GGML"), HasSubstr("does not start with"));
  EXPECT_THAT(Error(GgufBytes().Header(0, 0, 2).bytes()), HasSubstr("version 2, supported is 3"));
  EXPECT_THAT(Error(GgufBytes().Header(0, UINT64_MAX).bytes()), HasSubstr("metadata values"));
  EXPECT_THAT(Error(GgufBytes().Header(UINT64_MAX, 0).bytes()), HasSubstr("tensors"));
  EXPECT_THAT(Error(GgufBytes().Header(1, 1).bytes()), HasSubstr("than the file can hold"));
  EXPECT_THAT(Error(GgufBytes().Header(0, 1).String("k").U32(13).U64(0).bytes()),
              HasSubstr("\"k\" has type 13"));
  EXPECT_THAT(Error(GgufBytes().Header(0, 1).String("k").U32(7).U8(2).bytes()),
              HasSubstr("boolean 2"));
  EXPECT_THAT(Error(GgufBytes().Header(0, 2).KeyU32("k", 1).KeyU32("k", 1).bytes()),
              HasSubstr("\"k\" appears twice"));
  EXPECT_THAT(Error(GgufBytes().Header(0, 1).U64(UINT64_MAX).U64(0).bytes()),
              HasSubstr("allowed are at most"));
  EXPECT_THAT(Error(GgufBytes().Header(0, 1).U64(1000).U64(0).bytes()), HasSubstr("truncated"));
  const auto array = [](uint32_t type, uint64_t count) {
    return Error(GgufBytes().Header(0, 1).String("k").U32(9).U32(type).U64(count).U64(0).bytes());
  };
  EXPECT_THAT(array(9, 1), HasSubstr("elements of type 9"));
  EXPECT_THAT(array(13, 1), HasSubstr("elements of type 13"));
  EXPECT_THAT(array(0, kGgufArrayElementsMax + 1), HasSubstr("allowed are at most"));
  EXPECT_THAT(array(0, kGgufArrayElementsMax), HasSubstr("truncated"));
  EXPECT_THAT(array(8, 2), HasSubstr("truncated"));
  EXPECT_THAT(array(12, UINT64_MAX / 8), HasSubstr("allowed are at most"));
  const auto alignment = [](uint32_t value) {
    return Error(GgufBytes().Header(0, 1).KeyU32("general.alignment", value).bytes());
  };
  EXPECT_THAT(alignment(0), HasSubstr("general.alignment"));
  EXPECT_THAT(alignment(48), HasSubstr("powers of two"));
  EXPECT_THAT(alignment(1u << 31), HasSubstr("general.alignment"));
  EXPECT_EQ(alignment(64), "accepted");
  EXPECT_THAT(Error(GgufBytes().Header(0, 1).KeyU32("split.count", 3).bytes()),
              HasSubstr("one of 3 parts"));
}

TEST(Gguf, NamesWhatIsWrongWithATensor) {
  const auto tensor = [](const std::vector<uint64_t>& dims, uint32_t type, uint64_t offset) {
    return Error(GgufBytes()
                     .Header(1, 0)
                     .Tensor("t", dims, type, offset)
                     .Pad(32)
                     .Raw(std::string(64, 'x'))
                     .bytes());
  };
  EXPECT_EQ(tensor({16}, kF32, 0), "accepted");
  EXPECT_THAT(tensor({}, kF32, 0), HasSubstr("\"t\" has 0 dimensions"));
  EXPECT_THAT(tensor({1, 1, 1, 1, 1}, kF32, 0), HasSubstr("5 dimensions"));
  EXPECT_THAT(tensor({0}, kF32, 0), HasSubstr("dimension of 0"));
  EXPECT_THAT(tensor({1u << 31, 1u << 31, 1u << 31}, kF32, 0), HasSubstr("too many elements"));
  EXPECT_THAT(tensor({uint64_t{1} << 62}, kF32, 0), HasSubstr("too many elements"));
  EXPECT_THAT(tensor({(uint64_t{1} << 62) - 1}, kF32, 0), HasSubstr("lies beyond any file"));
  EXPECT_THAT(tensor({17}, kF32, 0), HasSubstr("truncated"));
  EXPECT_THAT(tensor({16}, kF32, 32), HasSubstr("hole"));
  EXPECT_THAT(tensor({16}, kF32, UINT64_MAX - 31), HasSubstr("hole"));
  EXPECT_THAT(tensor({16}, 4, 0), HasSubstr("has type 4"));
  EXPECT_THAT(tensor({16}, 0xffffffff, 0), HasSubstr("known are"));
  EXPECT_THAT(tensor({33}, kQ40, 0), HasSubstr("needs a multiple of 32"));
}

TEST(Gguf, TensorsFollowEachOtherWithoutOverlap) {
  const auto second_at = [](const char* name, uint64_t offset) {
    return Error(GgufBytes()
                     .Header(2, 0)
                     .Tensor("a", {9}, kF32, 0)
                     .Tensor(name, {8}, kF32, offset)
                     .Pad(32)
                     .Raw(std::string(128, 'x'))
                     .bytes());
  };
  EXPECT_EQ(second_at("b", 64), "accepted");
  EXPECT_THAT(second_at("b", 32), HasSubstr("overlap"));
  EXPECT_THAT(second_at("b", 0), HasSubstr("overlap"));
  EXPECT_THAT(second_at("b", 96), HasSubstr("hole"));
  EXPECT_THAT(second_at("a", 64), HasSubstr("\"a\" appears twice"));
}

TEST(Gguf, TruncationAnywhereIsAnError) {
  for (const std::string& whole : {Good(), ReadFileOrDie(OracleModel("gguf-q4_0/model.gguf"))}) {
    ASSERT_TRUE(ParseGguf(whole, "f").ok());
    // Only the padding after the last tensor may be missing.
    for (size_t length = 0; length + 32 <= whole.size(); ++length) {
      EXPECT_FALSE(ParseGguf(absl::string_view(whole).substr(0, length), "f").ok()) << length;
    }
  }
}

TEST(Gguf, FlippedBitsGiveAnErrorOrConsistentTensors) {
  const std::string whole = ReadFileOrDie(OracleModel("gguf-q4_0/model.gguf"));
  const auto good = ParseGguf(whole, "f");
  ASSERT_TRUE(good.ok());
  size_t header_bytes = whole.size();
  for (const auto& [name, tensor] : good->tensors) {
    header_bytes = std::min<size_t>(header_bytes, tensor.begin);
  }
  int refused = 0;
  for (uint32_t seed = 0; seed < 5000; ++seed) {
    std::mt19937 random(seed);
    std::string bytes = whole;
    for (uint32_t flips = 1 + random() % 4; flips > 0; --flips) {
      bytes[random() % header_bytes] ^= static_cast<char>(1u << random() % 8);
    }
    const auto header = ParseGguf(bytes, "f");
    if (!header.ok()) {
      ++refused;
      continue;
    }
    for (const auto& [name, tensor] : header->tensors) {
      EXPECT_LE(tensor.begin + tensor.bytes, bytes.size());
    }
  }
  EXPECT_GT(refused, 1000);
}

TEST(Gguf, HandsTheTokenizerKeysOver) {
  GgufBytes file;
  file.Header(0, 7);
  file.KeyString("tokenizer.ggml.model", "llama").KeyString("tokenizer.chat_template", "{{x}}");
  file.String("tokenizer.ggml.tokens").U32(9).U32(8).U64(2).String("<s>").String("a");
  file.String("tokenizer.ggml.scores").U32(9).U32(6).U64(2).F32(0).F32(-1);
  file.String("tokenizer.ggml.token_type").U32(9).U32(5).U64(2).U32(3).U32(1);
  file.KeyU32("tokenizer.ggml.bos_token_id", 0);
  file.String("tokenizer.ggml.add_bos_token").U32(7).U8(0);
  const auto header = ParseGguf(file.bytes(), "f");
  ASSERT_TRUE(header.ok()) << header.status();
  const auto data = GgufTokenizer(*header, "f");
  ASSERT_TRUE(data.ok()) << data.status();
  EXPECT_EQ(data->model, "llama");
  EXPECT_EQ(data->tokens, (std::vector<std::string>{"<s>", "a"}));
  EXPECT_EQ(data->scores, (std::vector<float>{0, -1}));
  EXPECT_EQ(data->token_types, (std::vector<int32_t>{3, 1}));
  EXPECT_EQ(data->bos_id, 0);
  EXPECT_FALSE(data->eos_id.has_value());
  EXPECT_EQ(data->add_bos, false);
  EXPECT_EQ(data->chat_template, "{{x}}");

  GgufBytes wrong;
  wrong.Header(0, 1).KeyString("tokenizer.ggml.tokens", "a");
  const auto wrong_header = ParseGguf(wrong.bytes(), "f");
  ASSERT_TRUE(wrong_header.ok());
  EXPECT_THAT(std::string(GgufTokenizer(*wrong_header, "f").status().message()),
              HasSubstr("tokenizer.ggml.tokens"));
}

}  // namespace
}  // namespace octet
