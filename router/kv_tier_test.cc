#include "router/kv_tier.h"

#include <sys/stat.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <future>
#include <string>
#include <vector>

#include "core/limits.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace octet {
namespace {

using testing::HasSubstr;

constexpr size_t kBlockBytes = 4096;

KvTierKey Key(uint8_t number) {
  KvTierKey key;
  key.key.fill(number);
  key.previous.fill(static_cast<uint8_t>(number + 1));
  for (uint32_t i = 0; i < kKvBlockPositions; ++i) {
    key.tokens.push_back(static_cast<TokenId>(number * 100 + i));
  }
  return key;
}

std::vector<uint8_t> Data(uint8_t number) {
  std::vector<uint8_t> data(kBlockBytes);
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<uint8_t>(number + i * 7);
  return data;
}

class KvTierTest : public testing::Test {
 protected:
  KvTierTest() {
    std::string path = testing::TempDir() + "octet-kv-tier-XXXXXX";
    EXPECT_NE(mkdtemp(path.data()), nullptr);
    directory_ = path + "/tier";
  }
  ~KvTierTest() override {
    std::filesystem::remove_all(std::filesystem::path(directory_).parent_path());
  }

  std::unique_ptr<KvTier> Open(uint64_t bytes_max = 1 << 20) {
    auto tier = KvTier::Open({directory_, bytes_max, kBlockBytes});
    EXPECT_TRUE(tier.ok()) << tier.status();
    return tier.ok() ? *std::move(tier) : nullptr;
  }
  // Stores blocks and waits until they are files.
  void Store(std::vector<uint8_t> numbers, uint64_t bytes_max = 1 << 20) {
    const auto tier = Open(bytes_max);
    for (const uint8_t n : numbers) tier->Store(Key(n), Data(n).data());
  }
  static std::vector<StagedBlock> Fetch(KvTier* tier, std::vector<KvTierKey> keys) {
    std::promise<std::vector<StagedBlock>> promise;
    tier->Fetch(std::move(keys),
                [&](std::vector<StagedBlock> blocks) { promise.set_value(std::move(blocks)); });
    return promise.get_future().get();
  }
  size_t Files() const {
    size_t files = 0;
    for ([[maybe_unused]] const auto& file : std::filesystem::directory_iterator(directory_)) {
      ++files;
    }
    return files;
  }
  std::string OnlyFile() const {
    return std::filesystem::directory_iterator(directory_)->path().string();
  }

