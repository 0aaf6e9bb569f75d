// Launches that do several row operations at once: the bits of the functions that they stand for,
// on the device and on the host, also where launches overlap.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/cuda/row_test_util.h"
#include "kernels/cuda/test_util.h"
#include "kernels/kernels.h"
#include "kernels/test_util.h"

namespace octet::cuda {
namespace {

using octet::test::RandomMatrix;
using test::Api;
using test::Column;
using test::DeviceArray;
using test::DeviceMatrix;
using test::ExpectSame;
using test::Host;
using test::Normal;
using test::OddRows;
using test::Ok;

// ---- norm_quantize ----

constexpr size_t kDelta = 100;  // as number of replies: a row is added instead

struct NormShape {
  size_t rows;
  size_t cols;
  size_t replies;     // 0: nothing is added
  size_t group;       // 0: the row
  size_t offset = 0;  // of x in its memory, in floats
};

// Inputs of one call, and what the host makes of them.
struct NormCase {
  explicit NormCase(const NormShape& s)
      : rows(s.rows),
        cols(s.cols),
        k(s.replies == kDelta ? 0 : s.replies),
        group(s.group == 0 ? (s.cols + 127) / 128 * 128 : s.group),
        padded_k((s.cols + group - 1) / group * group),
        x(OddRows(rows, cols, 1)),
        norm(Normal(cols, 2)),
        adds_delta(s.replies == kDelta),
        delta(OddRows(rows, cols, 7)),
        replies(OddRows(rows * std::max<size_t>(k, 1), cols, 3)),
        weights(Normal(rows * std::max<size_t>(k, 1), 4)),
        slots(weights.size()),
        sum(x),
        normed(rows * cols),
        q(rows * padded_k),
        scales(rows * padded_k / group) {
    std::iota(slots.begin(), slots.end(), 0u);
    std::shuffle(slots.begin(), slots.end(), std::mt19937(5));
    Host host;
    if (adds_delta) {
      AddRows(host.ctx, {delta.data(), rows, cols}, {sum.data(), rows, cols});
    } else if (k > 0) {
      std::vector<const float*> pointers;
      for (const uint32_t slot : slots) pointers.push_back(&replies[slot * cols]);
      CombineExperts(host.ctx, {x.data(), rows, cols}, k, weights.data(), pointers.data(),
                     {sum.data(), rows, cols});
    }
    RmsNorm(host.ctx, {sum.data(), rows, cols}, norm.data(), kEps, {normed.data(), rows, cols});
    QuantizeRows(host.ctx, {normed.data(), rows, cols},
                 {rows, padded_k, group, q.data(), scales.data()});
  }
  static constexpr float kEps = 1e-5f;

