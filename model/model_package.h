// A model ready to serve: a packed directory mapped into memory. Weights are never copied; the
// views point into the mappings, which live as long as the objects returned here.
//
// Directory: manifest.json, tokenizer.json, blobs/<sha256-tree> (the router's weights and one file
// per distinct expert; each a safetensors container whose tensors are packed bytes, 64-byte
// aligned).
#ifndef OCTET_MODEL_MODEL_PACKAGE_H_
#define OCTET_MODEL_MODEL_PACKAGE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/expert_numerics.h"
#include "core/ids.h"
#include "core/model_config.h"
#include "core/wire_format.h"
#include "kernels/kernels.h"
#include "model/tokenizer/tokenizer.h"

namespace octet {

class MappedFile;

// Everything a router computes with. `norm` pointers have `hidden` floats.
struct RouterLayerWeights {
  const float* attention_norm = nullptr;
  PackedWeights q, k, v, o;  // rows of q and k in "rotate half" order
  const float* ffn_norm = nullptr;
  PackedWeights gate;                    // GateKind::kLinear
  PackedWeights gate_q, gate_k, gate_v;  // GateKind::kAttention
};

struct RouterWeights {
  PackedWeights embedding;  // [vocab, hidden]
  PackedWeights head;       // [vocab, hidden]; the embedding itself where tied
  const float* final_norm = nullptr;
  std::vector<RouterLayerWeights> layers;
  std::shared_ptr<const MappedFile> mapping;
};

// Exact integer sums of some bytes of weights (expert_worker/verified_experts.h).
struct WeightSum {
  uint64_t sum = 0;
  uint64_t order = 0;
  friend bool operator==(const WeightSum&, const WeightSum&) = default;
};

// What the weights of a layer are known by.
struct LayerSums {
  std::vector<WeightSum> all;     // of each piece of the matrices
  std::vector<WeightSum> scales;  // of each piece of their scales and minima; integer layers only
  std::vector<uint32_t> gate, up, down;  // ExpertColumns (kernels.h); integer layers only
};

// One expert, all layers.
struct MappedExpert {
  std::vector<ExpertWeights> layers;
  uint64_t bytes = 0;
  std::shared_ptr<const void> memory;  // a file mapping, or a device's; owns what layers point to
  // The file that holds the weights, as it is mapped, and its digest (64 hexadecimal characters):
  // for checking it again. Empty where the weights are elsewhere.
  absl::string_view file;
  std::string digest;
  // [layer], where somebody checks the weights against them; else empty.
  std::vector<LayerSums> sums;
};

// Told about long work: a phase in words and how much of it is done. Called from the working
// thread.
using ProgressFn = absl::FunctionRef<void(absl::string_view phase, uint64_t done, uint64_t total)>;

// How a source is turned into a package. Names as in core/weight_format.h, or "source" (the
// source's own encoding, lossless). Empty strings choose the default: "source" for GGUF; for
// Hugging Face experts "int4g32" and attention "int8g32". "int4" and "int8" mean groups of `group`.
struct PackOptions {
  std::string experts;
  std::string attention;      // attention projections, embedding and head
  uint32_t group = 32;        // 32, 64 or 128
  std::string reply = "f32";  // "f32" or "bf16"
  uint32_t upcycle =
      0;  // 0: as is; n: a dense model becomes n equal experts with a seeded linear gate, top-2
  uint64_t upcycle_seed = 1;
};

// Packs `source` (Hugging Face directory or GGUF file) into a new directory `destination`. Either
// the whole package appears or nothing (it is built beside and renamed). INVALID_ARGUMENT and
// DATA_LOSS name the file, the tensor or field and what is allowed; RESOURCE_EXHAUSTED when the
// disk is full; ALREADY_EXISTS.
absl::Status PackModel(absl::string_view source, absl::string_view destination,
                       const PackOptions& options, ProgressFn progress);

// Thread-safe; immutable.
class ModelPackage {
 public:
  struct OpenOptions {
    // Where packages of sources that are served directly are kept; empty: $OCTET_CACHE, else
    // ~/.cache/octet.
    std::string cache_directory;
    PackOptions pack;  // used when `path` is not packed yet
    // kHopperBf16: INVALID_ARGUMENT where the experts are not in bf16 or their shape does not suit.
    ExpertNumerics numerics = ExpertNumerics::kExact;
  };

  // Opens a packed directory, a Hugging Face directory or a GGUF file; the latter two are packed
  // into the cache first. Reads the manifest only; weights are mapped and their digests checked by
  // the Map functions.
  static absl::StatusOr<std::shared_ptr<const ModelPackage>> Open(absl::string_view path,
                                                                  const OpenOptions& options,
                                                                  ProgressFn progress);

  const ModelConfig& config() const { return config_; }
  const std::string& name() const { return name_; }
  const std::string& model_version() const { return model_version_; }
  // 64 hexadecimal characters: SHA-256 over configuration, weight digests and formats, numerics
  // version, device profile.
  const std::string& compute_digest() const { return compute_digest_; }
  ExpertNumerics numerics() const { return numerics_; }
  const std::string& directory() const { return directory_; }
  WireFormat wire_format(LayerId layer) const { return wire_formats_[layer.value()]; }
  // Bytes of the largest expert file.
  uint64_t expert_bytes() const { return expert_bytes_; }

  absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer() const;
  // Maps and checks digests in parallel over `threads`. DATA_LOSS where a file does not match the
  // manifest.
  absl::StatusOr<RouterWeights> MapRouter(int threads) const;
  absl::StatusOr<MappedExpert> MapExpert(ExpertId expert, int threads) const;
  // Manifest text, for `octet inspect`.
  const std::string& manifest_json() const { return manifest_json_; }

 private:
  friend class PackageLoader;
  ModelPackage() = default;

  ModelConfig config_;
  std::string name_;
  std::string model_version_;
  std::string compute_digest_;
  ExpertNumerics numerics_ = ExpertNumerics::kExact;
  std::string directory_;
  std::string manifest_json_;
  std::vector<WireFormat> wire_formats_;
  uint64_t expert_bytes_ = 0;
  struct Blobs;
  std::shared_ptr<const Blobs> blobs_;
};

}  // namespace octet

#endif  // OCTET_MODEL_MODEL_PACKAGE_H_
