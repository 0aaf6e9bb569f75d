// The safetensors container: u64 little-endian header length N, N bytes of JSON, then the data.
// Reading trusts nothing in the file.
#ifndef OCTET_MODEL_SAFETENSORS_H_
#define OCTET_MODEL_SAFETENSORS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/mapped_file.h"

namespace octet {

struct SafetensorsEntry {
  std::string dtype;  // as in the file: "F32", "BF16", "U8", ...
  std::vector<uint64_t> shape;
  uint64_t begin = 0;  // absolute offset in the file
  uint64_t bytes = 0;
};

struct SafetensorsHeader {
  uint64_t data_begin = 0;
  std::map<std::string, SafetensorsEntry> tensors;
};

// Bits of one element; 0 for an unknown dtype.
uint32_t SafetensorsDTypeBits(absl::string_view dtype);

// Reads and checks the header of a whole file. Pure. `where` names the file in errors.
// INVALID_ARGUMENT or DATA_LOSS (the file ends too early) where: the header does not fit the file
// or kSafetensorsHeaderBytesMax, is not a JSON object without duplicates, has more than kTensorsMax
// tensors; a dtype is unknown; a shape has more than kTensorRankMax dimensions, overflows, or does
// not match its extent; extents leave holes, overlap, or do not end with the file.
absl::StatusOr<SafetensorsHeader> ParseSafetensors(absl::string_view file, absl::string_view where);

// A tensor as it lies in a mapping.
struct SafetensorsTensor {
  std::string dtype;
  std::vector<uint64_t> shape;
  const uint8_t* data = nullptr;  // not necessarily aligned
  uint64_t bytes = 0;
};

// The tensors of one model: `model.safetensors`, or the shards that model.safetensors.index.json
// names. Immutable, thread-safe; data lives as long as the reader.
class SafetensorsReader {
 public:
  // NOT_FOUND where the directory has neither; INVALID_ARGUMENT for a shard name that leaves the
  // directory, a tensor that its shard lacks, or a bad shard.
  static absl::StatusOr<std::unique_ptr<SafetensorsReader>> Open(absl::string_view directory);

  // nullptr where there is no such tensor.
  const SafetensorsTensor* Find(absl::string_view name) const;
  const absl::flat_hash_map<std::string, SafetensorsTensor>& tensors() const { return tensors_; }

 private:
  SafetensorsReader() = default;
  absl::Status AddShard(const std::string& path, absl::flat_hash_map<std::string, bool>* wanted);
  absl::Status OpenSharded(absl::string_view directory, absl::string_view index_path);

  std::vector<std::shared_ptr<const MappedFile>> files_;
  absl::flat_hash_map<std::string, SafetensorsTensor> tensors_;
};

// Where each tensor of a new file will lie. The header is padded with spaces so that data starts on
// a multiple of 4096; tensors follow in the order given, without gaps, so sizes that are multiples
// of 64 keep every tensor 64-byte aligned.
struct SafetensorsPlan {
  struct Tensor {
    std::string name;
    std::string dtype;
    std::vector<uint64_t> shape;
    uint64_t begin = 0;  // absolute offset, set by PlanSafetensors
    uint64_t bytes = 0;  // set by PlanSafetensors
  };
  std::string header;  // length prefix, JSON and padding: the first bytes of the file
  std::vector<Tensor> tensors;
  uint64_t file_bytes = 0;
};

// Our own names and shapes only: duplicates, unknown dtypes and overflow are CHECK failures. The
// caller writes `header` at 0 and every tensor at its `begin`, in any order.
SafetensorsPlan PlanSafetensors(std::vector<SafetensorsPlan::Tensor> tensors);

}  // namespace octet

#endif  // OCTET_MODEL_SAFETENSORS_H_
