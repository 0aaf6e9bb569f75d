#include "model/package_cache.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/limits.h"
#include "core/log.h"
#include "core/numerics_version.h"
#include "core/sha256.h"
#include "core/status_macros.h"
#include "model/file_digest.h"
#include "model/mapped_file.h"
#include "model/pack_options.h"
#include "model/parallel.h"

namespace octet {
namespace {

namespace fs = std::filesystem;

// Holds an exclusive lock on a file, across processes, while it lives.
class FileLock {
 public:
  static absl::StatusOr<FileLock> Acquire(const std::string& path) {
    const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) return FileError(errno, "cannot open the lock", path);
    while (flock(fd, LOCK_EX) != 0) {
      if (errno == EINTR) continue;
      const int error = errno;
      close(fd);
      return FileError(error, "cannot lock", path);
    }
    return FileLock(fd);
  }
  FileLock(FileLock&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileLock& operator=(FileLock&&) = delete;
  ~FileLock() {
    if (fd_ >= 0) close(fd_);
  }

 private:
  explicit FileLock(int fd) : fd_(fd) {}
  int fd_;
};

absl::StatusOr<std::string> CacheDirectory(absl::string_view given) {
  if (!given.empty()) return std::string(given);
  const char* variable = getenv("OCTET_CACHE");
  if (variable != nullptr && *variable != '\0') return std::string(variable);
  const char* home = getenv("HOME");
  if (home != nullptr && *home != '\0') return absl::StrCat(home, "/.cache/octet");
  return absl::FailedPreconditionError(
      "no cache directory: set OCTET_CACHE, or pack the model with `octet pack` first");
}

absl::Status AppendStamp(const fs::path& path, std::string* out) {
  struct stat st;
  if (stat(path.c_str(), &st) != 0) return FileError(errno, "cannot read", path.string());
  absl::StrAppend(out, path.filename().string(), " ", st.st_size, " ", st.st_mtim.tv_sec, ".",
                  st.st_mtim.tv_nsec, "\n");
  return absl::OkStatus();
}

// Names, sizes and times of the files that a source consists of.
absl::StatusOr<std::string> SourceStamp(const fs::path& source) {
  std::string stamp = absl::StrCat(source.string(), "\n");
  std::error_code error;
  if (!fs::is_directory(source, error)) {
    OCTET_RETURN_IF_ERROR(AppendStamp(source, &stamp));
    return stamp;
  }
  std::vector<fs::path> files;
  for (fs::directory_iterator it(source, error), end; !error && it != end; it.increment(error)) {
    std::error_code ignored;
    if (it->is_regular_file(ignored)) files.push_back(it->path());
  }
  if (error) return FileError(error.value(), "cannot read", source.string());
  std::sort(files.begin(), files.end());
  for (const fs::path& file : files) OCTET_RETURN_IF_ERROR(AppendStamp(file, &stamp));
  return stamp;
}

// What an interrupted process left beside an entry. Call with the entry's lock held.
void RemoveLeftovers(const std::string& directory) {
  const fs::path entry(directory);
  const std::string prefix = entry.filename().string() + ".partial-";
  std::error_code error;
  std::vector<fs::path> leftovers;
  for (fs::directory_iterator it(entry.parent_path(), error), end; !error && it != end;
       it.increment(error)) {
    if (absl::StartsWith(it->path().filename().string(), prefix)) leftovers.push_back(it->path());
  }
  for (const fs::path& path : leftovers) fs::remove_all(path, error);
}

absl::Status PackAgain(const CacheEntry& entry, ProgressFn progress) {
  std::error_code error;
  fs::remove_all(entry.directory, error);
  if (error) return FileError(error.value(), "cannot remove", entry.directory);
  RemoveLeftovers(entry.directory);
  return PackModel(entry.source, entry.directory, entry.options, progress);
}

absl::Status CheckDigests(const CacheEntry& entry) {
  OCTET_ASSIGN_OR_RETURN(const LoadedManifest loaded, LoadManifest(entry.directory));
  std::vector<ManifestBlob> blobs = loaded.manifest.experts;
  blobs.push_back(loaded.manifest.router);
  for (const ManifestBlob& blob : blobs) {
    const std::string path = BlobPath(entry.directory, blob);
    OCTET_ASSIGN_OR_RETURN(const auto file, MappedFile::Open(path));
    const Digest digest = ParallelTreeSha256(file->data(), file->size(), LoadThreads());
    if (DigestHex(digest) != blob.digest) {
      return absl::DataLossError(absl::StrCat(path, " does not match its digest"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::string BlobPath(absl::string_view directory, const ManifestBlob& blob) {
  return absl::StrCat(directory, "/blobs/", blob.digest);
}

absl::StatusOr<LoadedManifest> LoadManifest(absl::string_view directory) {
  const std::string path = absl::StrCat(directory, "/manifest.json");
  LoadedManifest loaded;
  OCTET_ASSIGN_OR_RETURN(loaded.text, ReadSmallFile(path, kManifestBytesMax));
  OCTET_ASSIGN_OR_RETURN(loaded.manifest, ParseManifest(loaded.text, path));
  std::vector<const ManifestBlob*> blobs = {&loaded.manifest.router};
  for (const ManifestBlob& blob : loaded.manifest.experts) blobs.push_back(&blob);
  for (const ManifestBlob* blob : blobs) {
    const std::string blob_path = BlobPath(directory, *blob);
    struct stat st;
    if (stat(blob_path.c_str(), &st) != 0) return FileError(errno, "cannot read", blob_path);
    if (!S_ISREG(st.st_mode) || static_cast<uint64_t>(st.st_size) != blob->bytes) {
      return absl::DataLossError(absl::StrCat(blob_path, " is ", st.st_size,
                                              " bytes long, manifest.json says ", blob->bytes));
    }
  }
  return loaded;
}

absl::StatusOr<CacheEntry> FindCacheEntry(absl::string_view source,
                                          absl::string_view cache_directory,
                                          const PackOptions& options) {
  std::error_code error;
  const fs::path path = fs::canonical(std::string(source), error);
  if (error) return FileError(error.value(), "cannot open model", source);
  const absl::string_view kind = fs::is_directory(path, error) ? "hf" : "gguf";
  OCTET_ASSIGN_OR_RETURN(const ResolvedPackOptions resolved, ResolvePackOptions(options, kind));
  OCTET_ASSIGN_OR_RETURN(std::string stamp, SourceStamp(path));
  absl::StrAppend(&stamp, resolved.Key(), "\npackage ", kPackageVersion, " numerics ",
                  kNumericsVersion);
  CacheEntry entry;
  OCTET_ASSIGN_OR_RETURN(const std::string cache, CacheDirectory(cache_directory));
  entry.source = path.string();
  entry.options = options;
  entry.directory = absl::StrCat(cache, "/", path.filename().string().substr(0, 128), "-",
                                 DigestHex(Sha256(stamp)).substr(0, 16));
  return entry;
}

absl::Status FillCacheEntry(const CacheEntry& entry, ProgressFn progress) {
  const fs::path cache = fs::path(entry.directory).parent_path();
  std::error_code error;
  fs::create_directories(cache, error);
  if (error) return FileError(error.value(), "cannot create", cache.string());
  OCTET_ASSIGN_OR_RETURN(const FileLock lock, FileLock::Acquire(entry.directory + ".lock"));
  if (fs::exists(entry.directory, error)) {
    const absl::Status status = LoadManifest(entry.directory).status();
    if (status.ok()) return status;
    LogWarning("cached package is damaged, packing again: ", status.message());
  }
  return PackAgain(entry, progress);
}

absl::Status RepairCacheEntry(const CacheEntry& entry) {
  OCTET_ASSIGN_OR_RETURN(const FileLock lock, FileLock::Acquire(entry.directory + ".lock"));
  const absl::Status status = CheckDigests(entry);
  if (status.ok()) return status;
  LogWarning("cached package is damaged, packing again: ", status.message());
  return PackAgain(entry, [](absl::string_view, uint64_t, uint64_t) {});
}

}  // namespace octet
