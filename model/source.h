// A model as somebody published it: "give me this weight", whatever the container calls it and
// however it lays it out. Two containers, Hugging Face directories and GGUF files, and a dense
// model seen as one of experts.
#ifndef OCTET_MODEL_SOURCE_H_
#define OCTET_MODEL_SOURCE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/model_config.h"
#include "core/weight_format.h"
#include "model/tokenizer/tokenizer.h"

namespace octet {

enum class WeightRole : uint8_t {
  kEmbedding,      // [vocab, hidden]
  kHead,           // [vocab, hidden]; not there where config().tied_embeddings
  kFinalNorm,      // [1, hidden]
  kAttentionNorm,  // [1, hidden], of a layer, as are all that follow
  kFfnNorm,        // [1, hidden]
  kQ,              // [heads * head_dim, hidden]
  kK,              // [kv_heads * head_dim, hidden]
  kV,              // [kv_heads * head_dim, hidden]
  kO,              // [hidden, heads * head_dim]
  kGate,           // [experts, hidden], GateKind::kLinear
  kGateQ,          // [experts, hidden], GateKind::kAttention, as are the next two
  kGateK,
  kGateV,
  kExpertGate,  // [intermediate, hidden], of an expert, as are the next two
  kExpertUp,
  kExpertDown,  // [hidden, intermediate]
};

// Rows and columns of a weight.
std::pair<size_t, size_t> WeightShape(const ModelConfig& config, WeightRole role);

// One matrix where it lies in its source. Not owning: data lives as long as the source.
struct SourceMatrix {
  std::string name;  // as in the source, for errors
  WeightFormat format;
  size_t n = 0;
  size_t k = 0;
  const uint8_t* data = nullptr;  // n rows of row_bytes, not necessarily aligned
  size_t row_bytes = 0;
  // Not 0: rows of each of these heads lie in the order of interleaved rotary pairs: the file's row
  // 2i + j of a head is our row j * head_dim / 2 + i. Read through the functions below.
  size_t interleaved_heads = 0;
};

// Rows [begin, begin + count) in our order, in the source's encoding; out has count * row_bytes.
void CopySourceRows(const SourceMatrix& matrix, size_t begin, size_t count, uint8_t* out);
// The same as numbers; out has count * k. Fails only where a format cannot be decoded.
absl::Status SourceRowsF32(const SourceMatrix& matrix, size_t begin, size_t count, float* out);

// Used by one thread, data by any.
class ModelSource {
 public:
  virtual ~ModelSource() = default;

  virtual const ModelConfig& config() const = 0;
  // "hf" or "gguf".
  virtual std::string kind() const = 0;
  // INVALID_ARGUMENT names the tensor: missing, of another shape (with the expected one), or of an
  // element type that is not supported.
  virtual absl::StatusOr<SourceMatrix> Matrix(WeightRole role, uint32_t layer, uint32_t expert) = 0;
  // An expert with the same weights in every layer, the first of its kind: itself mostly.
  virtual uint32_t OriginalExpert(uint32_t expert) const { return expert; }
  // NOT_FOUND where the model brings none.
  virtual absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer() const = 0;
  // INVALID_ARGUMENT names a tensor that no call of Matrix has asked for: the model has a part that
  // Octet would leave out. Call after all Matrix calls.
  virtual absl::Status CheckNothingUnused() const = 0;
};

absl::StatusOr<std::unique_ptr<ModelSource>> OpenHfSource(absl::string_view directory);
absl::StatusOr<std::unique_ptr<ModelSource>> OpenGgufSource(absl::string_view path);
// A directory or a file. NOT_FOUND, or INVALID_ARGUMENT for a directory without config.json.
absl::StatusOr<std::unique_ptr<ModelSource>> OpenModelSource(absl::string_view path);

// A dense model as `experts` equal experts under a linear gate of small random weights that follow
// from `seed`, top-2. INVALID_ARGUMENT where the model has experts already or `experts` is not from
// 2 to kExpertsMax.
absl::StatusOr<std::unique_ptr<ModelSource>> UpcycleSource(std::unique_ptr<ModelSource> dense,
                                                           uint32_t experts, uint64_t seed);

}  // namespace octet

#endif  // OCTET_MODEL_SOURCE_H_
