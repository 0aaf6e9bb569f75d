#include "model/source.h"

#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/check.h"
#include "core/limits.h"
#include "core/status_macros.h"
#include "kernels/packed_weights.h"
#include "model/aligned_buffer.h"
#include "model/mapped_file.h"

namespace octet {
namespace {

// Row of the file that holds our row.
size_t FileRow(const SourceMatrix& matrix, size_t row) {
  if (matrix.interleaved_heads == 0) return row;
  const size_t head_dim = matrix.n / matrix.interleaved_heads;
  const size_t half = head_dim / 2;
  const size_t in_head = row % head_dim;
  return row - in_head + 2 * (in_head % half) + in_head / half;
}

void FloatRow(WeightKind kind, const uint8_t* row, size_t k, float* out) {
  for (size_t i = 0; i < k; ++i) {
    uint16_t bits = 0;
    switch (kind) {
      case WeightKind::kF32:
        memcpy(out + i, row + 4 * i, 4);
        break;
      case WeightKind::kF16:
        memcpy(&bits, row + 2 * i, 2);
        out[i] = F16ToF32(bits);
        break;
      case WeightKind::kBF16:
        memcpy(&bits, row + 2 * i, 2);
        out[i] = BF16ToF32(bits);
        break;
      case WeightKind::kInt:
        OCTET_CHECK(false);
    }
  }
}

// splitmix64: a bijection whose successive values look random.
uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

class UpcycledSource : public ModelSource {
 public:
  UpcycledSource(std::unique_ptr<ModelSource> dense, uint32_t experts, uint64_t seed)
      : dense_(std::move(dense)), config_(dense_->config()) {
    config_.architecture = "mixtral";
    config_.experts = experts;
    config_.top_k = 2;
    config_.gate = GateKind::kLinear;
    gates_.resize(config_.layers);
    for (uint32_t layer = 0; layer < config_.layers; ++layer) {
      gates_[layer].resize(size_t{experts} * config_.hidden);
      for (size_t i = 0; i < gates_[layer].size(); ++i) {
        // 24 random bits: uniform in [-0.05, 0.05).
        const uint64_t bits = Mix(Mix(Mix(seed) ^ layer) ^ i) >> 40;
        gates_[layer][i] = (static_cast<float>(bits) * 0x1p-24f - 0.5f) * 0.1f;
      }
    }
  }

  const ModelConfig& config() const override { return config_; }
  std::string kind() const override { return dense_->kind(); }
  uint32_t OriginalExpert(uint32_t /*expert*/) const override { return 0; }
  absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer() const override {
    return dense_->LoadTokenizer();
  }
  absl::Status CheckNothingUnused() const override { return dense_->CheckNothingUnused(); }

  absl::StatusOr<SourceMatrix> Matrix(WeightRole role, uint32_t layer,
                                      uint32_t /*expert*/) override {
    if (role != WeightRole::kGate) return dense_->Matrix(role, layer, 0);
    SourceMatrix matrix;
    matrix.name = absl::StrCat("layer ", layer, " gate");
    matrix.n = config_.experts;
    matrix.k = config_.hidden;
    matrix.data = reinterpret_cast<const uint8_t*>(gates_[layer].data());
    matrix.row_bytes = size_t{config_.hidden} * sizeof(float);
    return matrix;
  }

 private:
  const std::unique_ptr<ModelSource> dense_;
  ModelConfig config_;
  std::vector<std::vector<float>> gates_;
};

}  // namespace

std::pair<size_t, size_t> WeightShape(const ModelConfig& config, WeightRole role) {
  const size_t hidden = config.hidden;
  const size_t q_rows = size_t{config.heads} * config.head_dim;
  const size_t kv_rows = size_t{config.kv_heads} * config.head_dim;
  switch (role) {
    case WeightRole::kEmbedding:
    case WeightRole::kHead:
      return {config.vocab, hidden};
    case WeightRole::kFinalNorm:
    case WeightRole::kAttentionNorm:
    case WeightRole::kFfnNorm:
      return {1, hidden};
    case WeightRole::kQ:
      return {q_rows, hidden};
    case WeightRole::kK:
    case WeightRole::kV:
      return {kv_rows, hidden};
    case WeightRole::kO:
      return {hidden, q_rows};
    case WeightRole::kGate:
    case WeightRole::kGateQ:
    case WeightRole::kGateK:
    case WeightRole::kGateV:
      return {config.experts, hidden};
    case WeightRole::kExpertGate:
    case WeightRole::kExpertUp:
      return {config.intermediate, hidden};
    case WeightRole::kExpertDown:
      return {hidden, config.intermediate};
  }
  OCTET_CHECK(false);
}

void CopySourceRows(const SourceMatrix& matrix, size_t begin, size_t count, uint8_t* out) {
  OCTET_CHECK(begin + count <= matrix.n);
  if (matrix.interleaved_heads == 0) {
    memcpy(out, matrix.data + begin * matrix.row_bytes, count * matrix.row_bytes);
    return;
  }
  for (size_t i = 0; i < count; ++i) {
    memcpy(out + i * matrix.row_bytes, matrix.data + FileRow(matrix, begin + i) * matrix.row_bytes,
           matrix.row_bytes);
  }
}

absl::Status SourceRowsF32(const SourceMatrix& matrix, size_t begin, size_t count, float* out) {
  OCTET_CHECK(begin + count <= matrix.n);
  if (!matrix.format.is_integer()) {
    for (size_t i = 0; i < count; ++i) {
      FloatRow(matrix.format.kind, matrix.data + FileRow(matrix, begin + i) * matrix.row_bytes,
               matrix.k, out + i * matrix.k);
    }
    return absl::OkStatus();
  }
  AlignedBuffer blocks(count * matrix.row_bytes);
  CopySourceRows(matrix, begin, count, blocks.data());
  AlignedBuffer packed(PackedBytes(matrix.format, count, matrix.k));
  OCTET_RETURN_IF_ERROR(
      PackGgufBlocks(matrix.format, count, matrix.k, blocks.data(), packed.data()));
  PackedWeights weights;
  weights.format = matrix.format;
  weights.n = count;
  weights.k = matrix.k;
  weights.data = packed.data();
  for (size_t i = 0; i < count; ++i) UnpackRow(weights, i, out + i * matrix.k);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<ModelSource>> OpenModelSource(absl::string_view path) {
  const std::string name(path);
  struct stat st;
  if (stat(name.c_str(), &st) != 0) return FileError(errno, "cannot open model", name);
  if (S_ISDIR(st.st_mode)) return OpenHfSource(path);
  return OpenGgufSource(path);
}

absl::StatusOr<std::unique_ptr<ModelSource>> UpcycleSource(std::unique_ptr<ModelSource> dense,
                                                           uint32_t experts, uint64_t seed) {
  if (experts < 2 || experts > kExpertsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("upcycle is ", experts, ", allowed are 2 to ", kExpertsMax, " experts"));
  }
  if (dense->config().experts != 1) {
    return absl::InvalidArgumentError(absl::StrCat("upcycle needs a dense model, this one has ",
                                                   dense->config().experts, " experts"));
  }
  return std::unique_ptr<ModelSource>(new UpcycledSource(std::move(dense), experts, seed));
}

}  // namespace octet
