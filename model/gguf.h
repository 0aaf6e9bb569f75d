// GGUF version 3, read without trust: every count is checked against the bytes that are left before
// anything is allocated, every sum and product for overflow, and nothing is handed out before the
// whole header has been read.
#ifndef OCTET_MODEL_GGUF_H_
#define OCTET_MODEL_GGUF_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/weight_format.h"
#include "model/mapped_file.h"
#include "model/tokenizer/tokenizer.h"

namespace octet {

enum class GgufType : uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};

struct GgufValue {
  GgufType type = GgufType::kU8;
  uint64_t u = 0;  // unsigned integers and bool
  int64_t i = 0;   // signed integers
  double f = 0;    // floats
  std::string s;   // strings
  // Arrays: element type, and either the strings or the numbers as one of the above.
  GgufType element = GgufType::kU8;
  std::vector<std::string> strings;
  std::vector<int64_t> integers;
  std::vector<double> floats;
};

struct GgufTensor {
  std::vector<uint64_t> dims;  // dims[0] is the fastest: a matrix [out, in] has dims {in, out}
  WeightFormat format;
  uint64_t begin = 0;  // absolute offset in the file
  uint64_t bytes = 0;
};

struct GgufHeader {
  absl::flat_hash_map<std::string, GgufValue> values;
  absl::flat_hash_map<std::string, GgufTensor> tensors;
};

// Reads and checks the header of a whole file. Pure. INVALID_ARGUMENT or DATA_LOSS (the file ends
// too early) name `where` and the key or tensor: bad magic or version, counts beyond the file or
// core/limits.h, unknown types, duplicate keys or names, more than kGgufRankMax dimensions,
// overflow, an alignment that is no power of two up to kGgufAlignmentMax, tensors outside the file,
// overlapping, or with holes between them, several files (split.count > 1).
absl::StatusOr<GgufHeader> ParseGguf(absl::string_view file, absl::string_view where);

// Immutable, thread-safe. Data lives as long as the reader.
class GgufReader {
 public:
  static absl::StatusOr<std::unique_ptr<GgufReader>> Open(absl::string_view path);

  const GgufHeader& header() const { return header_; }
  const GgufTensor* Find(absl::string_view name) const;
  const uint8_t* Data(const GgufTensor& tensor) const { return file_->data() + tensor.begin; }
  const std::string& path() const { return file_->path(); }

 private:
  GgufReader() = default;
  std::shared_ptr<const MappedFile> file_;
  GgufHeader header_;
};

// Typed values; `where` names the file. A missing key gives the fallback, one of the wrong type or
// out of [min, max] is INVALID_ARGUMENT. Integers of any width are alike.
absl::StatusOr<int64_t> GgufIntOr(const GgufHeader& header, absl::string_view key, int64_t min,
                                  int64_t max, int64_t fallback, absl::string_view where);
absl::StatusOr<int64_t> GgufInt(const GgufHeader& header, absl::string_view key, int64_t min,
                                int64_t max, absl::string_view where);
absl::StatusOr<double> GgufFloatOr(const GgufHeader& header, absl::string_view key, double fallback,
                                   absl::string_view where);
absl::StatusOr<std::string> GgufStringOr(const GgufHeader& header, absl::string_view key,
                                         absl::string_view fallback, absl::string_view where);

// The tokenizer.* keys. INVALID_ARGUMENT for a wrong type; what they mean is for
// TokenizerFromGguf to judge.
absl::StatusOr<GgufTokenizerData> GgufTokenizer(const GgufHeader& header, absl::string_view where);

}  // namespace octet

#endif  // OCTET_MODEL_GGUF_H_
