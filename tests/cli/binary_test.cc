// The real binary, on tiny models.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "core/cpu_list.h"
#include "rpc/channel.h"
#include "tests/integration/process.h"

namespace octet {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr int64_t kTimeoutMs = 60'000;

std::string Golden(const std::string& name) {
  return std::string(OCTET_SOURCE_DIR) + "/tests/golden/models/" + name;
}

class BinaryTest : public ::testing::Test {
 protected:
  ProcessResult Octet(std::vector<std::string> args,
                      std::map<std::string, std::string> environment = {}) {
    args.insert(args.begin(), OctetBinary());
    environment["OCTET_CACHE"] = directory_.path() + "/cache";
    return RunProcess(args, kTimeoutMs, environment);
  }
  std::string Write(const std::string& name, const std::string& text) {
    const std::string path = directory_.path() + "/" + name;
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }
  std::string path(const std::string& name) const { return directory_.path() + "/" + name; }

 private:
  TemporaryDirectory directory_;
};

// The failure is the last line, whatever was written before.
std::string LastLine(std::string text) {
  while (!text.empty() && text.back() == '\n') text.pop_back();
  const size_t end = text.rfind('\n');
  return end == std::string::npos ? text : text.substr(end + 1);
}

TEST_F(BinaryTest, HelpListsEveryCommand) {
  const ProcessResult result = Octet({"--help"});
  EXPECT_EQ(result.exit_code, 0);
  for (const char* command :
       {"up", "router", "worker", "coordinator", "generate", "chat", "eval", "bench", "status",
        "inspect", "pack", "doctor", "config", "version"}) {
    EXPECT_THAT(result.stdout_text, HasSubstr(std::string("\n  ") + command + " "));
    const ProcessResult help = Octet({command, "--help"});
    EXPECT_EQ(help.exit_code, 0) << command;
    EXPECT_THAT(help.stdout_text, HasSubstr("--help")) << command;
  }
}

TEST_F(BinaryTest, UnknownCommandNamesTheNearest) {
  const ProcessResult result = Octet({"generat"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(LastLine(result.stderr_text), HasSubstr("did you mean \"generate\"?"));
}

TEST_F(BinaryTest, UnknownFlagNamesTheNearest) {
  const ProcessResult result = Octet({"generate", "--max-token", "3"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_EQ(result.stdout_text, "");
  EXPECT_THAT(LastLine(result.stderr_text), AllOf(HasSubstr("unknown flag --max-token"),
                                                  HasSubstr("did you mean --max-tokens?")));
}

TEST_F(BinaryTest, UnknownYamlKeyNamesTheNearest) {
  const std::string file = Write("c.yaml", "max-tokens: 4\ntemprature: 1\n");
  const ProcessResult result = Octet({"generate", "--config", file, "--prompt", "x"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(LastLine(result.stderr_text),
              AllOf(HasSubstr("c.yaml:2"), HasSubstr("temprature"), HasSubstr("temperature")));
}

TEST_F(BinaryTest, ValueOutOfRangeIsNamed) {
  const ProcessResult result = Octet({"generate", "--prompt", "x", "--top-k=-4"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(LastLine(result.stderr_text), AllOf(HasSubstr("top-k"), HasSubstr("-4")));
}

TEST_F(BinaryTest, ConfigPrintShowsValueAndSource) {
  const std::string file = Write("c.yaml", "workers: 3\nkv-dtype: f32\nthreads: 7\n");
  const ProcessResult result =
      Octet({"config", "print", "--config", file, "--threads", "2"}, {{"OCTET_KV_DTYPE", "f16"}});
  ASSERT_EQ(result.exit_code, 0) << result.stderr_text;
  const auto line = [&](const std::string& name) {
    const size_t at = result.stdout_text.find("\n" + name + ":");
    const size_t end = result.stdout_text.find('\n', at + 1);
    return at == std::string::npos ? "" : result.stdout_text.substr(at + 1, end - at - 1);
  };
  EXPECT_THAT(line("workers"), AllOf(HasSubstr(" 3 "), HasSubstr("c.yaml")));
  EXPECT_THAT(line("kv-dtype"), AllOf(HasSubstr(" f16 "), HasSubstr("OCTET_KV_DTYPE")));
  EXPECT_THAT(line("threads"), AllOf(HasSubstr(" 2 "), HasSubstr("flag --threads")));
  EXPECT_THAT(line("replication"), AllOf(HasSubstr(" 1 "), HasSubstr("default")));
}

TEST_F(BinaryTest, GenerateFromIdsAsJson) {
  const std::string ids = Write("ids", " 5 17\n60\t");
  const std::vector<std::string> args = {
      "generate",     "--model", Golden("mixtral-f32"), "--ids", ids,
      "--max-tokens", "6",       "--ignore-eos",        "--json"};
  const ProcessResult result = Octet(args);
  ASSERT_EQ(result.exit_code, 0) << result.stderr_text;
  const json answer = json::parse(result.stdout_text);
  EXPECT_EQ(answer["token_ids"].size(), 6u);
  EXPECT_EQ(answer["finish_reason"], "length");
  EXPECT_EQ(answer["usage"]["prompt_tokens"], 3);
  EXPECT_EQ(answer["usage"]["completion_tokens"], 6);
  EXPECT_TRUE(answer["text"].is_string());
  // Greedy: another run with other threads gives the same.
  std::vector<std::string> other = args;
  other.push_back("--threads=2");
  EXPECT_EQ(json::parse(Octet(other).stdout_text)["token_ids"], answer["token_ids"]);
}

TEST_F(BinaryTest, CoresAndNodesDoNotChangeTheTokens) {
  const std::vector<int> allowed = AllowedCores();
  ASSERT_FALSE(allowed.empty());
  const std::string ids = Write("ids", "5 17 60");
  const std::vector<std::string> args = {
      "generate",     "--model", Golden("mixtral-f32"), "--ids", ids,
      "--max-tokens", "6",       "--ignore-eos",        "--json"};
  const json plain = json::parse(Octet(args).stdout_text);
  std::vector<std::string> bound = args;
  bound.push_back("--numa-node=0");
  bound.push_back("--cores=" + std::to_string(allowed.back()));
  const ProcessResult result = Octet(bound);
  // A container may forbid binding memory; that is an error too, not a silent default.
  if (absl::StrContains(result.stderr_text, "cannot bind")) {
    GTEST_SKIP() << "not run: " << LastLine(result.stderr_text);
  }
  ASSERT_EQ(result.exit_code, 0) << result.stderr_text;
  EXPECT_EQ(json::parse(result.stdout_text)["token_ids"], plain["token_ids"]);
}

TEST_F(BinaryTest, CoresAndNodesThatThereAreNotAreNamed) {
  const std::string ids = Write("ids", "5");
  const std::pair<const char*, const char*> bad[] = {
      {"--cores=1023", "cores: this process may not use core 1023; it may use "},
      {"--cores=0-x", "\"0-x\""},
      {"--numa-node=1023", "numa-node: 1023, this machine has "}};
  for (const auto& [flag, message] : bad) {
    const ProcessResult result =
        Octet({"generate", "--model", Golden("mixtral-f32"), "--ids", ids, flag});
    EXPECT_NE(result.exit_code, 0) << flag;
    EXPECT_THAT(LastLine(result.stderr_text), HasSubstr(message));
  }
}

TEST_F(BinaryTest, GenerateRefusesWhatIsNoId) {
  const std::string ids = Write("ids", "5 six 7");
  const ProcessResult result = Octet({"generate", "--model", Golden("mixtral-f32"), "--ids", ids});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(LastLine(result.stderr_text), HasSubstr("\"six\" at byte 2"));
}

TEST_F(BinaryTest, GenerateNeedsAPrompt) {
  const ProcessResult result = Octet({"generate"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(LastLine(result.stderr_text), HasSubstr("--prompt TEXT or --ids FILE"));
}

TEST_F(BinaryTest, NoServerIsNamedWithAHint) {
  const ProcessResult result =
      Octet({"generate", "--server", "127.0.0.1:1", "--prompt", "x", "--attempts", "1"});
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_THAT(LastLine(result.stderr_text), AllOf(HasSubstr("127.0.0.1:1"), HasSubstr("octet up")));
}

TEST_F(BinaryTest, MissingModelIsNamed) {
  const ProcessResult result = Octet({"generate", "--model", "/nowhere/at/all", "--prompt", "x"});
  EXPECT_NE(result.exit_code, 0);
  EXPECT_THAT(LastLine(result.stderr_text), HasSubstr("/nowhere/at/all"));
}

// A copy of the program where nothing else is, so that what it finds beside itself is the test's.
std::string CopyProgram(const std::string& directory) {
  std::filesystem::create_directories(directory);
  const std::string copy = directory + "/octet";
  std::error_code error;
  std::filesystem::create_hard_link(OctetBinary(), copy, error);
  if (error) std::filesystem::copy_file(OctetBinary(), copy);
  return copy;
}

TEST_F(BinaryTest, EmbeddedModelIsServedWhereNoneIsNamed) {
  const std::string program = CopyProgram(path("tree/build"));
  std::filesystem::create_directories(path("tree/models"));
  const ProcessResult pack = Octet({"pack", Golden("mixtral-f32"), path("tree/models/tiny")});
  ASSERT_EQ(pack.exit_code, 0) << pack.stderr_text;

  const ProcessResult inspect = RunProcess({program, "inspect"}, kTimeoutMs);
  EXPECT_EQ(inspect.exit_code, 0) << inspect.stderr_text;
  EXPECT_THAT(inspect.stdout_text, HasSubstr(path("tree/models/tiny")));

  ChildProcess up({program, "up", "--workers=1", "--listen=127.0.0.1:0"});
  ASSERT_TRUE(up.WaitForOutput("ready on ", kTimeoutMs)) << up.StderrText();
  const std::string text = up.StdoutText();
  const size_t at = text.find("ready on ") + 9;
  const std::string address = text.substr(at, text.find(' ', at) - at);
  const std::string ids = Write("ids", "5 17 60");
  const auto tokens = [&](const std::string& flag) {
    const ProcessResult result =
        RunProcess({program, "generate", flag, "--ids", ids, "--json", "--ignore-eos"}, kTimeoutMs);
    EXPECT_EQ(result.exit_code, 0) << result.stderr_text;
    return json::parse(result.stdout_text)["token_ids"];
  };
  EXPECT_EQ(tokens("--server=" + address), tokens("--model=" + path("tree/models/tiny")));
}

TEST_F(BinaryTest, GenerateUsesTheEmbeddedModelWhereNoRouterListens) {
  if (!RefusesConnections("127.0.0.1:7411", Duration::Millis(1000))) {
    GTEST_SKIP() << "not run: something listens on 127.0.0.1:7411";
  }
  const std::string program = CopyProgram(path("tree/build"));
  const std::string ids = Write("ids", "5 17 60");
  const std::vector<std::string> args = {program, "generate", "--ids", ids, "--json"};
  const ProcessResult missing = RunProcess(args, kTimeoutMs);
  EXPECT_EQ(missing.exit_code, 4);
  EXPECT_THAT(LastLine(missing.stderr_text),
              AllOf(HasSubstr(path("tree/models/tiny")), HasSubstr("--model")));

  std::filesystem::create_directories(path("tree/models"));
  ASSERT_EQ(Octet({"pack", Golden("mixtral-f32"), path("tree/models/tiny")}).exit_code, 0);
  const ProcessResult found = RunProcess(args, kTimeoutMs);
  EXPECT_EQ(found.exit_code, 0) << found.stderr_text;
  EXPECT_TRUE(json::accept(found.stdout_text));
  EXPECT_THAT(found.stderr_text, HasSubstr("using the embedded model"));
}

TEST_F(BinaryTest, InstalledProgramFindsTheModelInstalledWithIt) {
  const std::string prefix = path("prefix");
  const ProcessResult install =
      RunProcess({"cmake", "--install", OCTET_BINARY_DIR, "--prefix", prefix}, kTimeoutMs);
  ASSERT_EQ(install.exit_code, 0) << install.stderr_text;
  const std::string model = prefix + "/share/octet/models/tiny";
  const bool shipped = std::filesystem::exists(OCTET_SOURCE_DIR "/models/tiny/manifest.json");
  EXPECT_EQ(std::filesystem::exists(model + "/manifest.json"), shipped);
  if (!shipped) {
    std::filesystem::create_directories(prefix + "/share/octet/models");
    ASSERT_EQ(Octet({"pack", Golden("mixtral-f32"), model}).exit_code, 0);
  }
  const ProcessResult inspect = RunProcess({prefix + "/bin/octet", "inspect"}, kTimeoutMs);
  EXPECT_EQ(inspect.exit_code, 0) << inspect.stderr_text;
  EXPECT_THAT(inspect.stdout_text, HasSubstr(model));
}

TEST_F(BinaryTest, EvalScoresEachTokenAfterTheFirst) {
  std::string text;
  for (int i = 0; i < 40; ++i) text += std::to_string((i * 7 + 3) % 96) + " ";
  const std::string ids = Write("ids", text);
  const std::vector<std::string> args = {"eval",  "--model", Golden("mixtral-f32"),
                                         "--ids", ids,       "--json"};
  const ProcessResult result = Octet(args);
  ASSERT_EQ(result.exit_code, 0) << result.stderr_text;
  const json report = json::parse(result.stdout_text);
  ASSERT_EQ(report["tokens"].size(), 40u);
  ASSERT_EQ(report["logprobs"].size(), 39u);
  double sum = 0;
  for (const auto& logprob : report["logprobs"]) {
    EXPECT_LT(logprob.get<double>(), 0);
    sum += logprob.get<double>();
  }
  EXPECT_NEAR(report["perplexity"].get<double>(), std::exp(-sum / 39), 1e-3);
  const auto check_gate = [](const json& gate) {
    EXPECT_EQ(gate["entropy_unit"], "bits");
    ASSERT_EQ(gate["layers"].size(), 2u);
    for (const json& layer : gate["layers"]) {
      // Each token once, in two of four experts.
      EXPECT_EQ(layer["rows"], 40);
      uint64_t sum = 0, most = 0;
      for (const uint64_t n : layer["tokens_per_expert"].get<std::vector<uint64_t>>()) {
        sum += n;
        most = std::max(most, n);
      }
      EXPECT_EQ(sum, 80u);
      EXPECT_NEAR(layer["max_over_mean"].get<double>(), static_cast<double>(most) / 20, 1e-9);
      EXPECT_GT(layer["entropy"].get<double>(), 0.0);
      EXPECT_LE(layer["entropy"].get<double>(), 2.0);
    }
  };
  check_gate(report["gate"]);
  // Windows that reach back to the start give the same numbers as far as they do.
  std::vector<std::string> windowed = args;
  windowed.push_back("--window=20");
  const json short_windows = json::parse(Octet(windowed).stdout_text);
  ASSERT_EQ(short_windows["logprobs"].size(), 39u);
  for (int i = 0; i < 19; ++i) EXPECT_EQ(short_windows["logprobs"][i], report["logprobs"][i]);
  EXPECT_NE(short_windows["logprobs"][38], report["logprobs"][38]);
  check_gate(short_windows["gate"]);
}

TEST_F(BinaryTest, PackedModelGivesTheSameTokensAsItsSource) {
  const std::string packed = path("packed");
  const ProcessResult pack =
      Octet({"pack", Golden("mixtral-f32"), packed, "--experts", "f32", "--attention", "f32"});
  ASSERT_EQ(pack.exit_code, 0) << pack.stderr_text;
  const std::string ids = Write("ids", "5 17 60");
  const auto tokens = [&](const std::vector<std::string>& model) {
    std::vector<std::string> args = {"generate", "--ids", ids, "--json", "--ignore-eos"};
    args.insert(args.end(), model.begin(), model.end());
    return json::parse(Octet(args).stdout_text)["token_ids"];
  };
  EXPECT_EQ(tokens({"--model", packed}),
            tokens({"--model", Golden("mixtral-f32"), "--experts=f32", "--attention=f32"}));
  const ProcessResult inspect = Octet({"inspect", packed});
  EXPECT_EQ(inspect.exit_code, 0);
  EXPECT_THAT(inspect.stdout_text, HasSubstr("4, top 2"));
  const ProcessResult manifest = Octet({"inspect", packed, "--json"});
  EXPECT_TRUE(json::accept(manifest.stdout_text));
  EXPECT_NE(Octet({"pack", Golden("mixtral-f32"), packed}).exit_code, 0) << "it is there already";
}

TEST_F(BinaryTest, PackRefusesAnUnknownFormat) {
  const ProcessResult result =
      Octet({"pack", Golden("mixtral-f32"), path("p"), "--experts", "int5"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(LastLine(result.stderr_text), HasSubstr("int5"));
}

TEST_F(BinaryTest, BenchReportsEveryFigure) {
  const ProcessResult result =
      Octet({"bench", "--model", Golden("mixtral-f32"), "--requests", "3", "--concurrency", "2",
             "--prompt-tokens", "8", "--max-tokens", "4", "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.stderr_text;
  const json report = json::parse(result.stdout_text);
  EXPECT_EQ(report["requests"], 3);
  EXPECT_EQ(report["failed"], 0);
  for (const char* figure : {"ttft_ms", "tpot_ms", "itl_ms", "e2e_ms"}) {
    EXPECT_GT(report[figure]["p99"].get<double>(), 0) << figure;
  }
  EXPECT_GT(report["output_tokens_per_s"].get<double>(), 0);
}

TEST_F(BinaryTest, BenchRefusesADecodeRateThatNothingWasMeasuredFor) {
  const auto bench = [&](const std::vector<std::string>& settings) {
    std::vector<std::string> command = {
        "bench", "--engine", "--model", Golden("mixtral-f32"), "--json", "--prompt-tokens", "8"};
    command.insert(command.end(), settings.begin(), settings.end());
    return Octet(command);
  };
  const ProcessResult one_token = bench({"--max-tokens", "1"});
  EXPECT_EQ(one_token.exit_code, 2);
  EXPECT_EQ(one_token.stdout_text, "");
  EXPECT_THAT(LastLine(one_token.stderr_text),
              AllOf(HasSubstr("max-tokens: 1"), HasSubstr("at least 2")));
  // One after the other, never together.
  const ProcessResult apart =
      bench({"--max-tokens", "4", "--concurrency", "2", "--running-max", "1"});
  EXPECT_NE(apart.exit_code, 0);
  EXPECT_EQ(apart.stdout_text, "");
  EXPECT_THAT(LastLine(apart.stderr_text),
              AllOf(HasSubstr("2 sequences"), HasSubstr("--running-max")));
  const ProcessResult good = bench({"--max-tokens", "4", "--concurrency", "1"});
  ASSERT_EQ(good.exit_code, 0) << good.stderr_text;
  EXPECT_GT(json::parse(good.stdout_text)["decode_tokens_per_s"].get<double>(), 0);
}

TEST_F(BinaryTest, PortInUseIsNamed) {
  ChildProcess first({OctetBinary(), "coordinator", "--listen", "127.0.0.1:0"});
  ASSERT_TRUE(first.WaitForOutput("listening on ", kTimeoutMs));
  const std::string log = first.StderrText();
  const size_t at = log.find("127.0.0.1:");
  const std::string address = log.substr(at, log.find_first_of(", \n", at) - at);
  const ProcessResult second = Octet({"coordinator", "--listen", address});
  EXPECT_EQ(second.exit_code, 3);
  EXPECT_THAT(LastLine(second.stderr_text), AllOf(HasSubstr(address), HasSubstr("in use")));
  first.Signal(SIGTERM);
  int status = -1;
  ASSERT_TRUE(first.WaitForExit(kTimeoutMs, &status));
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace octet
