// Writes the content-addressed files of a package.
#ifndef OCTET_MODEL_BLOB_WRITER_H_
#define OCTET_MODEL_BLOB_WRITER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/weight_format.h"
#include "model/manifest.h"
#include "model/source.h"

namespace octet {

// A tensor of a blob: a source matrix in a target format; or, with `vector`, one row of f32, padded
// with zeros to a multiple of 16.
struct BlobTensor {
  std::string name;
  SourceMatrix matrix;
  WeightFormat format;
  bool vector = false;
};

// Name, dtype and shape that a tensor has inside a blob; bytes are a multiple of 64.
uint64_t BlobTensorBytes(const BlobTensor& tensor);

// Packs `tensors` into `directory`/<digest>, over all cores; an existing blob with the same digest
// is kept. INVALID_ARGUMENT names a tensor that cannot be encoded; RESOURCE_EXHAUSTED: disk full.
// On failure a file may be left in `directory`, which the caller owns. on_bytes(n): n more bytes
// are packed; called from the calling thread.
absl::StatusOr<ManifestBlob> WriteBlob(const std::vector<BlobTensor>& tensors,
                                       absl::string_view directory,
                                       absl::FunctionRef<void(uint64_t bytes)> on_bytes);

// Writes a whole small file and syncs it.
absl::Status WriteSmallFile(absl::string_view path, absl::string_view bytes);
// Makes renames inside a directory durable.
absl::Status SyncDirectory(absl::string_view path);

}  // namespace octet

#endif  // OCTET_MODEL_BLOB_WRITER_H_
