// Row operations, gates, the plan of a step, heads, quantising and float products on a device: the
// bits of the host's functions, for rows of every kind.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <tuple>
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

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kLeast = std::numeric_limits<float>::denorm_min();

TEST(CudaRowsTest, RmsNorm) {
  OCTET_NEEDS_CUDA();
  Host host;
  for (const size_t cols :
       {1u, 31u, 64u, 75u, 130u, 200u, 2048u, 4096u, 4100u, 8192u, 8196u, 20001u}) {
    for (const size_t rows : {size_t{1}, cols < 300 ? size_t{70} : size_t{11}}) {
      SCOPED_TRACE(testing::Message() << rows << " x " << cols);
      const std::vector<float> x = OddRows(rows, cols, 1), w = Normal(cols, 2);
      std::vector<float> want(rows * cols);
      RmsNorm(host.ctx, {x.data(), rows, cols}, w.data(), 1e-5f, {want.data(), rows, cols});
      const DeviceArray<float> device_x(x), device_w(w), y(rows * cols);
      Ok(Api().rms_norm(nullptr, device_x.data(), rows, cols, device_w.data(), 1e-5f, y.data()));
      ExpectSame(y.Get(), want);
      Ok(Api().rms_norm(nullptr, device_x.data(), rows, cols, device_w.data(), 1e-5f,
                        device_x.data()));
      ExpectSame(device_x.Get(), want);
    }
  }
}

TEST(CudaRowsTest, AddRows) {
  OCTET_NEEDS_CUDA();
  Host host;
  for (const size_t cols : {1u, 3u, 75u, 130u, 4096u}) {
    const size_t rows = 22;
    const std::vector<float> x = OddRows(rows, cols, 1), y = OddRows(rows, cols, 2);
    std::vector<float> want = y;
    AddRows(host.ctx, {x.data(), rows, cols}, {want.data(), rows, cols});
    const DeviceArray<float> device_x(x), device_y(y);
    Ok(Api().add_rows(nullptr, device_x.data(), rows * cols, device_y.data()));
    ExpectSame(device_y.Get(), want);
  }
}

TEST(CudaRowsTest, GatherTakesRowsInAnyOrder) {
  OCTET_NEEDS_CUDA();
  for (const size_t words : {1u, 3u, 4u, 33u, 1024u, 4100u}) {
    for (const size_t count : {1u, 2u, 77u}) {
      SCOPED_TRACE(testing::Message() << count << " rows of " << words);
      std::vector<uint32_t> from(50 * words), rows(count), want;
      std::iota(from.begin(), from.end(), 7u);
      std::mt19937 rng(static_cast<uint32_t>(words));
      for (uint32_t& row : rows) {
        row = static_cast<uint32_t>(rng() % 50);
        want.insert(want.end(), from.begin() + static_cast<ptrdiff_t>(row * words),
                    from.begin() + static_cast<ptrdiff_t>((row + 1) * words));
      }
      const DeviceArray<uint32_t> device_from(from), device_rows(rows), to(count * words + 1);
      Ok(Api().gather_rows(nullptr, device_from.data(), 4 * words, device_rows.data(), count,
                           to.data()));
      std::vector<uint32_t> got = to.Get();
      EXPECT_EQ(got.back(), 0xffffffffu) << "written past the rows";
      got.pop_back();
      EXPECT_EQ(got, want);
    }
  }
  EXPECT_NE(Api().gather_rows(nullptr, nullptr, 6, nullptr, 1, nullptr), 0);
}

TEST(CudaRowsTest, RopeTurnsEachRowAtItsPosition) {
  OCTET_NEEDS_CUDA();
  Host host;
  const size_t table_positions = 300;
  const std::vector<Sequence> sequences = {{0, 1, 299, 0}, {1, 40, 17, 0}, {41, 29, 0, 0}};
  const size_t rows = 70;
  std::vector<uint32_t> row_sequence, positions;
  for (uint32_t s = 0; s < sequences.size(); ++s) {
    for (uint32_t i = 0; i < sequences[s].rows; ++i) {
      row_sequence.push_back(s);
      positions.push_back(sequences[s].position_begin + i);
    }
  }
  const DeviceArray<Sequence> device_sequences(sequences);
  const DeviceArray<uint32_t> device_row_sequence(row_sequence);
  for (const size_t head_dim : {2u, 24u, 64u, 128u}) {
    const size_t heads = 5, cols = heads * head_dim, half = head_dim / 2;
    std::vector<float> c(table_positions * half), s(table_positions * half);
    FillRopeTable(10000.0, head_dim, table_positions, c.data(), s.data());
    const std::vector<float> x = OddRows(rows, cols, 3);
    std::vector<float> want = x;
    ApplyRope(host.ctx, c.data(), s.data(), head_dim, positions, {want.data(), rows, cols});
    const DeviceArray<float> device_x(x), device_c(c), device_s(s);
    Rows batch;
    batch.rows = rows;
    batch.sequences = device_sequences.data();
    batch.row_sequence = device_row_sequence.data();
    batch.sequence_count = static_cast<uint32_t>(sequences.size());
    Ok(Api().apply_rope(nullptr, device_c.data(), device_s.data(), head_dim, batch, heads,
                        device_x.data()));
    ExpectSame(device_x.Get(), want);
  }
}

