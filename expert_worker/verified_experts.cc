#include "expert_worker/verified_experts.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/check.h"
#include "core/status_macros.h"
#include "kernels/packed_weights.h"

namespace octet {
namespace {

constexpr size_t kLanes = 8;
// What one thread sums at a time.
constexpr size_t kPieceBytes = 64 << 10;
// Odd, as its powers are: a change of one lane always changes the result.
constexpr uint64_t kMix = 0x9e3779b97f4a7c15;

struct Piece {
  const uint8_t* data;
  size_t bytes;
};

// The pieces of a layer, always the same ones in the same order.
std::vector<Piece> PiecesOf(const ExpertWeights& layer) {
  std::vector<Piece> pieces;
  for (const PackedWeights* w : {&layer.gate, &layer.up, &layer.down}) {
    const size_t bytes = PackedBytes(w->format, w->n, w->k);
    for (size_t at = 0; at < bytes; at += kPieceBytes) {
      pieces.push_back({w->data + at, std::min(kPieceBytes, bytes - at)});
    }
  }
  return pieces;
}

}  // namespace

WeightSum SumWeights(const uint8_t* data, size_t bytes) {
  OCTET_CHECK_EQ(bytes % (kLanes * sizeof(uint64_t)), 0u);
  std::array<uint64_t, kLanes> sum{}, running{};
  for (size_t at = 0; at < bytes; at += sizeof(sum)) {
    std::array<uint64_t, kLanes> words;
    std::memcpy(words.data(), data + at, sizeof(words));
    for (size_t i = 0; i < kLanes; ++i) {
      sum[i] += words[i];
      running[i] += sum[i];
    }
  }
  WeightSum result;
  uint64_t factor = kMix;
  for (size_t i = 0; i < kLanes; ++i, factor *= kMix) {
    result.sum += sum[i] * factor;
    result.order += running[i] * factor;
  }
  return result;
}

WorkerModel SummedWorkerModel(WorkerModel model) {
  model.load = [load = std::move(model.load)](ExpertId id) -> absl::StatusOr<MappedExpert> {
    OCTET_ASSIGN_OR_RETURN(MappedExpert expert, load(id));
    for (const ExpertWeights& layer : expert.layers) {
      std::vector<WeightSum>& sums = expert.sums.emplace_back();
      for (const Piece& piece : PiecesOf(layer)) {
        sums.push_back(SumWeights(piece.data, piece.bytes));
      }
    }
    return expert;
  };
  return model;
}

absl::Status VerifyLayer(const MappedExpert& expert, LayerId layer, ThreadPool* pool) {
  const std::vector<Piece> pieces = PiecesOf(expert.layers[layer.value()]);
  const std::vector<WeightSum>& sums = expert.sums[layer.value()];
  OCTET_CHECK_EQ(pieces.size(), sums.size());
  std::atomic<size_t> damaged{pieces.size()};
  const auto check = [&](size_t i, int) {
    if (SumWeights(pieces[i].data, pieces[i].bytes) != sums[i]) damaged = i;
  };
  if (pool == nullptr) {
    for (size_t i = 0; i < pieces.size(); ++i) check(i, 0);
  } else {
    pool->ParallelFor(pieces.size(), check);
  }
  if (damaged == pieces.size()) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("layer ", layer.value(), ": piece ", damaged.load(),
                                          " of ", pieces.size(), " of an expert's weights has ",
                                          "changed since it was loaded"));
}

}  // namespace octet
