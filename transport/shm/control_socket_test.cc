#include "transport/shm/control_socket.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>

namespace octet {
namespace {

class ControlSocketTest : public ::testing::Test {
 protected:
  ControlSocketTest() {
    char name[] = "/tmp/octet-test-XXXXXX";
    EXPECT_NE(mkdtemp(name), nullptr);
    directory_ = name;
  }
  ~ControlSocketTest() override {
    unlink(path().c_str());
    rmdir(directory_.c_str());
  }
  std::string path() const { return directory_ + "/w.sock"; }

  std::string directory_;
};

TEST_F(ControlSocketTest, CarriesAMessageAndItsFiles) {
  const OwnedFd listener = ListenControl(path()).value();
  struct stat status;
  ASSERT_EQ(stat(path().c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777u, 0600u);
  const OwnedFd mine = ConnectControl(path()).value();
  const OwnedFd theirs = AcceptControl(listener.get());
  ASSERT_TRUE(theirs.open());
  int pipes[2];
  ASSERT_EQ(pipe(pipes), 0);
  const OwnedFd read_end(pipes[0]);
  const OwnedFd write_end(pipes[1]);
  const uint64_t sent = 42;
  ASSERT_TRUE(SendControl(mine.get(), &sent, sizeof(sent), {write_end.get()}).ok());
  uint64_t got = 0;
  const auto files = ReceiveControl(theirs.get(), &got, sizeof(got), 1, Duration::Millis(20'000));
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_EQ(got, 42u);
  char byte = 'x';
  EXPECT_EQ(write((*files)[0].get(), &byte, 1), 1);
  EXPECT_EQ(read(read_end.get(), &byte, 1), 1);
}

TEST_F(ControlSocketTest, AnotherSizeOrNumberOfFilesIsRefused) {
  const OwnedFd listener = ListenControl(path()).value();
  const auto refused = [&](size_t bytes, const std::vector<int>& files) {
    const OwnedFd mine = ConnectControl(path()).value();
    const OwnedFd theirs = AcceptControl(listener.get());
    const uint64_t sent[2] = {};
    EXPECT_TRUE(SendControl(mine.get(), sent, bytes, files).ok());
    uint64_t got = 0;
    return absl::IsInvalidArgument(
        ReceiveControl(theirs.get(), &got, sizeof(got), 1, Duration::Millis(20'000)).status());
  };
  EXPECT_TRUE(refused(sizeof(uint64_t), {}));
  EXPECT_TRUE(refused(sizeof(uint64_t), {0, 0}));
  EXPECT_TRUE(refused(sizeof(uint64_t) - 1, {0}));
  EXPECT_TRUE(refused(sizeof(uint64_t) + 1, {0}));
}

TEST_F(ControlSocketTest, ASilentPeerIsWaitedForOnlySoLong) {
  const OwnedFd listener = ListenControl(path()).value();
  const OwnedFd mine = ConnectControl(path()).value();
  uint64_t got = 0;
  EXPECT_TRUE(absl::IsDeadlineExceeded(
      ReceiveControl(mine.get(), &got, sizeof(got), 0, Duration::Millis(10)).status()));
}

TEST_F(ControlSocketTest, AWaitThatIsNoLongerWantedEnds) {
  const OwnedFd listener = ListenControl(path()).value();
  const OwnedFd mine = ConnectControl(path()).value();
  int pipes[2];
  ASSERT_EQ(pipe(pipes), 0);
  const OwnedFd stop(pipes[0]);
  const OwnedFd write_end(pipes[1]);
  ASSERT_EQ(write(write_end.get(), "x", 1), 1);
  uint64_t got = 0;
  EXPECT_TRUE(absl::IsCancelled(
      ReceiveControl(mine.get(), &got, sizeof(got), 0, Duration::Millis(600'000), stop.get())
          .status()));
}

TEST_F(ControlSocketTest, ADirectoryThatOthersReachIntoIsRefused) {
  EXPECT_TRUE(PrepareShmDirectory(directory_).ok());
  const OwnedFd listener = ListenControl(path()).value();
  ASSERT_EQ(chmod(directory_.c_str(), 0750), 0);
  EXPECT_TRUE(absl::IsPermissionDenied(PrepareShmDirectory(directory_)));
  EXPECT_TRUE(absl::IsPermissionDenied(ConnectControl(path()).status()));
  ASSERT_EQ(chmod(directory_.c_str(), 0700), 0);
  EXPECT_TRUE(ConnectControl(path()).ok());
  const std::string link = directory_ + "-link";
  ASSERT_EQ(symlink(directory_.c_str(), link.c_str()), 0);
  EXPECT_TRUE(absl::IsPermissionDenied(PrepareShmDirectory(link)));
  unlink(link.c_str());
}

TEST_F(ControlSocketTest, AnAddressNamesOneFileOfTheDirectory) {
  EXPECT_EQ(ShmSocketPath("/d", "127.0.0.1:7412").value(), "/d/127.0.0.1:7412.sock");
  EXPECT_TRUE(absl::IsInvalidArgument(ShmSocketPath("/d", "../x:1").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(ShmSocketPath("/d", "").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(ShmSocketPath("/d", std::string(200, 'a')).status()));
  EXPECT_EQ(ShmDirectory("/given"), "/given");
}

}  // namespace
}  // namespace octet