  std::string directory_;
};

TEST_F(KvTierTest, WhatOneStoresAnotherReads) {
  Store({1, 2});
  const auto tier = Open();
  const auto blocks = Fetch(tier.get(), {Key(1), Key(2), Key(3)});
  ASSERT_EQ(blocks.size(), 2u);
  EXPECT_EQ(blocks[0].bytes(), Data(1));
  EXPECT_EQ(blocks[1].bytes(), Data(2));
  EXPECT_EQ(tier->stats().read, 2u);
  // The chain ends at the first one that is missing.
  EXPECT_TRUE(Fetch(tier.get(), {Key(3), Key(1)}).empty());
}

TEST_F(KvTierTest, FilesAreForTheirOwnerAlone) {
  Store({1});
  struct stat status;
  ASSERT_EQ(stat(OnlyFile().c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  ASSERT_EQ(stat(directory_.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0700u);
}

TEST_F(KvTierTest, EveryFlippedByteAndEveryLengthIsNoticed) {
  Store({1});
  const std::string file = OnlyFile();
  std::ifstream in(file, std::ios::binary);
  const std::string good((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  const auto tier = Open();
  const auto read = [&](const std::string& bytes) {
    std::ofstream(file, std::ios::binary) << bytes;
    return Fetch(tier.get(), {Key(1)}).size();
  };
  for (size_t i = 0; i < good.size(); i += i < 400 ? 1 : 97) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ (1 << i % 8));
    ASSERT_EQ(read(bad), 0u) << "byte " << i;
    ASSERT_FALSE(std::filesystem::exists(file)) << "a damaged file stays";
  }
  for (const size_t length : {size_t{0}, size_t{10}, good.size() / 2, good.size() - 1}) {
    EXPECT_EQ(read(good.substr(0, length)), 0u);
  }
  EXPECT_EQ(read(good + "x"), 0u);
  EXPECT_GT(tier->stats().damaged, 400u);
  EXPECT_EQ(read(good), 1u);
}

TEST_F(KvTierTest, AKeyWithOtherTokensOrAnotherParentFindsNothing) {
  Store({1});
  const auto tier = Open();
  KvTierKey other = Key(1);
  other.tokens[63] += 1;
  EXPECT_TRUE(Fetch(tier.get(), {other}).empty());
  Store({1});
  other = Key(1);
  other.previous[0] ^= 1;
  EXPECT_TRUE(Fetch(tier.get(), {other}).empty());
}

TEST_F(KvTierTest, TheLimitHoldsAndTheNewestStay) {
  const uint64_t limit = 10 * (kBlockBytes + 400);
  std::vector<uint8_t> numbers;
  for (uint8_t n = 0; n < 40; ++n) numbers.push_back(n);
  Store(numbers, limit);
  uint64_t bytes = 0;
  for (const auto& file : std::filesystem::directory_iterator(directory_)) {
    bytes += file.file_size();
  }
  EXPECT_LE(bytes, limit);
  EXPECT_GE(Files(), 5u);
  const auto tier = Open(limit);
  EXPECT_EQ(Fetch(tier.get(), {Key(39)}).size(), 1u);
  EXPECT_EQ(Fetch(tier.get(), {Key(0)}).size(), 0u);
}

TEST_F(KvTierTest, ClearedItHasNothingAndGoesOn) {
  Store({1, 2});
  {
    const auto tier = Open();
    tier->Clear();
    EXPECT_TRUE(Fetch(tier.get(), {Key(1)}).empty());
    EXPECT_EQ(Files(), 0u);
    tier->Store(Key(3), Data(3).data());
  }
  EXPECT_EQ(Files(), 1u);
  EXPECT_EQ(Fetch(Open().get(), {Key(3)}).size(), 1u);
}

TEST_F(KvTierTest, WhatAWriterLeftUnfinishedIsNoBlock) {
  Store({1});
  std::filesystem::rename(OnlyFile(), directory_ + "/.1-1.tmp");
  const auto tier = Open();
  EXPECT_TRUE(Fetch(tier.get(), {Key(1)}).empty());
  tier->Store(Key(1), Data(1).data());
}

TEST_F(KvTierTest, AFailedWriteEndsWritingAndNothingElse) {
  Store({1});
  const auto tier = Open();
  EXPECT_EQ(Fetch(tier.get(), {Key(1)}).size(), 1u);
  std::filesystem::remove_all(directory_);
  for (int i = 0; i < 1000 && !tier->stats().disabled; ++i) {
    tier->Store(Key(2), Data(2).data());
    Fetch(tier.get(), {});  // comes after what was queued, or before it
  }
  EXPECT_TRUE(tier->stats().disabled);
  EXPECT_GT(tier->stats().dropped, 0u);
  EXPECT_TRUE(Fetch(tier.get(), {Key(2)}).empty());
}

TEST_F(KvTierTest, BadSettingsAreNamed) {
  EXPECT_THAT(std::string(KvTier::Open({directory_, 100, kBlockBytes}).status().message()),
              HasSubstr("kv_tier_bytes: 100"));
  const std::string file = directory_ + "-file";
  std::ofstream(file) << "x";
  EXPECT_THAT(std::string(KvTier::Open({file, 1 << 20, kBlockBytes}).status().message()),
              HasSubstr("kv_tier_dir: " + file));
}

}  // namespace
}  // namespace octet
