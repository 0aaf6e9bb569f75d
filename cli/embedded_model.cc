#include "cli/embedded_model.h"

#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"

namespace octet {

namespace fs = std::filesystem;

std::string ExecutableDirectory() {
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  return error ? "." : program.parent_path().string();
}

absl::StatusOr<std::string> FindEmbeddedModel(const std::string& executable_directory) {
  const fs::path parent = fs::path(executable_directory).parent_path();
  const std::string installed = (parent / "share/octet/models/tiny").string();
  const std::string source = (parent / "models/tiny").string();
  for (const std::string& directory : {installed, source}) {
    std::error_code error;
    if (fs::exists(directory + "/manifest.json", error)) return directory;
  }
  return absl::NotFoundError(
      absl::StrCat("model: not set, and the embedded model is missing: no package in ", installed,
                   " nor in ", source, "; name one with --model"));
}

}  // namespace octet
