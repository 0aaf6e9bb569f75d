// Small models with seeded weights, for the tests of workers and transports.
#ifndef OCTET_EXPERT_WORKER_TEST_UTIL_H_
#define OCTET_EXPERT_WORKER_TEST_UTIL_H_

#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "core/clock.h"
#include "expert_worker/expert_store.h"
#include "expert_worker/worker_model.h"
#include "transport/token_dispatcher.h"
#include "transport/wire_rows.h"

namespace octet {

struct TestModelShape {
  uint32_t hidden = 64;
  uint32_t intermediate = 96;
  uint32_t layers = 2;
  uint32_t experts = 4;
  std::string format = "int8g32";
  ReplyDType reply = ReplyDType::kF32;
};

inline std::string TestDigest() { return std::string(64, 'a'); }

inline PackedWeights PackTestMatrix(const WeightFormat& format, size_t n, size_t k,
                                    std::mt19937* rng,
                                    std::vector<std::unique_ptr<uint8_t[]>>* owner) {
  std::normal_distribution<float> normal(0.0f, 0.2f);
  std::vector<float> w(n * k);
  for (float& v : w) v = normal(*rng);
  owner->push_back(std::make_unique<uint8_t[]>(PackedBytes(format, n, k) + 64));
  uint8_t* data = owner->back().get();
  data += (64 - reinterpret_cast<uintptr_t>(data) % 64) % 64;
  EXPECT_TRUE(PackFloatWeights(format, MatrixView<const float>(w.data(), n, k), data).ok());
  PackedWeights packed;
  packed.format = format;
  packed.n = n;
  packed.k = k;
  packed.data = data;
  return packed;
}

// Deterministic: expert e has the same weights in every process.
inline MappedExpert MakeTestExpert(const TestModelShape& shape, ExpertId expert) {
  const WeightFormat format = WeightFormatFromName(shape.format).value();
  auto owner = std::make_shared<std::vector<std::unique_ptr<uint8_t[]>>>();
  std::mt19937 rng(100 + expert.value());
  MappedExpert mapped;
  for (uint32_t layer = 0; layer < shape.layers; ++layer) {
    ExpertWeights& w = mapped.layers.emplace_back();
    w.gate = PackTestMatrix(format, shape.intermediate, shape.hidden, &rng, owner.get());
    w.up = PackTestMatrix(format, shape.intermediate, shape.hidden, &rng, owner.get());
    w.down = PackTestMatrix(format, shape.hidden, shape.intermediate, &rng, owner.get());
  }
  mapped.bytes = 1000;
  mapped.memory = owner;
  return mapped;
}

inline WorkerModel MakeTestModel(const TestModelShape& shape = {}) {
  const WeightFormat format = WeightFormatFromName(shape.format).value();
  WorkerModel model;
  model.name = "test";
  model.compute_digest = TestDigest();
  model.model_version = "v1";
  model.experts = shape.experts;
  model.formats.assign(
      shape.layers,
      {shape.hidden, static_cast<uint32_t>(ActivationGroup(format, shape.hidden)), shape.reply});
  model.expert_bytes = 1000;
  model.load = [shape](ExpertId expert) -> absl::StatusOr<MappedExpert> {
    return MakeTestExpert(shape, expert);
  };
  return model;
}

inline std::shared_ptr<ExpertStore> MakeFullStore(const TestModelShape& shape = {}) {
  auto store = std::make_shared<ExpertStore>(MakeTestModel(shape));
  std::vector<ExpertId> all;
  for (uint32_t e = 0; e < shape.experts; ++e) all.emplace_back(e);
  EXPECT_TRUE(store->Prepare(Epoch(1), all).ok());
  EXPECT_TRUE(store->Activate(Epoch(1)).ok());
  return store;
}

// Seeded rows in wire format, with their memory.
struct TestRows {
  std::vector<float> x;
  std::vector<int8_t> q;
  std::vector<float> scales;
  WireRows view;
};

inline TestRows MakeTestRows(const WireFormat& format, size_t rows, uint32_t seed) {
  TestRows t;
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal;
  t.view.format = format;
  t.view.rows = rows;
  if (format.is_integer()) {
    t.q.resize(rows * format.padded_hidden());
    t.scales.resize(rows * format.groups());
    for (size_t i = 0; i < t.q.size(); ++i) {
      const bool padding = i % format.padded_hidden() >= format.hidden;
      t.q[i] = padding ? 0 : static_cast<int8_t>(static_cast<int>(rng() % 255) - 127);
    }
    for (float& s : t.scales) s = static_cast<float>(rng() % 1000 + 1) / 100000.0f;
    t.view.q = {rows, format.padded_hidden(), format.activation_group, t.q.data(), t.scales.data()};
  } else {
    t.x.resize(rows * format.hidden);
    for (float& v : t.x) v = normal(rng);
    t.view.f32 = ConstTensorF32(t.x.data(), rows, format.hidden);
  }
  return t;
}

// A gate's choice, k distinct experts a row.
struct TestChoice {
  std::vector<uint32_t> experts;
  std::vector<float> weights;
  TopK view;
};

inline TestChoice MakeTestChoice(size_t rows, size_t k, uint32_t experts, uint32_t seed) {
  TestChoice c;
  std::mt19937 rng(seed);
  std::vector<uint32_t> all(experts);
  for (uint32_t e = 0; e < experts; ++e) all[e] = e;
  for (size_t r = 0; r < rows; ++r) {
    for (size_t s = 0; s < k; ++s) {
      std::swap(all[s], all[s + rng() % (experts - s)]);
      c.experts.push_back(all[s]);
    }
  }
  c.weights.assign(c.experts.size(), 1.0f / static_cast<float>(k));
  c.view = {rows, k, c.experts.data(), c.weights.data()};
  return c;
}

// All reply rows of one layer, in slot order.
inline std::vector<float> RunLayer(TokenDispatcher& dispatcher, const TestRows& rows,
                                   const TestChoice& choice, LayerId layer, bool prefill = false) {
  auto handle = dispatcher.Dispatch(StepId(1), 0, layer, prefill, rows.view, choice.view);
  std::vector<const float*> replies;
  const MonotonicTime give_up = SystemClock().Now() + Duration::Millis(20'000);
  const absl::Status status = dispatcher.Combine(*handle, give_up, &replies);
  EXPECT_TRUE(status.ok()) << status;
  std::vector<float> out;
  if (!status.ok()) return out;
  for (const float* row : replies) out.insert(out.end(), row, row + rows.view.format.hidden);
  return out;
}

}  // namespace octet

#endif  // OCTET_EXPERT_WORKER_TEST_UTIL_H_