  size_t rows, cols, k, group, padded_k;
  std::vector<float> x, norm;
  bool adds_delta;
  std::vector<float> delta, replies, weights;
  std::vector<uint32_t> slots;
  std::vector<float> sum, normed;
  std::vector<int8_t> q;
  std::vector<float> scales;
};

// With every output, in place or not, early or not; then only some outputs.
void CheckNorm(const NormShape& s) {
  SCOPED_TRACE(testing::Message() << s.rows << " x " << s.cols << ", replies " << s.replies
                                  << ", group " << s.group << ", offset " << s.offset);
  const NormCase want(s);
  const DeviceArray<float> norm(want.norm), delta(want.delta), replies(want.replies),
      weights(want.weights);
  const DeviceArray<uint32_t> slots(want.slots);
  for (const bool early : {false, true}) {
    for (const bool in_place : {false, true}) {
      for (const bool all : {true, false}) {
        const size_t count = want.rows * want.cols;
        const DeviceArray<float> x_memory(count + s.offset), out(count), normed(count),
            scales(want.scales.size());
        const DeviceArray<int8_t> q(want.q.size());
        Ok(Api().copy(nullptr, x_memory.data() + s.offset, want.x.data(), count * sizeof(float)));
        NormQuantize call;
        call.rows = want.rows;
        call.cols = want.cols;
        call.x = x_memory.data() + s.offset;
        call.delta = want.adds_delta ? delta.data() : nullptr;
        call.k = want.k;
        call.weights = weights.data();
        call.slots = slots.data();
        call.replies = want.k > 0 ? replies.data() : nullptr;
        call.x_out = in_place ? x_memory.data() + s.offset : out.data();
        call.norm_weight = norm.data();
        call.eps = NormCase::kEps;
        // Of the two results one alone is asked for in turn.
        if (all || in_place) call.normed = normed.data();
        if (all || !in_place) call.q = q.data();
        call.padded_k = want.padded_k;
        call.group = want.group;
        call.scales = scales.data();
        call.early = early;
        Ok(Api().norm_quantize(nullptr, call));
        if (call.normed != nullptr) ExpectSame(normed.Get(), want.normed);
        if (call.q != nullptr) {
          EXPECT_EQ(q.Get(), want.q);
          ExpectSame(scales.Get(), want.scales);
        }
        if (s.replies == 0) continue;
        std::vector<float> sum(count);
        Ok(Api().copy(nullptr, sum.data(), call.x_out, count * sizeof(float)));
        Ok(Api().synchronize(nullptr));
        ExpectSame(sum, want.sum);
      }
    }
  }
}

TEST(CudaFusedTest, NormQuantizeOfEveryShape) {
  OCTET_NEEDS_CUDA();
  for (const size_t replies : {size_t{0}, kDelta, size_t{1}, size_t{2}, size_t{3}, size_t{8}}) {
    for (const size_t group : {32u, 64u, 128u, 0u}) {
      for (const size_t cols : {64u, 2048u, 4096u})
        CheckNorm({cols == 64 ? 70u : 11u, cols, replies, group});
      CheckNorm({21, 200, replies, group});
    }
    for (const size_t cols : {6144u, 8192u, 16384u}) CheckNorm({11, cols, replies, 128});
    CheckNorm({11, 14300, replies, 0});
  }
  CheckNorm({1, 4096, 2, 128});
  CheckNorm({64, 4096, 2, 0});
}

// Rows that no block holds: too long, not of whole vectors, not aligned, in other groups.
TEST(CudaFusedTest, NormQuantizeOfRowsThatAreNotHeld) {
  OCTET_NEEDS_CUDA();
  for (const size_t replies : {size_t{0}, kDelta, size_t{1}, size_t{3}, size_t{17}}) {
    CheckNorm({21, 75, replies, 32});
    CheckNorm({21, 130, replies, 0});
    CheckNorm({21, 200, replies, 48});
    CheckNorm({11, 4096, replies, 64, 1});
    CheckNorm({11, 4096, replies, 256});
    CheckNorm({3, 20001, replies, 128});
    CheckNorm({3, 20000, replies, 0});
  }
}

TEST(CudaFusedTest, NormMayReplaceItsInput) {
  OCTET_NEEDS_CUDA();
  for (const size_t cols : {4096u, 75u}) {
    const NormCase want({21, cols, 0, 0});
    const DeviceArray<float> x(want.x), norm(want.norm);
    NormQuantize call;
    call.rows = want.rows;
    call.cols = cols;
    call.x = x.data();
    call.norm_weight = norm.data();
    call.eps = NormCase::kEps;
    call.normed = x.data();
    Ok(Api().norm_quantize(nullptr, call));
    ExpectSame(x.Get(), want.normed);
  }
}

// ---- rope_append ----

// Rows of a sequence that has `context` positions already.
struct Work {
  uint32_t context;
  uint32_t rows;
};

struct RopeBatch {
  explicit RopeBatch(const std::vector<Work>& work) {
    std::vector<Sequence> list;
    std::vector<uint32_t> of_row, ids;
    uint32_t blocks_of_all = 0;
    for (const Work& w : work) {
      const uint32_t count = (w.context + w.rows + 63) / 64;
      const auto row = static_cast<uint32_t>(of_row.size());
      list.push_back({row, w.rows, w.context, blocks_of_all});
      of_row.insert(of_row.end(), w.rows, static_cast<uint32_t>(list.size() - 1));
      for (uint32_t i = 0; i < w.rows; ++i) positions.push_back(w.context + i);
      blocks_of_all += count;
    }
    for (uint32_t b = 0; b < blocks_of_all; ++b) blocks.push_back(BlockId(b + 1));
    std::shuffle(blocks.begin(), blocks.end(), std::mt19937(1));
    for (const BlockId b : blocks) ids.push_back(b.value());
    for (const Sequence& s : list) {
      const size_t count = (s.position_begin + s.rows + 63) / 64;
      host.push_back({s.row_begin, s.rows, s.position_begin, {&blocks[s.block_begin], count}});
    }
    sequences = DeviceArray<Sequence>(list);
    row_sequence = DeviceArray<uint32_t>(of_row);
    device_blocks = DeviceArray<uint32_t>(ids);
    rows.rows = static_cast<uint32_t>(of_row.size());
    rows.sequences = sequences.data();
    rows.row_sequence = row_sequence.data();
    rows.blocks = device_blocks.data();
    rows.sequence_count = static_cast<uint32_t>(list.size());
    rows.positions_max = *std::max_element(positions.begin(), positions.end()) + 1;
  }
  std::vector<uint32_t> positions;
  std::vector<BlockId> blocks;
  std::vector<SequenceRows> host;
  DeviceArray<Sequence> sequences;
  DeviceArray<uint32_t> row_sequence, device_blocks;
  Rows rows;
};

// The elements of a cache as floats.
std::vector<float> Elements(const uint8_t* bytes, size_t size, DType dtype) {
  std::vector<float> out;
  for (size_t i = 0; i < size; i += dtype == DType::kF16 ? 2 : 4) {
    float value;
    uint16_t half;
    std::memcpy(&half, bytes + i, 2);
    if (dtype == DType::kF16) {
      value = F16ToF32(half);
    } else {
      std::memcpy(&value, bytes + i, 4);
    }
    out.push_back(value);
  }
  return out;
}

void CheckRope(size_t heads, size_t kv_heads, size_t head_dim, DType dtype,
               const std::vector<Work>& work) {
  SCOPED_TRACE(testing::Message() << heads << "/" << kv_heads << " dim " << head_dim << ", "
                                  << (dtype == DType::kF16 ? "f16" : "f32"));
  Host host;
  const RopeBatch batch(work);
  const size_t rows = batch.rows.rows, q_cols = heads * head_dim, k_cols = kv_heads * head_dim;
  SCOPED_TRACE(rows);
  const size_t stride = KvBlockLayerBytes(dtype, kv_heads, head_dim) + 128;
  const std::vector<uint8_t> empty(stride * (batch.blocks.size() + 2), 0xff);
  std::vector<float> c(batch.rows.positions_max * head_dim / 2), s(c.size());
  FillRopeTable(10000.0, head_dim, batch.rows.positions_max, c.data(), s.data());
  const auto q = OddRows(rows, q_cols, 1), k = OddRows(rows, k_cols, 2),
             v = OddRows(rows, k_cols, 3);

  std::vector<float> want_q = q, turned = k;
  octet::test::AlignedBytes memory(empty.size());
  std::memcpy(memory.data(), empty.data(), empty.size());
  ApplyRope(host.ctx, c.data(), s.data(), head_dim, batch.positions, {want_q.data(), rows, q_cols});
  ApplyRope(host.ctx, c.data(), s.data(), head_dim, batch.positions, {turned.data(), rows, k_cols});
  AppendKv(host.ctx, {memory.data(), stride, dtype, kv_heads, head_dim}, batch.host,
           {turned.data(), rows, k_cols}, {v.data(), rows, k_cols});

  const DeviceArray<float> device_c(c), device_s(s), device_v(v), chain_k(k);
  const DeviceArray<uint8_t> chain(empty);
  Cache cache{chain.data(), stride, dtype, static_cast<uint32_t>(kv_heads),
              static_cast<uint32_t>(head_dim)};
  Ok(Api().apply_rope(nullptr, device_c.data(), device_s.data(), head_dim, batch.rows, kv_heads,
                      chain_k.data()));
  Ok(Api().append_kv(nullptr, cache, batch.rows, chain_k.data(), device_v.data()));
  for (const bool early : {false, true}) {
    const DeviceArray<float> device_q(q), device_k(k);
    const DeviceArray<uint8_t> fused(empty);
    cache.data = fused.data();
    RopeAppend call{device_c.data(), device_s.data(), batch.rows,      heads, device_q.data(),
                    cache,           device_k.data(), device_v.data(), early};
    Ok(Api().rope_append(nullptr, call));
    ExpectSame(device_q.Get(), want_q);
    const std::vector<uint8_t> got = fused.Get();
    EXPECT_TRUE(got == chain.Get());
    ExpectSame(Elements(got.data(), got.size(), dtype),
               Elements(memory.data(), memory.size(), dtype));
  }
}

TEST(CudaFusedTest, RopeAppend) {
  OCTET_NEEDS_CUDA();
  std::vector<Work> decode, many;
  for (uint32_t i = 0; i < 64; ++i) decode.push_back({i * 5, 1});
  for (uint32_t i = 0; i < 20; ++i) many.push_back({i * 30, 1 + i % 8});
  for (const DType dtype : {DType::kF16, DType::kF32}) {
    for (const auto& work : {decode, many, {{200, 1}}, {{63, 2}, {0, 1}, {10, 60}}}) {
      CheckRope(32, 8, 128, dtype, work);
      CheckRope(5, 1, 24, dtype, work);
      CheckRope(4, 4, 2, dtype, work);
    }
  }
}

// ---- choose_plan ----

// Outputs of a choice and its plan, on the device.
struct PlanOut {
  PlanOut(size_t rows, size_t experts, size_t k)
      : chosen(rows * k),
        offsets(experts + 1),
        sorted(rows * k),
        slots(rows * k),
        weights(rows * k) {}
  DeviceArray<uint32_t> chosen, offsets, sorted, slots;
  DeviceArray<float> weights;
};

void ExpectSamePlan(const PlanOut& got, const PlanOut& want) {
  EXPECT_EQ(got.chosen.Get(), want.chosen.Get());
  EXPECT_EQ(got.offsets.Get(), want.offsets.Get());
  EXPECT_EQ(got.sorted.Get(), want.sorted.Get());
  EXPECT_EQ(got.slots.Get(), want.slots.Get());
  ExpectSame(got.weights.Get(), want.weights.Get());
}

void CheckPlan(size_t rows, size_t experts, size_t k, bool attends) {
  SCOPED_TRACE(testing::Message() << (attends ? "attention " : "linear ") << rows << " rows, " << k
                                  << " of " << experts);
  Host host;
  const float one = 1.0f;
  const std::vector<float> logits = OddRows(rows, experts, static_cast<uint32_t>(experts)),
                           q = Normal(rows * experts, 1, 2.0f), v = Normal(rows * experts, 3);
  std::vector<uint32_t> chosen(rows * k);
  std::vector<float> weights(rows * k);
  for (size_t r = 0; r < rows; ++r) {
    const size_t at = r * experts;
    const Column key(&logits[at], experts), query(&q[at], experts), value(&v[at], experts);
    const TopK out{1, k, &chosen[r * k], &weights[r * k]};
    if (attends) {
      GateAttention(host.ctx, query.w, key.w, value.w, {&one, 1, 1}, out);
    } else {
      GateLinear(host.ctx, key.w, {&one, 1, 1}, out);
    }
  }
  const DeviceArray<float> device_logits(logits), device_q(q), device_v(v);
  const PlanOut chain(rows, experts, k);
  if (attends) {
    Ok(Api().choose_attention(nullptr, device_q.data(), device_logits.data(), device_v.data(), rows,
                              experts, k, chain.chosen.data(), chain.weights.data()));
  } else {
    Ok(Api().choose_linear(nullptr, device_logits.data(), rows, experts, k, chain.chosen.data(),
                           chain.weights.data()));
  }
  Ok(Api().plan_rows(nullptr, chain.chosen.data(), rows, k, experts, chain.offsets.data(),
                     chain.sorted.data(), chain.slots.data()));
  for (const bool early : {false, true}) {
    const PlanOut out(rows, experts, k);
    ChoosePlan call;
    call.rows = rows;
    call.experts = experts;
    call.top_k = k;
    call.logits = attends ? nullptr : device_logits.data();
    call.q = device_q.data();
    call.k = device_logits.data();
    call.v = device_v.data();
    call.chosen = out.chosen.data();
    call.weights = out.weights.data();
    call.offsets = out.offsets.data();
    call.sorted_rows = out.sorted.data();
    call.slots = out.slots.data();
    call.early = early;
    Ok(Api().choose_plan(nullptr, call));
    EXPECT_EQ(out.chosen.Get(), chosen);
    ExpectSame(out.weights.Get(), weights);
    ExpectSamePlan(out, chain);
  }
}

TEST(CudaFusedTest, ChoosePlan) {
  OCTET_NEEDS_CUDA();
  for (const size_t rows : {1u, 3u, 16u, 31u, 64u, 70u, 128u, 129u}) {
    for (const size_t experts : {2u, 8u, 9u, 16u, 17u, 32u, 33u, 64u, 160u}) {
      for (const size_t k : {1u, 2u, 8u}) {
        if (k <= experts) CheckPlan(rows, experts, k, false);
      }
      if (experts <= 64) CheckPlan(rows, experts, 2, true);
    }
  }
  CheckPlan(1, 64, 32, false);
  CheckPlan(32, 64, 32, false);
  CheckPlan(33, 40, 32, false);
  CheckPlan(56, 17, 9, true);
  CheckPlan(56, 17, 16, true);
  CheckPlan(16, 32, 32, true);
  CheckPlan(128, 8, 8, true);
}

// ---- matmul_gate ----

TEST(CudaFusedTest, GateProduct) {
  OCTET_NEEDS_CUDA();
  Host host;
  for (const size_t n : {1u, 5u, 8u, 9u}) {
    // Less than a stage, whole ones, ends of all lengths, one row a block, more than is held.
    for (const size_t k : {100u, 128u, 256u, 512u, 640u, 1024u, 4096u, 4224u, 6144u, 8192u}) {
      const RandomMatrix matrix("f32", n, k, static_cast<uint32_t>(n + k));
      const DeviceMatrix w(matrix.w);
      for (const size_t rows : {1u, 2u, 3u, 64u, 70u, 133u, 265u, 529u}) {
        if (k > 1024 && rows > 133 && n != 8) continue;
        const size_t stride = k + (rows % 3 == 1 ? 4 : rows % 3 == 2 ? 3 : 0), y_stride = n + 3;
        SCOPED_TRACE(testing::Message()
                     << n << " x " << k << ", rows " << rows << " of " << stride);
        const std::vector<float> x = OddRows(rows, stride, static_cast<uint32_t>(rows));
        std::vector<float> want(rows * y_stride, 7.0f);
        const DeviceArray<float> device_x(x);
        const DeviceArray<float> y(want), y_early(want), y_float(want);
        MatMulFloat(host.ctx, matrix.w, {x.data(), rows, k, stride},
                    {want.data(), rows, n, y_stride});
        GateProduct call{w.matrix, device_x.data(), rows, stride, y.data(), y_stride, false};
        Ok(Api().matmul_gate(nullptr, call));
        call.y = y_early.data();
        call.early = true;
        Ok(Api().matmul_gate(nullptr, call));
        Ok(Api().matmul_float(nullptr, w.matrix, device_x.data(), rows, stride, y_float.data(),
                              y_stride));
        ExpectSame(y.Get(), want);
        ExpectSame(y_early.Get(), want);
        ExpectSame(y_float.Get(), want);
      }
    }
  }
}

// ---- Overlapping launches ----

// Layers of a step that has nothing but row operations: every launch reads what the one ahead of it
// writes, and writes over what others read before.
class Layers {
 public:
  static constexpr size_t kRows = 48, kCols = 1024, kExperts = 8, kTopK = 2, kHeadDim = 64,
                          kHeads = kCols / kHeadDim;
  static constexpr int kLayers = 25;

