// Wrong use of real processes ends with one clear line, never with a crash.
#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <fstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/integration/local_cluster.h"

namespace octet {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;

constexpr int64_t kCommandMs = 60'000;

std::string LastLine(std::string text) {
  while (!text.empty() && text.back() == '\n') text.pop_back();
  const size_t at = text.rfind('\n');
  return at == std::string::npos ? text : text.substr(at + 1);
}

// A port that somebody listens on for as long as this lives.
class TakenPort {
 public:
  TakenPort() : file_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    EXPECT_EQ(bind(file_, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    EXPECT_EQ(listen(file_, 1), 0);
    EXPECT_EQ(getsockname(file_, reinterpret_cast<sockaddr*>(&address), &size), 0);
    address_ = "127.0.0.1:" + std::to_string(ntohs(address.sin_port));
  }
  ~TakenPort() { close(file_); }
  const std::string& address() const { return address_; }

 private:
  int file_;
  std::string address_;
};

class BadInputTest : public ::testing::Test {
 protected:
  std::string Write(const std::string& name, const std::string& text) const {
    const std::string path = directory_.path() + "/" + name;
    std::ofstream(path) << text;
    return path;
  }
  TemporaryDirectory directory_;
};

TEST_F(BadInputTest, PortInUseIsNamedByEveryRole) {
  const TakenPort taken;
  const std::string package =
      PackTestModel(directory_.path(), {"--experts", "f32", "--attention", "f32"});
  const std::vector<std::vector<std::string>> roles = {
      {"coordinator"},
      {"worker", "--model", package},
      {"router", "--model", package},
      {"up", "--model", package, "--workers", "1"}};
  for (const auto& role : roles) {
    std::vector<std::string> argv = {OctetBinary()};
    argv.insert(argv.end(), role.begin(), role.end());
    argv.insert(argv.end(), {"--listen", taken.address()});
    const ProcessResult result = RunProcess(argv, kCommandMs);
    EXPECT_NE(result.exit_code, 0) << role[0];
    EXPECT_LT(result.exit_code, 124) << role[0] << result.stderr_text;
    EXPECT_THAT(LastLine(result.stderr_text), HasSubstr(taken.address())) << role[0];
  }
}

TEST_F(BadInputTest, UnknownFlagAndYamlKeyNameTheNearest) {
  const ProcessResult flag =
      RunProcess({OctetBinary(), "router", "--kv-cache-byte", "1"}, kCommandMs);
  EXPECT_EQ(flag.exit_code, 2);
  EXPECT_THAT(LastLine(flag.stderr_text), HasSubstr("--kv-cache-bytes"));
  const std::string file = Write("octet.yaml", "listen: 127.0.0.1:0\nreplicaton: 2\n");
  const ProcessResult key =
      RunProcess({OctetBinary(), "coordinator", "--config", file}, kCommandMs);
  EXPECT_EQ(key.exit_code, 2);
  EXPECT_THAT(LastLine(key.stderr_text),
              AllOf(HasSubstr("replicaton"), HasSubstr("replication"), HasSubstr("octet.yaml")));
}

TEST_F(BadInputTest, RouterOfAnotherModelIsToldSo) {
  const std::string first =
      PackTestModel(directory_.path(), {"--experts", "f32", "--attention", "f32"});
  const TemporaryDirectory other_directory;
  const std::string second =
      PackTestModel(other_directory.path(), {"--experts", "int8", "--attention", "f32"});
  ChildProcess coordinator(
      {OctetBinary(), "coordinator", "--listen", "127.0.0.1:0", "--versions-max", "1"});
  const std::string mark = "listening on ";
  ASSERT_TRUE(coordinator.WaitForOutput(mark, kCommandMs));
  ASSERT_TRUE(PollUntil([&] { return coordinator.StderrText().find(mark) != std::string::npos; },
                        kCommandMs));
  const std::string log = coordinator.StderrText();
  const size_t begin = log.find(mark) + mark.size();
  const std::string address = log.substr(begin, log.find_first_of(" ,\n", begin) - begin);
  ChildProcess worker({OctetBinary(), "worker", "--listen", "127.0.0.1:0", "--coordinator", address,
                       "--model", first});
  const auto client = Client::Connect(address);
  ASSERT_TRUE(client.ok());
  ASSERT_TRUE(PollUntil(
      [&] {
        const auto status = (*client)->Status();
        return status.ok() && ReadyWorkers(*status) == 1;
      },
      kCommandMs))
      << worker.StderrText();
  ChildProcess router({OctetBinary(), "router", "--listen", "127.0.0.1:0", "--coordinator", address,
                       "--model", second});
  EXPECT_TRUE(router.WaitForOutput("digest", kCommandMs)) << router.StderrText();
  // Never ready: it would compute with other weights than the workers.
  const auto status = (*client)->Status();
  ASSERT_TRUE(status.ok());
  EXPECT_FALSE(status->ready());
}

TEST_F(BadInputTest, NoServerIsUnavailableWithAHint) {
  std::string address;
  {
    const TakenPort taken;
    address = taken.address();
  }
  const ProcessResult result =
      RunProcess({OctetBinary(), "status", "--server", address, "--attempts", "1"}, kCommandMs);
  EXPECT_EQ(result.exit_code, 3) << result.stderr_text;
  EXPECT_THAT(result.stderr_text, HasSubstr(address));
}

TEST_F(BadInputTest, MissingModelIsNamed) {
  for (const char* role : {"worker", "router"}) {
    const ProcessResult result = RunProcess(
        {OctetBinary(), role, "--listen", "127.0.0.1:0", "--model", "/nonexistent/model"},
        kCommandMs);
    EXPECT_THAT(result.exit_code, AnyOf(2, 4)) << role;
    EXPECT_THAT(LastLine(result.stderr_text), HasSubstr("/nonexistent/model")) << role;
  }
}

}  // namespace
}  // namespace octet
