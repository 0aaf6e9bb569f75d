// Reading safetensors files that are wrong in every way, and writing ones that are right.
#include "model/safetensors.h"

#include <cstring>
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

std::string Error(absl::string_view json, absl::string_view data) {
  const auto header = ParseSafetensors(SafetensorsBytes(json, data), "f");
  return header.ok() ? "accepted" : std::string(header.status().message());
}

TEST(Safetensors, ReadsATensorOfEachKind) {
  const std::string bytes = SafetensorsBytes(
      R"({"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[2,1],"data_offsets":[8,12]},)"
      R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
      R"("empty":{"dtype":"F16","shape":[0,7],"data_offsets":[8,8]}}   )",
      "01234567abcd");
  const auto header = ParseSafetensors(bytes, "f");
  ASSERT_TRUE(header.ok()) << header.status();
  ASSERT_EQ(header->tensors.size(), 3u);
  const SafetensorsEntry& b = header->tensors.at("b");
  EXPECT_EQ(b.dtype, "BF16");
  EXPECT_EQ(b.shape, (std::vector<uint64_t>{2, 1}));
  EXPECT_EQ(bytes.substr(b.begin, b.bytes), "abcd");
}

TEST(Safetensors, NamesWhatIsWrong) {
  const struct {
    const char* json;
    const char* data;
    const char* expected;
  } kCases[] = {
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", "12345678", "hole"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
       R"("b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}})",
       "123456", "overlap"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", "123456", "bytes long"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", "1234", "truncated"},
      {R"({"a":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}})", "1234", "dtype is \"F31\""},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", "1234", "need 8 bytes"},
      {R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", "1234", "shape"},
      {R"({"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}})", "1234", "shape"},
      {R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}})", "1234",
       "overflows"},
      {R"({"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}})", "1234",
       "at most 8"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", "1234", "data_offsets"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", "1234", "data_offsets"},
      {R"({"a":{"dtype":"F32","shape":[1]}})", "1234", "\"data_offsets\" is missing"},
      {R"({"a":{"dtype":7,"shape":[1],"data_offsets":[0,4]}})", "1234", "dtype"},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
       R"("a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
       "12", "twice"},
      {R"({"__metadata__":{"x":1}})", "", "__metadata__"},
      {R"({"a":3})", "", "allowed is an object"},
      {R"([1])", "", "'{'"},
      {R"({"a":)", "", "bad JSON"}};
  for (const auto& c : kCases) EXPECT_THAT(Error(c.json, c.data), HasSubstr(c.expected)) << c.json;
}

TEST(Safetensors, RefusesHugeHeaderLengths) {
  for (const uint64_t length : {uint64_t{3}, kSafetensorsHeaderBytesMax,
                                kSafetensorsHeaderBytesMax + 1, UINT64_MAX, UINT64_MAX - 7}) {
    const std::string bytes = GgufBytes().U64(length).Raw("{}").bytes();
    EXPECT_FALSE(ParseSafetensors(bytes, "f").ok()) << length;
  }
  EXPECT_FALSE(ParseSafetensors("", "f").ok());
  EXPECT_TRUE(ParseSafetensors(SafetensorsBytes("{}", ""), "f").ok());
}

TEST(Safetensors, TruncationAnywhereIsAnError) {
  const std::string whole = ReadFileOrDie(OracleModel("mixtral-tied-bf16/oracle.safetensors"));
  ASSERT_TRUE(ParseSafetensors(whole, "f").ok());
  for (size_t length = 0; length < whole.size(); ++length) {
    EXPECT_FALSE(ParseSafetensors(absl::string_view(whole).substr(0, length), "f").ok()) << length;
  }
}

TEST(Safetensors, FlippedBitsGiveAnErrorOrConsistentTensors) {
  const std::string whole = ReadFileOrDie(OracleModel("mixtral-top1-f16/model.safetensors"));
  uint64_t header_bytes = 0;
  memcpy(&header_bytes, whole.data(), 8);
  int refused = 0;
  for (uint32_t seed = 0; seed < 3000; ++seed) {
    std::mt19937 random(seed);
    std::string bytes = whole;
    for (uint32_t flips = 1 + random() % 4; flips > 0; --flips) {
      bytes[random() % (8 + header_bytes)] ^= static_cast<char>(1u << random() % 8);
    }
    const auto header = ParseSafetensors(bytes, "f");
    if (!header.ok()) {
      ++refused;
      continue;
    }
    for (const auto& [name, entry] : header->tensors) {
      EXPECT_LE(entry.begin + entry.bytes, bytes.size());
    }
  }
  EXPECT_GT(refused, 1000);
}

TEST(Safetensors, PlansAlignedFilesThatReadBack) {
  std::vector<SafetensorsPlan::Tensor> tensors(2);
  tensors[0].name = "weights";
  tensors[0].dtype = "U8";
  tensors[0].shape = {128};
  tensors[1].name = "norm \"q\"";
  tensors[1].dtype = "F32";
  tensors[1].shape = {16};
  const SafetensorsPlan plan = PlanSafetensors(tensors);
  EXPECT_EQ(plan.tensors[0].begin % 4096, 0u);
  EXPECT_EQ(plan.tensors[1].begin, plan.tensors[0].begin + 128);
  EXPECT_EQ(plan.file_bytes, plan.tensors[1].begin + 64);
  std::string file = plan.header;
  file.resize(plan.file_bytes, 'x');
  const auto header = ParseSafetensors(file, "f");
  ASSERT_TRUE(header.ok()) << header.status();
  EXPECT_EQ(header->tensors.at("norm \"q\"").begin, plan.tensors[1].begin);
  EXPECT_EQ(header->data_begin, plan.tensors[0].begin);
}

// A directory with one shard "s" of a tensor "a", and an index over it.
std::string IndexError(const std::string& weight_map) {
  TestDirectory directory;
  WriteFileOrDie(
      directory / "s",
      SafetensorsBytes(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})", "12"));
  WriteFileOrDie(directory / "model.safetensors.index.json",
                 absl::StrCat(R"({"weight_map":)", weight_map, "}"));
  const auto reader = SafetensorsReader::Open(directory.path());
  return reader.ok() ? "accepted" : std::string(reader.status().message());
}

TEST(Safetensors, ShardNamesStayInTheDirectory) {
  EXPECT_EQ(IndexError(R"({"a":"s"})"), "accepted");
  for (const char* name : {"../s", "..", ".", "/etc/passwd", "x/s", "", "s\\u0000"}) {
    EXPECT_THAT(IndexError(absl::StrCat(R"({"a":")", name, R"("})")), HasSubstr("plain file name"))
        << name;
  }
  EXPECT_THAT(IndexError(R"({"a":7})"), HasSubstr("plain file name"));
  EXPECT_THAT(IndexError("[]"), HasSubstr("weight_map"));
  EXPECT_THAT(IndexError(R"({"a":"t"})"), HasSubstr("/t"));
  EXPECT_THAT(IndexError(R"({"a":"s","lost":"s"})"), HasSubstr("\"lost\" is not in"));
}

TEST(Safetensors, AnEmptyDirectorySaysWhatIsMissing) {
  TestDirectory directory;
  const auto reader = SafetensorsReader::Open(directory.path());
  EXPECT_EQ(reader.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(reader.status().message()), HasSubstr("model.safetensors"));
}

}  // namespace
}  // namespace octet