  Layers() {
    FillRopeTable(10000.0, kHeadDim, 300, cos_host_.data(), sin_host_.data());
    cos_ = DeviceArray<float>(cos_host_);
    sin_ = DeviceArray<float>(sin_host_);
  }

  void Fused(Stream s, bool early) const {
    NormQuantize norm;
    norm.rows = kRows;
    norm.cols = kCols;
    norm.x = norm.x_out = x_.data();
    norm.norm_weight = norm_.data();
    norm.eps = 1e-5f;
    norm.normed = normed_.data();
    norm.q = q_.data();
    norm.padded_k = norm.group = kCols;
    norm.scales = scales_.data();
    norm.early = early;
    NormQuantize combine = norm;
    combine.k = kTopK;
    combine.weights = plan_.weights.data();
    combine.slots = plan_.slots.data();
    combine.replies = replies_.data();
    ChoosePlan plan;
    plan.rows = kRows;
    plan.experts = kExperts;
    plan.top_k = kTopK;
    plan.logits = logits_.data();
    plan.chosen = plan_.chosen.data();
    plan.weights = plan_.weights.data();
    plan.offsets = plan_.offsets.data();
    plan.sorted_rows = plan_.sorted.data();
    plan.slots = plan_.slots.data();
    plan.early = early;
    const GateProduct gate{gate_.matrix,   normed_.data(), kRows, kCols,
                           logits_.data(), kExperts,       early};
    const RopeAppend rope{cos_.data(), sin_.data(), batch_.rows, kHeads, normed_.data(),
                          cache_,      key_.data(), key_.data(), early};
    for (int layer = 0; layer < kLayers; ++layer) {
      Ok(Api().norm_quantize(s, norm));
      Ok(Api().matmul_gate(s, gate));
      Ok(Api().choose_plan(s, plan));
      Ok(Api().norm_quantize(s, combine));
      Ok(Api().rope_append(s, rope));
      norm.delta = normed_.data();
    }
  }