TEST(CudaRowsTest, CombineFindsRepliesThroughSlots) {
  OCTET_NEEDS_CUDA();
  Host host;
  for (const size_t k : {1u, 2u, 3u, 8u, 16u}) {
    for (const size_t cols : {75u, 130u, 200u, 4096u}) {
      const size_t rows = cols == 4096 ? 3 : 41;
      SCOPED_TRACE(testing::Message() << k << " x " << cols);
      const std::vector<float> x = OddRows(rows, cols, 1), weights = Normal(rows * k, 2),
                               replies = OddRows(rows * k, cols, 3);
      std::vector<uint32_t> slots(rows * k);
      std::iota(slots.begin(), slots.end(), 0u);
      std::shuffle(slots.begin(), slots.end(), std::mt19937(4));
      std::vector<const float*> pointers;
      for (const uint32_t slot : slots) pointers.push_back(&replies[slot * cols]);
      std::vector<float> want(rows * cols);
      CombineExperts(host.ctx, {x.data(), rows, cols}, k, weights.data(), pointers.data(),
                     {want.data(), rows, cols});
      const DeviceArray<float> device_x(x), device_weights(weights), device_replies(replies),
          y(rows * cols);
      const DeviceArray<uint32_t> device_slots(slots);
      for (const float* out : {y.data(), device_x.data()}) {
        Ok(Api().combine(nullptr, device_x.data(), rows, cols, k, device_weights.data(),
                         device_slots.data(), device_replies.data(), const_cast<float*>(out)));
      }
      ExpectSame(y.Get(), want);
      ExpectSame(device_x.Get(), want);
    }
  }
}

TEST(CudaGateTest, LinearGate) {
  OCTET_NEEDS_CUDA();
  Host host;
  const float one = 1.0f;
  for (const size_t experts : {2u, 8u, 32u, 33u, 64u, 160u, 512u}) {
    for (const size_t k : {1u, 2u, 8u}) {
      if (k > experts) continue;
      SCOPED_TRACE(testing::Message() << k << " of " << experts);
      const size_t rows = 70;
      const std::vector<float> logits = OddRows(rows, experts, static_cast<uint32_t>(experts));
      std::vector<uint32_t> want(rows * k);
      std::vector<float> want_weights(rows * k);
      for (size_t r = 0; r < rows; ++r) {
        const Column w(&logits[r * experts], experts);
        GateLinear(host.ctx, w.w, {&one, 1, 1}, {1, k, &want[r * k], &want_weights[r * k]});
      }
      const DeviceArray<float> device_logits(logits), weights(rows * k);
      const DeviceArray<uint32_t> chosen(rows * k);
      Ok(Api().choose_linear(nullptr, device_logits.data(), rows, experts, k, chosen.data(),
                             weights.data()));
      EXPECT_EQ(chosen.Get(), want);
      ExpectSame(weights.Get(), want_weights);
    }
  }
}

TEST(CudaGateTest, AttentionGate) {
  OCTET_NEEDS_CUDA();
  Host host;
  const float one = 1.0f;
  for (const size_t experts : {2u, 8u, 33u, 64u, 160u, 512u}) {
    SCOPED_TRACE(experts);
    const size_t rows = experts > 100 ? 12 : 70, top_k = std::min<size_t>(experts, 8);
    const std::vector<float> q = Normal(rows * experts, 1, 2.0f), k = OddRows(rows, experts, 2),
                             v = Normal(rows * experts, 3);
    std::vector<uint32_t> want(rows * top_k);
    std::vector<float> want_weights(rows * top_k);
    for (size_t r = 0; r < rows; ++r) {
      const size_t at = r * experts;
      const Column wq(&q[at], experts), wk(&k[at], experts), wv(&v[at], experts);
      GateAttention(host.ctx, wq.w, wk.w, wv.w, {&one, 1, 1},
                    {1, top_k, &want[r * top_k], &want_weights[r * top_k]});
    }
    const DeviceArray<float> device_q(q), device_k(k), device_v(v), weights(rows * top_k);
    const DeviceArray<uint32_t> chosen(rows * top_k);
    Ok(Api().choose_attention(nullptr, device_q.data(), device_k.data(), device_v.data(), rows,
                              experts, top_k, chosen.data(), weights.data()));
    EXPECT_EQ(chosen.Get(), want);
    ExpectSame(weights.Get(), want_weights);
  }
}

