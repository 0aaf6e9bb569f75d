#include "expert_worker/verified_experts.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/check.h"
#include "core/status_macros.h"
#include "expert_worker/expert_ffn.h"
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
  size_t bytes;  // of a block
  size_t blocks = 1;
  size_t stride = 0;
};

bool IsInteger(const ExpertWeights& layer) {
  return layer.gate.format.is_integer() && layer.down.format.is_integer();
}

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

// What the columns of an integer layer say nothing of.
std::vector<Piece> ScalesOf(const ExpertWeights& layer) {
  std::vector<Piece> pieces;
  for (const PackedWeights* w : {&layer.gate, &layer.up, &layer.down}) {
    const ScaleAreas areas = ScaleAreasOf(*w);
    const size_t step = std::max<size_t>(1, kPieceBytes / areas.bytes);
    for (size_t p = 0; p < areas.panels; p += step) {
      pieces.push_back({w->data + p * areas.stride, areas.bytes, std::min(step, areas.panels - p),
                        areas.stride});
    }
  }
  return pieces;
}

std::vector<WeightSum> SumsOf(const std::vector<Piece>& pieces) {
  std::vector<WeightSum> sums;
  for (const Piece& p : pieces) sums.push_back(SumWeights(p.data, p.bytes, p.blocks, p.stride));
  return sums;
}

std::vector<uint32_t> ColumnOf(const PackedWeights& w) {
  std::vector<uint32_t> column(PaddedK(w.format, w.k));
  MakeCheckColumn(w, column.data());
  return column;
}

LayerSums SumsOf(const ExpertWeights& layer) {
  LayerSums sums;
  sums.all = SumsOf(PiecesOf(layer));
  if (!IsInteger(layer)) return sums;
  sums.scales = SumsOf(ScalesOf(layer));
  sums.gate = ColumnOf(layer.gate);
  sums.up = ColumnOf(layer.up);
  sums.down = ColumnOf(layer.down);
  return sums;
}

absl::Status Damaged(LayerId layer, absl::string_view what) {
  return absl::DataLossError(absl::StrCat("layer ", layer.value(), ": ", what,
                                          " of an expert have changed since it was loaded"));
}

bool HaveSums(const std::vector<Piece>& pieces, const std::vector<WeightSum>& sums,
              ThreadPool* pool) {
  OCTET_CHECK_EQ(pieces.size(), sums.size());
  std::atomic<bool> same{true};
  const auto check = [&](size_t i, int) {
    const Piece& p = pieces[i];
    if (SumWeights(p.data, p.bytes, p.blocks, p.stride) != sums[i]) same = false;
  };
  if (pool == nullptr) {
    for (size_t i = 0; i < pieces.size(); ++i) check(i, 0);
  } else {
    pool->ParallelFor(pieces.size(), check);
  }
  return same;
}

}  // namespace

WeightSum SumWeights(const uint8_t* data, size_t bytes, size_t blocks, size_t stride) {
  OCTET_CHECK_EQ(bytes % (kLanes * sizeof(uint64_t)), 0u);
  std::array<uint64_t, kLanes> sum{}, running{};
  for (size_t block = 0; block < blocks; ++block, data += stride) {
    for (size_t at = 0; at < bytes; at += sizeof(sum)) {
      std::array<uint64_t, kLanes> words;
      std::memcpy(words.data(), data + at, sizeof(words));
      for (size_t i = 0; i < kLanes; ++i) {
        sum[i] += words[i];
        running[i] += sum[i];
      }
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
    for (const ExpertWeights& layer : expert.layers) expert.sums.push_back(SumsOf(layer));
    return expert;
  };
  return model;
}

absl::Status RunVerifiedExpert(const ExecContext& ctx, const MappedExpert& expert, LayerId layer,
                               const ExpertInput& input, absl::Span<const uint32_t> rows,
                               TensorF32 out) {
  if (layer.value() >= expert.layers.size() || !IsInteger(expert.layers[layer.value()])) {
    OCTET_RETURN_IF_ERROR(RunExpert(ctx, expert, layer, input, rows, out));
    return VerifyLayer(expert, layer, ctx.pool);
  }
  const ExpertWeights& weights = expert.layers[layer.value()];
  const LayerSums& sums = expert.sums[layer.value()];
  const ExpertColumns columns{sums.gate.data(), sums.up.data(), sums.down.data()};
  const Arena::Scope scope(*ctx.arena);
  if (!CheckedExpertFfn(ctx, weights, columns, input, rows, out)) {
    return Damaged(layer, "weights, as a product shows,");
  }
  if (!HaveSums(ScalesOf(weights), sums.scales, ctx.pool)) return Damaged(layer, "scales");
  return absl::OkStatus();
}

absl::Status VerifyLayer(const MappedExpert& expert, LayerId layer, ThreadPool* pool) {
  const std::vector<Piece> pieces = PiecesOf(expert.layers[layer.value()]);
  if (HaveSums(pieces, expert.sums[layer.value()].all, pool)) return absl::OkStatus();
  return Damaged(layer, "weights");
}

}  // namespace octet
