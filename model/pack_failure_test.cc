// Packing and opening when something is wrong: one clear error, and never half a package.
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/model_package.h"
#include "model/safetensors.h"
#include "model/test_util.h"

namespace octet {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

const auto kNoProgress = [](absl::string_view, uint64_t, uint64_t) {};

absl::Status Pack(const std::string& source, const std::string& destination,
                  const PackOptions& options = {}) {
  return PackModel(source, destination, options, kNoProgress);
}

// The error of packing a copy of an oracle model after `change`, which gets the copy's path. A new
// package must not have begun to exist.
std::string ErrorAfter(const char* model, const std::function<void(const std::string&)>& change,
                       const PackOptions& options = {}) {
  TestDirectory directory;
  const std::string source = directory / "source";
  CopyDirectory(OracleModel(model), source);
  change(source);
  const bool gguf = absl::StartsWith(model, "gguf");
  const absl::Status status =
      Pack(gguf ? source + "/model.gguf" : source, directory / "new/packed", options);
  if (std::filesystem::exists(directory / "new")) {
    EXPECT_THAT(ListFiles(directory / "new"), IsEmpty());
  }
  return status.ok() ? "packed" : std::string(status.message());
}

// Replaces text of the same length in a file.
std::function<void(const std::string&)> Replace(const std::string& file, const std::string& from,
                                                const std::string& to) {
  return [=](const std::string& source) {
    const std::string bytes = ReadFileOrDie(source + "/" + file);
    const std::string changed = absl::StrReplaceAll(bytes, {{from, to}});
    EXPECT_NE(changed, bytes) << from;
    WriteFileOrDie(source + "/" + file, changed);
  };
}

TEST(PackFailure, MissingTensorsAreNamed) {
  EXPECT_THAT(ErrorAfter("mixtral-f32", Replace("model.safetensors", "layers.1.self_attn.q_proj",
                                                "layers.1.self_attn.x_proj")),
              HasSubstr("tensor \"model.layers.1.self_attn.q_proj.weight\" is missing"));
  EXPECT_THAT(ErrorAfter("mixtral-f32", Replace("model.safetensors", "experts.3.w2.weight",
                                                "experts.7.w2.weight")),
              HasSubstr("block_sparse_moe.experts.3.w2.weight\" is missing"));
  EXPECT_THAT(ErrorAfter("gguf-f32", Replace("model.gguf", "blk.0.attn_v", "blk.0.attn_x")),
              HasSubstr("tensor \"blk.0.attn_v.weight\" is missing"));
  EXPECT_THAT(ErrorAfter("gguf-legacy-f16", Replace("model.gguf", "ffn_up.2.", "ffn_up.5.")),
              HasSubstr("blk.0.ffn_up"));
}

TEST(PackFailure, SuperfluousTensorsAreNamed) {
  // A model that has the experts of five, but a config for four of them.
  EXPECT_THAT(ErrorAfter("mixtral-gqa4-bf16",
                         [](const std::string& source) {
                           Replace("config.json", "\"num_local_experts\": 8",
                                   "\"num_local_experts\": 7")(source);
                           Replace("model.safetensors", "[8,32]", "[7,32]")(source);
                         }),
              AnyOf(HasSubstr("is no part of"), HasSubstr("shape and dtype need")));
  EXPECT_THAT(ErrorAfter("mixtral-f32", Replace("config.json", "\"num_hidden_layers\": 2",
                                                "\"num_hidden_layers\": 1")),
              AllOf(HasSubstr("model.layers.1."), HasSubstr("is no part of")));
}

TEST(PackFailure, WrongShapesSayWhatWasExpected) {
  EXPECT_THAT(ErrorAfter("mixtral-f32", Replace("config.json", "\"intermediate_size\": 16",
                                                "\"intermediate_size\": 24")),
              AllOf(HasSubstr("w1.weight\" has shape [16, 32]"), HasSubstr("[24, 32]")));
  EXPECT_THAT(
      ErrorAfter("mixtral-top4of16-bf16",
                 Replace("config.json", "\"num_local_experts\": 16", "\"num_local_experts\": 15")),
      AllOf(HasSubstr("has shape [16, "), HasSubstr("[15, ")));
}

TEST(PackFailure, WrongElementTypesAreNamed) {
  EXPECT_THAT(ErrorAfter("mixtral-top1-f16", Replace("model.safetensors", "\"F16\"", "\"I16\"")),
              AllOf(HasSubstr("has dtype I16"), HasSubstr("F32, F16 and BF16")));
}

TEST(PackFailure, UnknownArchitecturesAreNamed) {
  EXPECT_THAT(ErrorAfter("mixtral-f32", Replace("config.json", "MixtralForCausalLM", "OPT")),
              AllOf(HasSubstr("\"OPT\""), HasSubstr("MixtralForCausalLM")));
  EXPECT_THAT(ErrorAfter("gguf-f32",
                         [](const std::string& source) {
                           std::string bytes = ReadFileOrDie(source + "/model.gguf");
                           bytes.replace(bytes.find("\x05\0\0\0\0\0\0\0llama", 0, 13) + 8, 5,
                                         "falco");
                           WriteFileOrDie(source + "/model.gguf", bytes);
                         }),
              HasSubstr("architecture \"falco\" is not supported"));
}

TEST(PackFailure, TruncatedSourcesAreNamed) {
  EXPECT_THAT(ErrorAfter("mixtral-f32",
                         [](const std::string& source) {
                           std::filesystem::resize_file(source + "/model.safetensors", 70000);
                         }),
              AllOf(HasSubstr("model.safetensors"), HasSubstr("truncated")));
  EXPECT_THAT(ErrorAfter("gguf-f32",
                         [](const std::string& source) {
                           std::filesystem::resize_file(source + "/model.gguf", 50000);
                         }),
              AllOf(HasSubstr("model.gguf"), HasSubstr("truncated")));
}

TEST(PackFailure, NotAModelAtAll) {
  TestDirectory directory;
  EXPECT_EQ(Pack(directory / "absent", directory / "p").code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(Pack(directory.path(), directory / "p").message()),
              HasSubstr("config.json"));
  WriteFileOrDie(directory / "x.gguf", "hello");
  EXPECT_THAT(std::string(Pack(directory / "x.gguf", directory / "p").message()),
              HasSubstr("x.gguf"));
  EXPECT_FALSE(std::filesystem::exists(directory / "p"));
}

TEST(PackFailure, WeightsThatAreNotFiniteAreNamed) {
  const char* name = "model.layers.1.self_attn.v_proj.weight";
  const auto poison = [&](const std::string& source) {
    std::string bytes = ReadFileOrDie(source + "/model.safetensors");
    const auto header = ParseSafetensors(bytes, source);
    ASSERT_TRUE(header.ok()) << header.status();
    bytes.replace(header->tensors.at(name).begin + 40, 4, std::string("\0\0\xc0\x7f", 4));
    WriteFileOrDie(source + "/model.safetensors", bytes);
  };
  EXPECT_THAT(ErrorAfter("mixtral-f32", poison), HasSubstr(name));
}

TEST(PackFailure, BadOptionsAreNamed) {
  const auto error = [](const std::function<void(PackOptions&)>& change) {
    PackOptions options;
    change(options);
    return ErrorAfter(
        "mixtral-f32", [](const std::string&) {}, options);
  };
  EXPECT_THAT(error([](PackOptions& o) { o.experts = "int3"; }),
              AllOf(HasSubstr("experts"), HasSubstr("int3"), HasSubstr("q4_k")));
  EXPECT_THAT(error([](PackOptions& o) { o.attention = "magic"; }), HasSubstr("attention"));
  EXPECT_THAT(error([](PackOptions& o) { o.group = 48; }), HasSubstr("48"));
  EXPECT_THAT(error([](PackOptions& o) { o.reply = "f16"; }), HasSubstr("reply"));
  EXPECT_THAT(error([](PackOptions& o) { o.upcycle = 1; }), HasSubstr("upcycle"));
  EXPECT_THAT(error([](PackOptions& o) { o.upcycle = 8; }), HasSubstr("dense"));
  EXPECT_THAT(error([](PackOptions& o) { o.experts = "q4_k"; }), HasSubstr("tensor"));
}

TEST(PackFailure, AnExistingDestinationIsLeftAlone) {
  TestDirectory directory;
  WriteFileOrDie(directory / "p", "mine");
  EXPECT_EQ(Pack(OracleModel("mixtral-f32"), directory / "p").code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(ReadFileOrDie(directory / "p"), "mine");
}

// Runs `body` in a child process, which may change its own limits and mounts; its exit status.
int InChild(const std::function<int()>& body) {
  const pid_t child = fork();
  if (child == 0) _exit(body());
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

constexpr int kSkip = 77;

PackOptions Large() {
  PackOptions options;
  options.experts = options.attention = "f32";
  return options;
}

TEST(PackFailure, AFileSizeLimitLeavesNothing) {
  TestDirectory directory;
  const int status = InChild([&] {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit = {32 << 10, 32 << 10};
    setrlimit(RLIMIT_FSIZE, &limit);
    const absl::Status packed = Pack(OracleModel("mixtral-f32"), directory / "new/packed", Large());
    return absl::IsResourceExhausted(packed) ? 0 : 1;
  });
  EXPECT_EQ(status, 0);
  EXPECT_THAT(ListFiles(directory / "new"), IsEmpty());
}

TEST(PackFailure, AFullDiskLeavesNothing) {
  TestDirectory directory;
  const int status = InChild([&] {
    if (unshare(CLONE_NEWNS) != 0 ||
        mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        mount("tmpfs", directory.path().c_str(), "tmpfs", 0, "size=64k") != 0) {
      return kSkip;
    }
    const absl::Status packed = Pack(OracleModel("mixtral-f32"), directory / "packed", Large());
    if (!absl::IsResourceExhausted(packed)) return 1;
    return ListFiles(directory.path()).empty() ? 0 : 2;
  });
  if (status == kSkip) GTEST_SKIP() << "may not mount a small tmpfs";
  EXPECT_EQ(status, 0);
}

TEST(OpenFailure, DamagedBlobsAreFound) {
  for (const bool truncate : {false, true}) {
    TestDirectory directory;
    ASSERT_TRUE(Pack(OracleModel("mixtral-f32"), directory / "p").ok());
    for (const std::string& blob : ListFiles(directory / "p/blobs")) {
      const std::string path = directory / absl::StrCat("p/blobs/", blob);
      const std::string bytes = ReadFileOrDie(path);
      std::string damaged = bytes;
      damaged[damaged.size() * 3 / 4] ^= 1;
      WriteFileOrDie(path, truncate ? bytes.substr(0, bytes.size() - 1) : damaged);
      const auto package = ModelPackage::Open(directory / "p", {}, kNoProgress);
      if (truncate) {
        EXPECT_EQ(package.status().code(), absl::StatusCode::kDataLoss);
      } else {
        ASSERT_TRUE(package.ok()) << package.status();
        absl::Status found = (*package)->MapRouter(2).status();
        for (uint32_t e = 0; e < 4; ++e)
          found.Update((*package)->MapExpert(ExpertId(e), 1).status());
        EXPECT_EQ(found.code(), absl::StatusCode::kDataLoss);
        EXPECT_THAT(std::string(found.message()), HasSubstr(blob));
      }
      WriteFileOrDie(path, bytes);
    }
  }
}

TEST(OpenFailure, AMissingBlobOrManifestIsNamed) {
  TestDirectory directory;
  ASSERT_TRUE(Pack(OracleModel("mixtral-f32"), directory / "p").ok());
  const std::string blob = ListFiles(directory / "p/blobs")[0];
  std::filesystem::remove(directory / absl::StrCat("p/blobs/", blob));
  const auto package = ModelPackage::Open(directory / "p", {}, kNoProgress);
  EXPECT_THAT(std::string(package.status().message()), HasSubstr(blob));
  WriteFileOrDie(directory / "p/manifest.json", "{");
  EXPECT_THAT(std::string(ModelPackage::Open(directory / "p", {}, kNoProgress).status().message()),
              HasSubstr("manifest.json"));
}

TEST(OpenFailure, AnExpertThatIsNotThere) {
  TestDirectory directory;
  ASSERT_TRUE(Pack(OracleModel("mixtral-f32"), directory / "p").ok());
  const auto package = ModelPackage::Open(directory / "p", {}, kNoProgress);
  ASSERT_TRUE(package.ok());
  EXPECT_EQ((*package)->MapExpert(ExpertId(4), 1).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace octet
