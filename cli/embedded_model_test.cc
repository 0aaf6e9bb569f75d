#include "cli/embedded_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace octet {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

class EmbeddedModelTest : public ::testing::Test {
 protected:
  EmbeddedModelTest() {
    std::string path = (fs::temp_directory_path() / "octet-embedded-XXXXXX").string();
    EXPECT_NE(mkdtemp(path.data()), nullptr);
    root_ = path;
  }
  ~EmbeddedModelTest() override { fs::remove_all(root_); }

  void MakePackage(const std::string& name) const {
    fs::create_directories(root_ / name);
    std::ofstream(root_ / name / "manifest.json") << "{}";
  }
  fs::path root_;
};

TEST_F(EmbeddedModelTest, SourceTree) {
  MakePackage("models/tiny");
  EXPECT_EQ(FindEmbeddedModel(root_ / "build").value(), root_ / "models/tiny");
}

TEST_F(EmbeddedModelTest, InstalledTreeComesFirst) {
  MakePackage("share/octet/models/tiny");
  MakePackage("models/tiny");
  EXPECT_EQ(FindEmbeddedModel(root_ / "bin").value(), root_ / "share/octet/models/tiny");
}

TEST_F(EmbeddedModelTest, MissingNamesBothPlaces) {
  fs::create_directories(root_ / "models/tiny");  // nothing in it
  const auto found = FindEmbeddedModel(root_ / "bin");
  EXPECT_EQ(found.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(found.status().message()),
              AllOf(HasSubstr((root_ / "share/octet/models/tiny").string()),
                    HasSubstr((root_ / "models/tiny").string()), HasSubstr("--model")));
}

TEST(ExecutableDirectoryTest, IsWhereThisTestIs) {
  EXPECT_TRUE(fs::exists(fs::path(ExecutableDirectory()) / "cli_embedded_model_test"));
}

}  // namespace
}  // namespace octet
