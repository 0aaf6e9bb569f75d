// Serving a source directly: packed once, into a cache that heals itself.
#include "model/package_cache.h"

#include <sys/stat.h>

#include <atomic>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "model/model_package.h"
#include "model/test_util.h"

namespace octet {
namespace {

class PackageCache : public ::testing::Test {
 protected:
  PackageCache() {
    source_ = directory_ / "model";
    CopyDirectory(OracleModel("mixtral-f32"), source_);
    options_.cache_directory = directory_ / "cache";
  }

  std::shared_ptr<const ModelPackage> Open() {
    packed_ = false;
    auto package = ModelPackage::Open(
        source_, options_, [this](absl::string_view, uint64_t, uint64_t) { packed_ = true; });
    EXPECT_TRUE(package.ok()) << package.status();
    return package.ok() ? *package : nullptr;
  }

  std::vector<std::string> Entries() {
    std::vector<std::string> out;
    for (const auto& entry : std::filesystem::directory_iterator(options_.cache_directory)) {
      if (entry.is_directory()) out.push_back(entry.path().string());
    }
    return out;
  }

  std::string ExpertBlob(const ModelPackage& package) {
    const auto loaded = LoadManifest(package.directory());
    EXPECT_TRUE(loaded.ok());
    return BlobPath(package.directory(), loaded->manifest.experts[1]);
  }

  TestDirectory directory_;
  std::string source_;
  ModelPackage::OpenOptions options_;
  bool packed_ = false;
};

TEST_F(PackageCache, PacksOnceAndServesFromThere) {
  const auto first = Open();
  ASSERT_NE(first, nullptr);
  EXPECT_TRUE(packed_);
  EXPECT_TRUE(absl::StartsWith(first->directory(), options_.cache_directory));
  const auto second = Open();
  ASSERT_NE(second, nullptr);
  EXPECT_FALSE(packed_);
  EXPECT_EQ(second->compute_digest(), first->compute_digest());
  EXPECT_EQ(Entries().size(), 1u);
  EXPECT_TRUE(second->MapRouter(1).ok());
}

TEST_F(PackageCache, ManyAtOncePackOnce) {
  std::atomic<int> packers{0};
  std::vector<std::thread> threads;
  std::atomic<int> opened{0};
  for (int i = 0; i < 6; ++i) {
    threads.emplace_back([&] {
      bool packed = false;
      const auto package = ModelPackage::Open(
          source_, options_, [&](absl::string_view, uint64_t, uint64_t) { packed = true; });
      packers += packed;
      opened += package.ok() && (*package)->MapExpert(ExpertId(2), 1).ok();
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(opened, 6);
  EXPECT_EQ(packers, 1);
}

TEST_F(PackageCache, OtherOptionsAndChangedSourcesGetEntriesOfTheirOwn) {
  ASSERT_NE(Open(), nullptr);
  options_.pack.experts = "f32";
  ASSERT_NE(Open(), nullptr);
  EXPECT_TRUE(packed_);
  const auto later = std::filesystem::file_time_type::clock::now() + std::chrono::hours(1);
  std::filesystem::last_write_time(source_ + "/model.safetensors", later);
  ASSERT_NE(Open(), nullptr);
  EXPECT_TRUE(packed_);
  EXPECT_EQ(Entries().size(), 3u);
}

TEST_F(PackageCache, ADamagedManifestOrLostBlobIsPackedAgain) {
  auto package = Open();
  ASSERT_NE(package, nullptr);
  const std::string digest = package->compute_digest();
  WriteFileOrDie(package->directory() + "/manifest.json", "{}");
  package = Open();
  ASSERT_NE(package, nullptr);
  EXPECT_TRUE(packed_);
  std::filesystem::remove(ExpertBlob(*package));
  package = Open();
  ASSERT_NE(package, nullptr);
  EXPECT_TRUE(packed_);
  EXPECT_EQ(package->compute_digest(), digest);
}

TEST_F(PackageCache, ADamagedBlobIsMadeAgainWhileMapping) {
  const auto package = Open();
  ASSERT_NE(package, nullptr);
  const std::string path = ExpertBlob(*package);
  const std::string good = ReadFileOrDie(path);
  std::string damaged = good;
  damaged[damaged.size() - 100] ^= 4;
  WriteFileOrDie(path, damaged);
  const auto expert = package->MapExpert(ExpertId(1), 1);
  ASSERT_TRUE(expert.ok()) << expert.status();
  EXPECT_EQ(ReadFileOrDie(path), good);
  EXPECT_EQ(Entries().size(), 1u);
}

TEST_F(PackageCache, LeftoversOfAKilledProcessAreRemoved) {
  const auto entry = FindCacheEntry(source_, options_.cache_directory, options_.pack);
  ASSERT_TRUE(entry.ok()) << entry.status();
  std::filesystem::create_directories(entry->directory + ".partial-abcdef/blobs");
  ASSERT_NE(Open(), nullptr);
  EXPECT_EQ(Entries(), std::vector<std::string>{entry->directory});
}

TEST_F(PackageCache, PackedDirectoriesNeedNoCache) {
  const std::string destination = directory_ / "packed";
  ASSERT_TRUE(
      PackModel(source_, destination, {}, [](absl::string_view, uint64_t, uint64_t) {}).ok());
  source_ = destination;
  ASSERT_NE(Open(), nullptr);
  EXPECT_FALSE(packed_);
  EXPECT_FALSE(std::filesystem::exists(options_.cache_directory));
}

}  // namespace
}  // namespace octet