  void Separate(Stream s) const {
    const CudaApi& api = Api();
    const auto norm = [&] {
      Ok(api.rms_norm(s, x_.data(), kRows, kCols, norm_.data(), 1e-5f, normed_.data()));
      Ok(api.quantize_rows(s, normed_.data(), kRows, kCols, kCols, kCols, kCols, q_.data(),
                           scales_.data()));
    };
    for (int layer = 0; layer < kLayers; ++layer) {
      if (layer > 0) Ok(api.add_rows(s, normed_.data(), kRows * kCols, x_.data()));
      norm();
      Ok(api.matmul_float(s, gate_.matrix, normed_.data(), kRows, kCols, logits_.data(), kExperts));
      Ok(api.choose_linear(s, logits_.data(), kRows, kExperts, kTopK, plan_.chosen.data(),
                           plan_.weights.data()));
      Ok(api.plan_rows(s, plan_.chosen.data(), kRows, kTopK, kExperts, plan_.offsets.data(),
                       plan_.sorted.data(), plan_.slots.data()));
      Ok(api.combine(s, x_.data(), kRows, kCols, kTopK, plan_.weights.data(), plan_.slots.data(),
                     replies_.data(), x_.data()));
      norm();
      Ok(api.apply_rope(s, cos_.data(), sin_.data(), kHeadDim, batch_.rows, kHeads,
                        normed_.data()));
    }
  }