TEST(CudaGateTest, PlanSortsByExpertThenRow) {
  OCTET_NEEDS_CUDA();
  const std::tuple<size_t, size_t, size_t> shapes[] = {
      {1, 1, 2},    {1, 2, 8},    {70, 2, 8}, {64, 8, 160},  {16, 2, 8},     {512, 2, 64},
      {513, 2, 33}, {2048, 2, 8}, {33, 8, 8}, {100, 1, 512}, {8192, 16, 512}};
  for (const auto& [rows, k, experts] : shapes) {
    SCOPED_TRACE(testing::Message() << rows << " x " << k << " of " << experts);
    std::mt19937 rng(static_cast<uint32_t>(rows));
    std::vector<uint32_t> ids(experts), chosen;
    std::iota(ids.begin(), ids.end(), 0u);
    for (size_t r = 0; r < rows; ++r) {
      // Lower ids more often, so that counts differ.
      for (size_t s = 0; s < k; ++s) {
        const size_t left = experts - s;
        std::swap(ids[s], ids[s + std::min(rng() % left, rng() % left)]);
        chosen.push_back(ids[s]);
      }
    }
    std::vector<uint32_t> want_offsets = {0}, want_rows, want_slots(rows * k);
    for (uint32_t e = 0; e < experts; ++e) {
      for (size_t i = 0; i < chosen.size(); ++i) {
        if (chosen[i] != e) continue;
        want_slots[i] = static_cast<uint32_t>(want_rows.size());
        want_rows.push_back(static_cast<uint32_t>(i / k));
      }
      want_offsets.push_back(static_cast<uint32_t>(want_rows.size()));
    }
    const DeviceArray<uint32_t> device_chosen(chosen), offsets(experts + 1), sorted(rows * k),
        slots(rows * k);
    Ok(Api().plan_rows(nullptr, device_chosen.data(), rows, k, experts, offsets.data(),
                       sorted.data(), slots.data()));
    EXPECT_EQ(offsets.Get(), want_offsets);
    EXPECT_EQ(sorted.Get(), want_rows);
    EXPECT_EQ(slots.Get(), want_slots);
  }
}

TEST(CudaHeadsTest, ScanFindsTheLowestOfTheBest) {
  OCTET_NEEDS_CUDA();
  for (const size_t vocab : {1u, 7u, 75u, 130u, 200u, 4096u, 32000u, 100003u}) {
    const size_t rows = vocab < 5000 ? 64 : 14;
    std::mt19937 rng(static_cast<uint32_t>(vocab));
    std::vector<float> logits = OddRows(rows, vocab, 9);
    const auto row = [&](size_t r) { return &logits[r * vocab]; };
    std::fill_n(row(10), vocab, kNan);
    std::fill_n(row(11), vocab, -kInfinity);
    row(11)[0] = kNan;
    std::fill_n(row(12), vocab, kNan);
    row(12)[rng() % vocab] = -kInfinity;
    row(12)[rng() % vocab] = -kInfinity;
    row(13)[rng() % vocab] = 50.0f;
    row(13)[rng() % vocab] = 50.0f;
    row(7)[rng() % vocab] = 0.0f;
    const DeviceArray<float> device_logits(logits);
    const DeviceArray<int32_t> best(rows);
    const DeviceArray<uint8_t> finite(rows);
    Ok(Api().scan_logits(nullptr, device_logits.data(), rows, vocab, best.data(), finite.data()));
    const std::vector<int32_t> got = best.Get();
    const std::vector<uint8_t> got_finite = finite.Get();
    for (size_t r = 0; r < rows; ++r) {
      const LogitScan want = ScanLogits({row(r), vocab});
      EXPECT_EQ(got[r], want.best) << "row " << r << " of " << vocab;
      EXPECT_EQ(got_finite[r], want.finite ? 1 : 0) << "row " << r << " of " << vocab;
    }
  }
}

void CheckQuantize(Host* host, size_t rows, size_t k, size_t stride, size_t group) {
  const size_t padded_k = (k + group - 1) / group * group, groups = padded_k / group;
  SCOPED_TRACE(testing::Message() << rows << " x " << k << " of " << stride << " by " << group);
  const std::vector<float> x = OddRows(rows, stride, static_cast<uint32_t>(k));
  std::vector<int8_t> want(rows * padded_k);
  std::vector<float> want_scales(rows * groups);
  const QuantizedRows out{rows, padded_k, group, want.data(), want_scales.data()};
  QuantizeRows(host->ctx, {x.data(), rows, k, stride}, out);
  const DeviceArray<float> device_x(x), scales(rows * groups);
  const DeviceArray<int8_t> q(rows * padded_k);
  Ok(Api().quantize_rows(nullptr, device_x.data(), rows, k, stride, padded_k, group, q.data(),
                         scales.data()));
  EXPECT_EQ(q.Get(), want);
  ExpectSame(scales.Get(), want_scales);
}

