// Opening the CUDA plugin: what is said where it is absent, is something else, or finds no device.
// It is opened once for a process, so each case has a process of its own.
#include "kernels/cuda_library.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "absl/strings/match.h"

namespace octet {
namespace {

// Ends the process with 0 where opening `library` gives `code` and a message that names `part`.
[[noreturn]] void OpenAndExit(const std::string& library, absl::StatusCode code,
                              const std::string& part) {
  setenv("OCTET_CUDA_LIBRARY", library.c_str(), 1);
  const absl::Status status = OpenCudaApi().status();
  const bool right = status.code() == code && absl::StrContains(status.message(), part);
  if (!right) fprintf(stderr, "%s\n", status.ToString().c_str());
  exit(right ? 0 : 1);
}

class CudaLibraryTest : public ::testing::Test {
 protected:
  CudaLibraryTest() { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

TEST_F(CudaLibraryTest, AnAbsentPluginIsNotFound) {
  EXPECT_EXIT(OpenAndExit("/nowhere/liboctet_cuda.so", absl::StatusCode::kNotFound,
                          "/nowhere/liboctet_cuda.so"),
              ::testing::ExitedWithCode(0), "");
}

TEST_F(CudaLibraryTest, AnotherLibraryIsNotOfThisBuild) {
  EXPECT_EXIT(OpenAndExit("libm.so.6", absl::StatusCode::kFailedPrecondition,
                          "libm.so.6 is not of this build"),
              ::testing::ExitedWithCode(0), "");
}

TEST_F(CudaLibraryTest, APluginWithoutADeviceSaysSo) {
  const absl::StatusOr<const cuda::CudaApi*> api = OpenCudaApi();
  if (api.ok()) GTEST_SKIP() << "not run: a machine without a CUDA device (this one has one)";
  if (absl::IsNotFound(api.status())) GTEST_SKIP() << "not run: CUDA plugin (not built)";
  EXPECT_TRUE(absl::IsUnavailable(api.status()) || absl::IsFailedPrecondition(api.status()))
      << api.status();
}

TEST(DeviceNameTest, KnowsItsFourForms) {
  using Kind = DeviceChoice::Kind;
  EXPECT_EQ(DeviceFromName("cpu")->kind, Kind::kCpu);
  EXPECT_EQ(DeviceFromName("auto")->kind, Kind::kAuto);
  EXPECT_EQ(DeviceFromName("cuda")->kind, Kind::kCuda);
  EXPECT_EQ(DeviceFromName("cuda:3")->kind, Kind::kCuda);
  EXPECT_EQ(DeviceFromName("cuda:3")->index, 3);
  for (const char* name : {"", "gpu", "cuda:", "cuda:-1", "cuda:x", "CUDA", "cuda:99999999999"}) {
    const absl::Status status = DeviceFromName(name).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << name;
    EXPECT_TRUE(absl::StrContains(status.message(), "allowed are auto, cpu, cuda and cuda:N"));
  }
}

}  // namespace
}  // namespace octet
