#include "expert_worker/scrubber.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <future>
#include <string>
#include <vector>

#include "core/limits.h"
#include "core/sha256.h"
#include "expert_worker/test_util.h"
#include "model/mapped_file.h"

namespace octet {
namespace {

using ::testing::HasSubstr;

constexpr size_t kBytes = 2 * kDigestLeafBytes + 777;  // three leaves

class ScrubberTest : public ::testing::Test {
 protected:
  ScrubberTest() {
    std::string path = testing::TempDir() + "octet-scrubber-XXXXXX";
    const int file = mkstemp(path.data());
    EXPECT_GE(file, 0);
    std::string content(kBytes, '\0');
    for (size_t i = 0; i < content.size(); ++i) content[i] = static_cast<char>(i * 31 >> 3);
    EXPECT_EQ(write(file, content.data(), content.size()), static_cast<ssize_t>(content.size()));
    close(file);
    path_ = path;
    auto mapped = MappedFile::Open(path_);
    EXPECT_TRUE(mapped.ok()) << mapped.status();
    expert_.memory = *mapped;
    expert_.file = (*mapped)->bytes();
    expert_.bytes = kBytes;
    expert_.digest =
        DigestHex(TreeSha256(reinterpret_cast<const uint8_t*>(content.data()), content.size()));
    WorkerModel model = MakeTestModel();
    model.load = [this](ExpertId) -> absl::StatusOr<MappedExpert> { return expert_; };
    store_ = std::make_unique<ExpertStore>(std::move(model));
    EXPECT_TRUE(store_->Prepare(Epoch(1), {ExpertId(2)}).ok());
  }
  ~ScrubberTest() override { std::filesystem::remove(path_); }

  // Another value for the byte at `offset` of the file, which the mapping sees.
  void Flip(size_t offset) const {
    const int file = open(path_.c_str(), O_RDWR | O_CLOEXEC);
    ASSERT_GE(file, 0);
    char byte = 0;
    ASSERT_EQ(pread(file, &byte, 1, static_cast<off_t>(offset)), 1);
    byte = static_cast<char>(byte ^ 4);
    ASSERT_EQ(pwrite(file, &byte, 1, static_cast<off_t>(offset)), 1);
    close(file);
  }

  std::string path_;
  MappedExpert expert_;
  std::unique_ptr<ExpertStore> store_;
};

TEST_F(ScrubberTest, AFlippedBitOfEveryLeafIsFound) {
  const auto go_on = [] { return true; };
  EXPECT_TRUE(VerifyExpert(ExpertId(2), expert_, go_on).ok());
  for (const size_t offset : {size_t{0}, size_t{4095}, size_t{kDigestLeafBytes}, kBytes - 1}) {
    Flip(offset);
    const absl::Status status = VerifyExpert(ExpertId(2), expert_, go_on);
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << offset;
    EXPECT_THAT(std::string(status.message()), HasSubstr("expert 2"));
    Flip(offset);
    EXPECT_TRUE(VerifyExpert(ExpertId(2), expert_, go_on).ok());
  }
}

TEST_F(ScrubberTest, StopsBetweenLeaves) {
  int leaves = 0;
  const absl::Status status = VerifyExpert(ExpertId(2), expert_, [&] { return ++leaves < 2; });
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(leaves, 2);
}

TEST_F(ScrubberTest, WeightsThatAreNotInAFileAreLeftAlone) {
  expert_.file = {};
  expert_.digest = "none";
  EXPECT_TRUE(VerifyExpert(ExpertId(2), expert_, [] { return true; }).ok());
}

TEST_F(ScrubberTest, FindsDamageThatComesWhileItServes) {
  std::promise<absl::Status> found;
  ScrubOptions options;
  options.period = Duration::Millis(5);
  options.core_share = 1;
  const Scrubber scrubber(store_.get(), options,
                          [&](const absl::Status& status) { found.set_value(status); });
  while (scrubber.stats().passes < 3) std::this_thread::yield();
  EXPECT_EQ(scrubber.stats().last_bytes, kBytes);
  Flip(kBytes / 2);
  EXPECT_EQ(found.get_future().get().code(), absl::StatusCode::kDataLoss);
}

TEST_F(ScrubberTest, EndsAtOnceInTheMiddleOfALongPass) {
  ScrubOptions options;
  options.period = Duration::Millis(3'600'000);
  const Scrubber scrubber(store_.get(), options, [](const absl::Status&) {});
}

}  // namespace
}  // namespace octet
