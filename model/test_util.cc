#include "model/test_util.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "core/check.h"

namespace octet {

namespace fs = std::filesystem;

TestDirectory::TestDirectory() {
  path_ = (fs::temp_directory_path() / "octet-test-XXXXXX").string();
  OCTET_CHECK(mkdtemp(path_.data()) != nullptr);
}

TestDirectory::~TestDirectory() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

std::string TestDirectory::operator/(absl::string_view name) const {
  return absl::StrCat(path_, "/", name);
}

std::string ReadFileOrDie(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  OCTET_CHECK(in.good());
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

void WriteFileOrDie(const std::string& path, absl::string_view bytes) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  out.close();
  OCTET_CHECK(out.good());
}

std::string OracleModel(absl::string_view name) {
  return absl::StrCat(OCTET_SOURCE_DIR, "/tests/golden/models/", name);
}

void CopyDirectory(const std::string& from, const std::string& to) { fs::copy(from, to); }

std::vector<std::string> ListFiles(const std::string& directory) {
  std::vector<std::string> out;
  for (const auto& entry : fs::recursive_directory_iterator(directory)) {
    out.push_back(fs::relative(entry.path(), directory).string());
  }
  std::sort(out.begin(), out.end());
  return out;
}

GgufBytes& GgufBytes::Raw(absl::string_view bytes) {
  bytes_.append(bytes.data(), bytes.size());
  return *this;
}

GgufBytes& GgufBytes::U8(uint8_t value) {
  bytes_.push_back(static_cast<char>(value));
  return *this;
}

GgufBytes& GgufBytes::U32(uint32_t value) {
  bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
  return *this;
}

GgufBytes& GgufBytes::U64(uint64_t value) {
  bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
  return *this;
}

GgufBytes& GgufBytes::F32(float value) {
  bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
  return *this;
}

GgufBytes& GgufBytes::String(absl::string_view text) { return U64(text.size()).Raw(text); }

GgufBytes& GgufBytes::Header(uint64_t tensors, uint64_t values, uint32_t version) {
  return Raw("GGUF").U32(version).U64(tensors).U64(values);
}

GgufBytes& GgufBytes::KeyU32(absl::string_view key, uint32_t value) {
  return String(key).U32(4).U32(value);
}

GgufBytes& GgufBytes::KeyString(absl::string_view key, absl::string_view value) {
  return String(key).U32(8).String(value);
}

GgufBytes& GgufBytes::Tensor(absl::string_view name, const std::vector<uint64_t>& dims,
                             uint32_t type, uint64_t offset) {
  String(name).U32(static_cast<uint32_t>(dims.size()));
  for (const uint64_t dim : dims) U64(dim);
  return U32(type).U64(offset);
}

GgufBytes& GgufBytes::Pad(uint64_t alignment) {
  while (bytes_.size() % alignment != 0) bytes_.push_back('\0');
  return *this;
}

std::string SafetensorsBytes(absl::string_view json, absl::string_view data) {
  return GgufBytes().U64(json.size()).Raw(json).Raw(data).bytes();
}

}  // namespace octet
