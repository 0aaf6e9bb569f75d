// Packages of sources that are served directly, kept in a directory that all processes of a user
// share.
#ifndef OCTET_MODEL_PACKAGE_CACHE_H_
#define OCTET_MODEL_PACKAGE_CACHE_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/manifest.h"
#include "model/model_package.h"

namespace octet {

// One source with one set of options, and where its package is or will be.
struct CacheEntry {
  std::string source;
  PackOptions options;
  std::string directory;  // <cache>/<name>-<16 hexadecimal characters>
};

// The entry's name follows from path, sizes and modification times of the source's files, the
// options, and the versions of package and numerics; so a changed source gets a new entry.
// FAILED_PRECONDITION where no cache directory is known (neither given, nor $OCTET_CACHE, nor
// $HOME).
absl::StatusOr<CacheEntry> FindCacheEntry(absl::string_view source,
                                          absl::string_view cache_directory,
                                          const PackOptions& options);

// Packs the entry unless it is there already. Processes that come at once pack once: the others
// wait for a file lock. An entry without a good manifest or with missing files is packed again,
// with a warning.
absl::Status FillCacheEntry(const CacheEntry& entry, ProgressFn progress);

// The same after a digest did not match: every digest of the entry is checked under the lock.
absl::Status RepairCacheEntry(const CacheEntry& entry);

// manifest.json of a packed directory, with every file it names present and of the right size.
struct LoadedManifest {
  Manifest manifest;
  std::string text;
};
absl::StatusOr<LoadedManifest> LoadManifest(absl::string_view directory);

// Path of a blob.
std::string BlobPath(absl::string_view directory, const ManifestBlob& blob);

}  // namespace octet

#endif  // OCTET_MODEL_PACKAGE_CACHE_H_
