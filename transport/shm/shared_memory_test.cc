#include "transport/shm/shared_memory.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

namespace octet {
namespace {

constexpr size_t kBytes = 8192;

OwnedFd Memfd(size_t bytes, int seals) {
  OwnedFd fd(memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  EXPECT_EQ(ftruncate(fd.get(), static_cast<off_t>(bytes)), 0);
  EXPECT_EQ(fcntl(fd.get(), F_ADD_SEALS, seals), 0);
  return fd;
}

TEST(SharedMemory, BothMappingsSeeTheSameBytes) {
  const SharedMemory mine = SharedMemory::Create("test", kBytes).value();
  const SharedMemory theirs = SharedMemory::Map(OwnedFd(dup(mine.fd())), kBytes).value();
  EXPECT_NE(mine.data(), theirs.data());
  EXPECT_EQ(theirs.data()[kBytes - 1], 0);
  mine.data()[kBytes - 1] = 7;
  EXPECT_EQ(theirs.data()[kBytes - 1], 7);
}

TEST(SharedMemory, NobodyCanTakeItsPagesAway) {
  const SharedMemory memory = SharedMemory::Create("test", kBytes).value();
  EXPECT_NE(ftruncate(memory.fd(), 0), 0);
  EXPECT_NE(ftruncate(memory.fd(), 2 * kBytes), 0);
  EXPECT_NE(fcntl(memory.fd(), F_ADD_SEALS, F_SEAL_WRITE), 0);
}

TEST(SharedMemory, OnlyASealedMemfdOfTheRightSizeIsMapped) {
  constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
  EXPECT_TRUE(SharedMemory::Map(Memfd(kBytes, kSeals), kBytes).ok());
  const auto refused = [](OwnedFd fd) {
    return absl::IsInvalidArgument(SharedMemory::Map(std::move(fd), kBytes).status());
  };
  EXPECT_TRUE(refused(Memfd(kBytes - 4096, kSeals)));
  EXPECT_TRUE(refused(Memfd(kBytes + 4096, kSeals)));
  EXPECT_TRUE(refused(Memfd(kBytes, F_SEAL_GROW | F_SEAL_SEAL)));
  EXPECT_TRUE(refused(Memfd(kBytes, F_SEAL_SHRINK | F_SEAL_SEAL)));
  EXPECT_TRUE(refused(Memfd(kBytes, F_SEAL_SHRINK | F_SEAL_GROW)));
  EXPECT_TRUE(refused(Memfd(kBytes, kSeals | F_SEAL_WRITE)));
  char name[] = "/tmp/octet-test-XXXXXX";
  OwnedFd file(mkstemp(name));
  ASSERT_EQ(ftruncate(file.get(), kBytes), 0);
  unlink(name);
  EXPECT_TRUE(refused(std::move(file)));
  EXPECT_TRUE(refused(OwnedFd(open("/dev/null", O_RDWR | O_CLOEXEC))));
  EXPECT_TRUE(refused(OwnedFd()));
}

}  // namespace
}  // namespace octet