  // Everything as before the first layer.
  void Reset() const {
    const std::vector<float> x = Normal(kRows * kCols, 1);
    Ok(Api().copy(nullptr, x_.data(), x.data(), x.size() * sizeof(float)));
    Ok(Api().synchronize(nullptr));
  }
  std::vector<float> x() const { return x_.Get(); }
  std::vector<int8_t> q() const { return q_.Get(); }

 private:
  static std::vector<Work> Sequences() {
    std::vector<Work> work;
    for (uint32_t i = 0; i < kRows; ++i) work.push_back({i * 6, 1});
    return work;
  }

  std::vector<float> cos_host_ = std::vector<float>(300 * kHeadDim / 2);
  std::vector<float> sin_host_ = cos_host_;
  RopeBatch batch_{Sequences()};
  RandomMatrix matrix_{"f32", kExperts, kCols, 1};
  DeviceMatrix gate_{matrix_.w};
  PlanOut plan_{kRows, kExperts, kTopK};
  DeviceArray<float> x_{kRows * kCols}, normed_{kRows * kCols}, logits_{kRows * kExperts},
      norm_{Normal(kCols, 2)}, replies_{Normal(kRows * kTopK * kCols, 3)}, scales_{kRows}, cos_,
      sin_, key_{Normal(kRows * 4 * kHeadDim, 4)};
  DeviceArray<int8_t> q_{kRows * kCols};
  DeviceArray<uint8_t> cache_memory_{KvBlockLayerBytes(DType::kF16, 4, kHeadDim) * 300};
  Cache cache_{cache_memory_.data(), KvBlockLayerBytes(DType::kF16, 4, kHeadDim), DType::kF16, 4,
               kHeadDim};
};

TEST(CudaFusedTest, OverlappingLaunchesSeeWhatIsWrittenAhead) {
  OCTET_NEEDS_CUDA();
  const CudaApi& api = Api();
  const Layers layers;
  Stream stream;
  Graph graph;
  Ok(api.create_stream(&stream));
  layers.Reset();
  layers.Separate(stream);
  Ok(api.synchronize(stream));
  const std::vector<float> want = layers.x();
  const std::vector<int8_t> want_q = layers.q();
  for (const bool early : {false, true}) {
    layers.Reset();
    layers.Fused(stream, early);
    Ok(api.synchronize(stream));
    ExpectSame(layers.x(), want);
    EXPECT_EQ(layers.q(), want_q);
  }
  Ok(api.begin_capture(stream));
  layers.Fused(stream, true);
  Ok(api.end_capture(stream, &graph));
  for (int run = 0; run < 10; ++run) {
    layers.Reset();
    Ok(api.launch_graph(stream, graph));
    Ok(api.synchronize(stream));
    ExpectSame(layers.x(), want);
    EXPECT_EQ(layers.q(), want_q);
  }
  api.destroy_graph(graph);
  api.destroy_stream(stream);
}

}  // namespace
}  // namespace octet::cuda
