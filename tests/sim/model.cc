#include "tests/sim/model.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "core/limits.h"
#include "tests/sim/world.h"

namespace octet::sim {
namespace {

constexpr uint32_t kRowBits = 16;  // of the state in each of a row's four values

uint64_t Embed(TokenId token) { return Mix(static_cast<uint64_t>(token) + 1000); }

// What attention makes of a position's state and of everything before it.
uint64_t Keep(uint64_t before, uint64_t state) { return Mix(before ^ Mix(state)); }

void RowOf(uint64_t state, float* row) {
  for (uint32_t i = 0; i < kSimHidden; ++i) {
    row[i] = static_cast<float>((state >> (kRowBits * i)) & 0xffff);
  }
}

void Choose(uint64_t state, uint32_t experts, uint32_t* chosen) {
  chosen[0] = static_cast<uint32_t>((state >> 7) % experts);
  chosen[1] = static_cast<uint32_t>((chosen[0] + 1 + (state >> 23) % (experts - 1)) % experts);
}

// The replies in slot order change the state.
uint64_t Absorb(uint64_t state, uint32_t slot, const float* reply) {
  for (uint32_t i = 0; i < kSimHidden; ++i) {
    state = Mix(state ^ (static_cast<uint64_t>(reply[i]) << 8) ^ slot);
  }
  return state;
}

TokenId TokenOf(uint64_t state) { return static_cast<TokenId>((state >> 11) % kSimVocab); }

}  // namespace

ModelConfig SimModel::Config() const {
  ModelConfig config;
  config.layers = layers;
  config.hidden = kSimHidden;
  config.vocab = kSimVocab;
  config.context = 1024;
  config.experts = experts;
  config.top_k = kSimTopK;
  return config;
}

WireFormat SimModel::Format() const {
  WireFormat format;
  format.hidden = kSimHidden;
  return format;
}

std::string SimModel::Digest() const {
  return std::string(60, 'd') + absl::StrCat(1000 + layers * 100 + experts);
}

void SimModel::Expert(LayerId layer, ExpertId expert, const float* row, float* out) {
  uint64_t h = Mix(layer.value() * 4096 + expert.value());
  for (uint32_t i = 0; i < kSimHidden; ++i) h = Mix(h ^ static_cast<uint64_t>(row[i]));
  for (uint32_t i = 0; i < kSimHidden; ++i) {
    out[i] = static_cast<float>((h >> (kRowBits * i)) & 0xffff);
  }
}

std::vector<TokenId> SimModel::Reference(const std::vector<TokenId>& prompt, size_t count) const {
  std::vector<uint64_t> kept(layers, 0);
  std::vector<TokenId> generated;
  for (size_t position = 0; generated.size() < count; ++position) {
    const TokenId token = position < prompt.size() ? prompt[position] : generated.back();
    uint64_t state = Embed(token);
    for (uint32_t layer = 0; layer < layers; ++layer) {
      kept[layer] = Keep(kept[layer], state);
      state = Mix(state ^ kept[layer]);
      float row[kSimHidden], out[kSimHidden];
      uint32_t chosen[kSimTopK];
      RowOf(state, row);
      Choose(state, experts, chosen);
      for (uint32_t slot = 0; slot < kSimTopK; ++slot) {
        Expert(LayerId(layer), ExpertId(chosen[slot]), row, out);
        state = Absorb(state, slot, out);
      }
    }
    if (position + 1 >= prompt.size()) generated.push_back(TokenOf(state));
  }
  return generated;
}

SimForwardPass::SimForwardPass(const SimModel& model, TokenDispatcher* dispatcher, size_t blocks)
    : model_(model),
      config_(model.Config()),
      dispatcher_(dispatcher),
      cache_(blocks * model.layers * kKvBlockPositions) {}

uint64_t& SimForwardPass::KeyValue(const BatchSequence& sequence, uint32_t layer,
                                   uint32_t position) {
  const size_t block = sequence.blocks[position / kKvBlockPositions].value();
  return cache_[(block * model_.layers + layer) * kKvBlockPositions + position % kKvBlockPositions];
}

void SimForwardPass::Attend(const Batch& batch, uint32_t layer, const Part& part) {
  for (const BatchSequence& sequence : batch.sequences) {
    for (size_t i = 0; i < sequence.rows; ++i) {
      const size_t row = sequence.row_begin + i;
      if (row < part.begin || row >= part.end) continue;
      const auto position = static_cast<uint32_t>(sequence.position_begin + i);
      const uint64_t before = position == 0 ? 0 : KeyValue(sequence, layer, position - 1);
      const uint64_t kept = Keep(before, state_[row]);
      KeyValue(sequence, layer, position) = kept;
      state_[row] = Mix(state_[row] ^ kept);
    }
  }
}

void SimForwardPass::Dispatch(const Batch& batch, uint32_t layer, uint32_t index, Part* part) {
  const size_t rows = part->end - part->begin;
  for (size_t r = 0; r < rows; ++r) {
    RowOf(state_[part->begin + r], part->rows.data() + r * kSimHidden);
    Choose(state_[part->begin + r], model_.experts, part->experts.data() + r * kSimTopK);
  }
  WireRows wire;
  wire.format = model_.Format();
  wire.rows = rows;
  wire.f32 = ConstTensorF32(part->rows.data(), rows, kSimHidden);
  const TopK choice{rows, kSimTopK, part->experts.data(), part->weights.data()};
  part->handle =
      dispatcher_->Dispatch(batch.step, index, LayerId(layer), batch.prefill, wire, choice);
}

absl::Status SimForwardPass::Combine(Part* part, MonotonicTime give_up) {
  if (part->handle == nullptr) return absl::OkStatus();
  const absl::Status status = dispatcher_->Combine(*part->handle, give_up, &part->replies);
  if (!status.ok()) return status;
  for (size_t r = part->begin; r < part->end; ++r) {
    for (uint32_t slot = 0; slot < kSimTopK; ++slot) {
      state_[r] = Absorb(state_[r], slot, part->replies[(r - part->begin) * kSimTopK + slot]);
    }
  }
  part->handle.reset();
  return absl::OkStatus();
}

absl::Status SimForwardPass::Forward(const Batch& batch, size_t micro_batches,
                                     MonotonicTime give_up) {
  const size_t rows = batch.rows();
  state_.resize(rows);
  for (size_t r = 0; r < rows; ++r) state_[r] = Embed(batch.tokens[r]);
  const size_t count = std::min({micro_batches, rows, size_t{2}});
  Part parts[2];
  for (size_t p = 0; p < count; ++p) {
    parts[p].begin = rows * p / count;
    parts[p].end = rows * (p + 1) / count;
    const size_t mine = parts[p].end - parts[p].begin;
    parts[p].rows.resize(mine * kSimHidden);
    parts[p].experts.resize(mine * kSimTopK);
    parts[p].weights.assign(mine * kSimTopK, 1.0f);
  }
  for (uint32_t layer = 0; layer < model_.layers; ++layer) {
    for (uint32_t p = 0; p < count; ++p) {
      const absl::Status status = Combine(&parts[p], give_up);
      if (!status.ok()) return status;
      Attend(batch, layer, parts[p]);
      Dispatch(batch, layer, p, &parts[p]);
    }
  }
  for (size_t p = 0; p < count; ++p) {
    const absl::Status status = Combine(&parts[p], give_up);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::StatusOr<ConstTensorF32> SimForwardPass::Logits(const Batch& batch, size_t begin,
                                                      size_t count) {
  logits_.assign(count * kSimVocab, 0.0f);
  for (size_t i = 0; i < count; ++i) {
    const uint64_t state = state_[batch.logit_rows[begin + i]];
    logits_[i * kSimVocab + static_cast<size_t>(TokenOf(state))] = 1.0f;
  }
  return ConstTensorF32(logits_.data(), count, kSimVocab);
}

}  // namespace octet::sim
