// What the tests of this folder share.
#ifndef OCTET_MODEL_TEST_UTIL_H_
#define OCTET_MODEL_TEST_UTIL_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace octet {

// A fresh directory that disappears with the object.
class TestDirectory {
 public:
  TestDirectory();
  ~TestDirectory();
  TestDirectory(const TestDirectory&) = delete;
  TestDirectory& operator=(const TestDirectory&) = delete;
  const std::string& path() const { return path_; }
  std::string operator/(absl::string_view name) const;

 private:
  std::string path_;
};

std::string ReadFileOrDie(const std::string& path);
void WriteFileOrDie(const std::string& path, absl::string_view bytes);
// Path below tests/golden/models.
std::string OracleModel(absl::string_view name);
// Copies the regular files of a directory.
void CopyDirectory(const std::string& from, const std::string& to);
// Paths below `directory`, relative, sorted.
std::vector<std::string> ListFiles(const std::string& directory);

// Builds a GGUF file piece by piece, right or wrong.
class GgufBytes {
 public:
  GgufBytes& Raw(absl::string_view bytes);
  GgufBytes& U8(uint8_t value);
  GgufBytes& U32(uint32_t value);
  GgufBytes& U64(uint64_t value);
  GgufBytes& F32(float value);
  GgufBytes& String(absl::string_view text);
  // Magic, version, counts.
  GgufBytes& Header(uint64_t tensors, uint64_t values, uint32_t version = 3);
  GgufBytes& KeyU32(absl::string_view key, uint32_t value);
  GgufBytes& KeyString(absl::string_view key, absl::string_view value);
  GgufBytes& Tensor(absl::string_view name, const std::vector<uint64_t>& dims, uint32_t type,
                    uint64_t offset);
  // Zeros up to a multiple of `alignment`.
  GgufBytes& Pad(uint64_t alignment);
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

// A safetensors file from its header's JSON and its data.
std::string SafetensorsBytes(absl::string_view json, absl::string_view data);

}  // namespace octet

#endif  // OCTET_MODEL_TEST_UTIL_H_
