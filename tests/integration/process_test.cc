#include "tests/integration/process.h"

#include <signal.h>

#include <filesystem>
#include <string>

#include "gtest/gtest.h"

namespace octet {
namespace {

TEST(Process, CapturesOutputAndExitCode) {
  const ProcessResult result =
      RunProcess({"sh", "-c", "echo $OCTET_X; echo bad >&2; exit 3"}, 10'000, {{"OCTET_X", "y"}});
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_EQ(result.stdout_text, "y\n");
  EXPECT_EQ(result.stderr_text, "bad\n");
}

TEST(Process, MissingProgramAndTimeout) {
  EXPECT_EQ(RunProcess({"/nonexistent/program"}, 10'000).exit_code, 127);
  EXPECT_EQ(RunProcess({"sh", "-c", "read x < /dev/zero"}, 200).exit_code, 124);
}

TEST(Process, SignalsAndOutputAreSeen) {
  ChildProcess child({"sh", "-c", "echo up; exec tail -f /dev/null"});
  ASSERT_TRUE(child.WaitForOutput("up\n", 10'000));
  EXPECT_TRUE(ProcessAlive(child.pid()));
  child.Signal(SIGTERM);
  int status = 0;
  ASSERT_TRUE(child.WaitForExit(10'000, &status));
  EXPECT_EQ(status, 128 + SIGTERM);
  EXPECT_FALSE(ProcessAlive(child.pid()));
}

TEST(Process, TemporaryDirectoryGoesAway) {
  std::string path;
  {
    const TemporaryDirectory directory;
    path = directory.path();
    EXPECT_TRUE(std::filesystem::is_directory(path));
  }
  EXPECT_FALSE(std::filesystem::exists(path));
}

}  // namespace
}  // namespace octet
