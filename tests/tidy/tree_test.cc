// Applies the house rules to every source of the tree.
#include <filesystem>
#include <fstream>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/tidy/source_scanner.h"

namespace octet {
namespace {

namespace fs = std::filesystem;

// Files of the tree with a C++ or proto suffix. Not part of it: build and hidden folders, and what
// training downloads and makes.
std::vector<std::string> Sources(const fs::path& root) {
  static const std::set<std::string> suffixes = {".h", ".cc", ".cu", ".cuh", ".proto"};
  std::vector<std::string> paths;
  for (auto it = fs::recursive_directory_iterator(root); it != fs::end(it); ++it) {
    const std::string name = it->path().filename().string();
    const std::string path = fs::relative(it->path(), root).string();
    if (it->is_directory() &&
        (name.front() == '.' || (it.depth() == 0 && name.find("build") == 0) ||
         path == "train/data" || path == "train/runs")) {
      it.disable_recursion_pending();
    } else if (it->is_regular_file() && suffixes.count(it->path().extension().string()) != 0) {
      paths.push_back(path);
    }
  }
  return paths;
}

std::string ReadFile(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

TEST(Tree, FollowsTheHouseRules) {
  const fs::path root = OCTET_SOURCE_DIR;
  const std::vector<std::string> sources = Sources(root);
  ASSERT_GT(sources.size(), 30u) << "no sources under " << root;
  for (const std::string& path : sources) {
    for (const Finding& finding : CheckFile(path, ReadFile(root / path))) {
      ADD_FAILURE() << finding.path << ":" << finding.line << ": " << finding.message;
    }
  }
}

// A source or test that no target names would be silently dead.
TEST(Tree, EveryFolderWithSourcesBuildsThem) {
  const fs::path root = OCTET_SOURCE_DIR;
  for (const std::string& path : Sources(root)) {
    const fs::path file(path);
    if (file.extension() != ".cc") continue;
    // Lists may loop over names and add "_test.cc" to each.
    const std::string whole = file.stem().string();
    const std::string stem = whole.substr(0, whole.rfind("_test"));
    bool named = false;
    for (fs::path folder = file.parent_path(); !named; folder = folder.parent_path()) {
      const fs::path lists = root / folder / "CMakeLists.txt";
      if (fs::exists(lists)) {
        const std::string text = ReadFile(lists);
        named = text.find(stem) != std::string::npos || text.find("GLOB") != std::string::npos;
      }
      if (folder.empty()) break;
    }
    EXPECT_TRUE(named) << path << " is in no CMakeLists.txt";
  }
}

// Documentation that names a file of the tree (in backticks, with its folder) names one that is
// there.
TEST(Tree, DocumentationNamesFilesThatExist) {
  const fs::path root = OCTET_SOURCE_DIR;
  static const std::regex named(
      "`((core|rpc|model|kernels|transport|router|expert_worker|"
      "coordinator|client|cli|tests|bench|scripts|deploy|docs|proto)/"
      "[A-Za-z0-9_./-]*)`");
  std::vector<fs::path> documents = {root / "README.md", root / "CONTRIBUTING.md"};
  for (const auto& entry : fs::directory_iterator(root / "docs")) {
    if (entry.path().extension() == ".md") documents.push_back(entry.path());
  }
  size_t checked = 0;
  for (const fs::path& document : documents) {
    const std::string text = ReadFile(document);
    for (auto it = std::sregex_iterator(text.begin(), text.end(), named);
         it != std::sregex_iterator(); ++it) {
      ++checked;
      EXPECT_TRUE(fs::exists(root / (*it)[1].str())) << document << " names " << (*it)[1].str();
    }
  }
  EXPECT_GT(checked, 30u);
}

}  // namespace
}  // namespace octet
