// Read-only file mapping. The pages are shared by every process that maps the same file.
#ifndef OCTET_MODEL_MAPPED_FILE_H_
#define OCTET_MODEL_MAPPED_FILE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace octet {

// Immutable and thread-safe; unmapped with the last owner. The file must not be shortened while it
// is mapped: packages are only ever replaced by renaming, which leaves old mappings whole.
class MappedFile {
 public:
  // NOT_FOUND, PERMISSION_DENIED or INVALID_ARGUMENT (not a regular file), each with the path.
  // Blocks on the file system; pages are read when they are touched.
  static absl::StatusOr<std::shared_ptr<const MappedFile>> Open(absl::string_view path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  // Page-aligned; null for an empty file.
  const uint8_t* data() const { return data_; }
  uint64_t size() const { return size_; }
  const std::string& path() const { return path_; }
  absl::string_view bytes() const {
    return absl::string_view(reinterpret_cast<const char*>(data_), size_);
  }

  // Hints to the kernel; failures are of no consequence.
  void AdviseSequential() const;
  void AdviseWillNeed() const;

 private:
  MappedFile(std::string path, const uint8_t* data, uint64_t size)
      : path_(std::move(path)), data_(data), size_(size) {}

  const std::string path_;
  const uint8_t* const data_;
  const uint64_t size_;
};

// Whole small file as text. INVALID_ARGUMENT where it is longer than bytes_max.
absl::StatusOr<std::string> ReadSmallFile(absl::string_view path, uint64_t bytes_max);

// Status for a failed system call on `path`: ENOENT is NOT_FOUND; ENOSPC, EDQUOT and EFBIG are
// RESOURCE_EXHAUSTED; EACCES and EPERM are PERMISSION_DENIED; EEXIST is ALREADY_EXISTS; else
// INTERNAL.
absl::Status FileError(int error, absl::string_view what, absl::string_view path);

}  // namespace octet

#endif  // OCTET_MODEL_MAPPED_FILE_H_
