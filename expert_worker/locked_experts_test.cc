#include "expert_worker/locked_experts.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <fstream>
#include <string>

#include "absl/strings/match.h"
#include "expert_worker/test_util.h"

namespace octet {
namespace {

// Locked memory of this process, in KiB.
uint64_t LockedKib() {
  std::ifstream status("/proc/self/status");
  std::string word;
  uint64_t kib = 0;
  while (status >> word) {
    if (word == "VmLck:") status >> kib;
  }
  return kib;
}

TEST(LockedExpertsTest, PagesAreLockedFromLoadToRelease) {
  TestModelShape shape;
  shape.hidden = 256;
  shape.intermediate = 512;
  const WorkerModel model = LockedWorkerModel(MakeTestModel(shape));
  const uint64_t before = LockedKib();
  {
    const auto expert = model.load(ExpertId(0));
    if (absl::IsResourceExhausted(expert.status())) {
      GTEST_SKIP() << "not run: locked memory (" << expert.status().message() << ")";
    }
    ASSERT_TRUE(expert.ok()) << expert.status();
    const uint64_t weights = 2 * 3 * 256 * 512 / 1024;  // int8, two layers
    EXPECT_GE(LockedKib(), before + weights);
    EXPECT_EQ(expert->layers.size(), shape.layers);
  }
  EXPECT_EQ(LockedKib(), before);
}

// Ends the process with 0 where a load past the limit says what it is. Without root's right to pass
// limits, and in a process of its own, as they cannot be raised again.
[[noreturn]] void LoadPastTheLimit() {
  rlimit none{};
  none.rlim_cur = none.rlim_max = 0;
  const bool limited = setrlimit(RLIMIT_MEMLOCK, &none) == 0 &&
                       (getuid() != 0 || (setgid(65534) == 0 && setuid(65534) == 0));
  if (!limited) exit(2);
  const absl::Status status = LockedWorkerModel(MakeTestModel()).load(ExpertId(0)).status();
  const bool right = absl::IsResourceExhausted(status) &&
                     absl::StrContains(status.message(), "(ulimit -l) is 0 bytes");
  if (!right) fprintf(stderr, "%s\n", status.ToString().c_str());
  exit(right ? 0 : 1);
}

TEST(LockedExpertsTest, TheLimitOfLockedMemoryIsNamed) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(LoadPastTheLimit(), ::testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace octet