TEST(CudaRowsTest, QuantizeRowsInGroupsOfAnyLength) {
  OCTET_NEEDS_CUDA();
  Host host;
  for (const size_t group : {16u, 32u, 48u, 64u, 96u, 128u, 256u}) {
    for (const size_t k : {75u, 130u, 200u, 1000u, 4096u}) {
      CheckQuantize(&host, 33, k, k, group);
    }
  }
  CheckQuantize(&host, 20, 200, 203, 32);
  CheckQuantize(&host, 20, 200, 204, 128);
  CheckQuantize(&host, 1, 4096, 4096, 128);
  for (const size_t k : {64u, 192u, 4096u, 8192u, 14336u}) CheckQuantize(&host, 21, k, k, k);
  CheckQuantize(&host, 21, 14300, 14300, 14336);
  CheckQuantize(&host, 3, 262100, 262100, 262144);
}

// The product of one matrix with each of `row_counts` rows, `gap` floats between them.
void CheckProducts(Host* host, const char* format, size_t n, size_t k,
                   const std::vector<size_t>& row_counts, size_t gap = 0) {
  const RandomMatrix matrix(format, n, k, static_cast<uint32_t>(n + k));
  const DeviceMatrix w(matrix.w);
  const size_t stride = k + gap, y_stride = n + 3;
  for (const size_t rows : row_counts) {
    SCOPED_TRACE(testing::Message() << format << " [" << n << ", " << k << "], rows " << rows
                                    << ", stride " << stride);
    const std::vector<float> x = OddRows(rows, stride, static_cast<uint32_t>(rows));
    // What lies between the rows of the result stays as it was.
    std::vector<float> want(rows * y_stride, 7.0f);
    const DeviceArray<float> device_x(x), y(want);
    MatMulFloat(host->ctx, matrix.w, {x.data(), rows, k, stride}, {want.data(), rows, n, y_stride});
    Ok(Api().matmul_float(nullptr, w.matrix, device_x.data(), rows, stride, y.data(), y_stride));
    ExpectSame(y.Get(), want);
  }
}

TEST(CudaFloatProductTest, EveryTileAndOddShape) {
  OCTET_NEEDS_CUDA();
  Host host;
  for (const char* format : {"f32", "f16", "bf16"}) {
    for (const size_t k : {1u, 75u, 130u, 200u, 1000u}) {
      for (const size_t n : {1u, 5u, 8u, 9u, 16u, 33u, 160u}) {
        CheckProducts(&host, format, n, k, {1, 9, 70});
        CheckProducts(&host, format, n, k, {2}, 3);
      }
    }
    // Wide matrices, for tiles of one row, few, some and many, and steps past all stages.
    CheckProducts(&host, format, 8200, 75, {1, 2, 7, 8, 9, 31, 33, 70});
    CheckProducts(&host, format, 8197, 328, {1, 2, 7, 8, 9, 31, 33, 70}, 4);
    CheckProducts(&host, format, 200, 300, {300});
    CheckProducts(&host, format, 8, 520, {600});
  }
}

// Sums that end in a negative zero stay so, whatever pads the last step.
TEST(CudaFloatProductTest, KeepsNegativeZero) {
  OCTET_NEEDS_CUDA();
  Host host;
  for (const char* format : {"f32", "f16", "bf16"}) {
    for (const size_t n : {4u, 40u}) {
      const size_t k = 5;
      const WeightFormat f = *WeightFormatFromName(format);
      octet::test::AlignedBytes packed(PackedBytes(f, n, k));
      const std::vector<float> weights(n * k, 0.125f);
      ASSERT_TRUE(PackFloatWeights(f, {weights.data(), n, k}, packed.data()).ok());
      const PackedWeights w{f, n, k, packed.data(), octet::Device{}};
      const std::vector<float> x(k, -kLeast);
      const DeviceMatrix matrix(w);
      const DeviceArray<float> device_x(x), y(n);
      Ok(Api().matmul_float(nullptr, matrix.matrix, device_x.data(), 1, k, y.data(), n));
      ExpectSame(y.Get(), std::vector<float>(n, -0.0f));
    }
  }
}

}  // namespace
}  // namespace octet::cuda
