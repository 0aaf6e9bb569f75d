// The integer path on the device against the host's kernels, bit for bit: every format and layout,
// few rows and many, values at the ends of their ranges.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kernels/cuda/test_util.h"
#include "kernels/kernels.h"
#include "kernels/test_util.h"

namespace octet {
namespace {

using cuda::test::Api;
using cuda::test::DeviceArray;
using cuda::test::DeviceMatrix;
using cuda::test::Ok;
using octet::test::FirstDifference;
using octet::test::RandomMatrix;
using octet::test::TestContext;

// Rows of normal values, and among them rows that are zero, subnormal, huge, constant, not finite.
std::vector<float> Rows(size_t rows, size_t k, uint32_t seed, bool odd) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(rows * k);
  for (size_t r = 0; r < rows; ++r) {
    const uint32_t what = odd ? rng() % 12 : 11;
    for (size_t i = 0; i < k; ++i) {
      float v = normal(rng);
      if (what == 0) v = 0.0f;
      if (what == 1) v *= 1e-41f;
      if (what == 2) v *= 3e37f;
      if (what == 3) v = i % 2 == 0 ? 127.0f : -127.0f;
      if (what == 4) v *= 1e-31f;
      if (what == 5 && i % 97 == 13) v = NAN;
      if (what == 6 && i == k / 2) v = -INFINITY;
      x[r * k + i] = v;
    }
  }
  return x;
}

struct HostRows {
  QuantizedRows q;
  size_t groups = 0;
};

HostRows Quantize(const ExecContext& ctx, const WeightFormat& format, const std::vector<float>& x,
                  size_t rows, size_t k) {
  HostRows out;
  out.q = AllocQuantizedRows(ctx, format, rows, k);
  QuantizeRows(ctx, {x.data(), rows, k}, out.q);
  out.groups = out.q.padded_k / out.q.group;
  return out;
}

// Index of the first output that differs, and its values, for messages.
void ExpectSameBits(const std::vector<float>& got, const std::vector<float>& want, size_t cols) {
  const size_t at = FirstDifference(got, want);
  ASSERT_EQ(at, got.size()) << "row " << at / cols << " column " << at % cols << ": " << got[at]
                            << " for " << want[at];
}

void CheckProduct(const std::string& name, size_t n, size_t k, size_t rows, uint32_t seed) {
  SCOPED_TRACE(name + " n " + std::to_string(n) + " k " + std::to_string(k) + " rows " +
               std::to_string(rows));
  const RandomMatrix m(name, n, k, seed, seed % 2 == 0);
  TestContext host(DetectCpuLevel(), 8);
  const HostRows x = Quantize(host.ctx, m.format, Rows(rows, k, seed + 1, true), rows, k);
  std::vector<float> want(rows * n);
  MatMulInt(host.ctx, m.w, x.q, {want.data(), rows, n});

  const DeviceMatrix w(m.w);
  const DeviceArray<int8_t> q(x.q.q, rows * x.q.padded_k);
  const DeviceArray<float> scales(x.q.scales, rows * x.groups);
  const DeviceArray<uint8_t> scratch(Api().matmul_scratch_bytes(m.format, k, rows) + 1);
  const DeviceArray<float> y(rows * n);
  Ok(Api().matmul_int(nullptr, w.matrix, q.data(), scales.data(), rows, scratch.data(), y.data(),
                      n));
  ExpectSameBits(y.Get(), want, n);
}

const std::vector<std::string> kTiled = {"q4_0",     "q8_0",   "int4g64", "int4g128", "int8g64",
                                         "int8g128", "w4xg32", "w4xg64",  "w4xg128"};

TEST(CudaProductTest, FewRowsGiveTheBitsOfTheHost) {
  OCTET_NEEDS_CUDA();
  uint32_t seed = 1;
  for (const std::string& name : kTiled) {
    for (const size_t rows : {1u, 7u, 8u, 9u, 16u, 17u, 40u, 64u}) {
      CheckProduct(name, 72, 200, rows, ++seed);
      CheckProduct(name, 300, 512, rows, ++seed);
    }
    CheckProduct(name, 64, 4096, 3, ++seed);
  }
}

TEST(CudaProductTest, ManyRowsGiveTheBitsOfTheHost) {
  OCTET_NEEDS_CUDA();
  uint32_t seed = 100;
  for (const std::string& name : kTiled) {
    for (const size_t rows : {65u, 128u, 129u, 300u}) {
      CheckProduct(name, 72, 200, rows, ++seed);
      CheckProduct(name, 520, 640, rows, ++seed);
    }
    CheckProduct(name, 256, 4096, 130, ++seed);
  }
}

TEST(CudaProductTest, FormatsInPanelsGiveTheBitsOfTheHost) {
  OCTET_NEEDS_CUDA();
  uint32_t seed = 200;
  for (const char* name : {"q4_1", "q5_0", "q5_1", "q4_k", "q5_k", "q6_k"}) {
    for (const size_t rows : {1u, 17u, 70u}) CheckProduct(name, 72, 512, rows, ++seed);
  }
}

struct FfnCase {
  std::string gate;
  std::string down;
  size_t hidden;
  size_t middle;
  size_t experts;
  size_t tokens;
  size_t top_k;
};

// Random rows for each expert; expert 1 gets none where there are several.
struct Routing {
  std::vector<uint32_t> offsets = {0};
  std::vector<uint32_t> rows;
  uint32_t rows_of_expert_max = 0;

  Routing(const FfnCase& c, uint32_t seed) {
    std::mt19937 rng(seed);
    std::vector<std::vector<uint32_t>> of(c.experts);
    for (uint32_t t = 0; t < c.tokens; ++t) {
      for (size_t s = 0; s < c.top_k; ++s) {
        size_t e = rng() % c.experts;
        if (e == 1 && c.experts > 2) e = 0;
        if (of[e].empty() || of[e].back() != t) of[e].push_back(t);
      }
    }
    for (const auto& list : of) {
      rows.insert(rows.end(), list.begin(), list.end());
      offsets.push_back(static_cast<uint32_t>(rows.size()));
      rows_of_expert_max = std::max(rows_of_expert_max, static_cast<uint32_t>(list.size()));
    }
  }
};

void CheckFfn(const FfnCase& c, uint32_t seed) {
  SCOPED_TRACE(c.gate + " " + c.down + " " + std::to_string(c.hidden) + " x " +
               std::to_string(c.middle) + " tokens " + std::to_string(c.tokens));
  std::vector<RandomMatrix> matrices;
  for (size_t e = 0; e < c.experts; ++e) {
    const auto s = static_cast<uint32_t>(seed + 3 * e);
    matrices.emplace_back(c.gate, c.middle, c.hidden, s);
    matrices.emplace_back(c.gate, c.middle, c.hidden, s + 1);
    matrices.emplace_back(c.down, c.hidden, c.middle, s + 2);
  }
  TestContext host(DetectCpuLevel(), 8);
  const WeightFormat& format = matrices[0].format;
  const HostRows x =
      Quantize(host.ctx, format, Rows(c.tokens, c.hidden, seed, true), c.tokens, c.hidden);
  const Routing routing(c, seed);
  std::vector<float> want(routing.rows.size() * c.hidden);
  std::vector<DeviceMatrix> device;
  std::vector<cuda::ExpertMatrices> experts;
  for (size_t e = 0; e < c.experts; ++e) {
    const uint32_t begin = routing.offsets[e], count = routing.offsets[e + 1] - begin;
    ExpertInput input;
    input.q = x.q;
    ExpertFfn(host.ctx, {matrices[3 * e].w, matrices[3 * e + 1].w, matrices[3 * e + 2].w}, input,
              absl::MakeConstSpan(routing.rows).subspan(begin, count),
              {want.data() + begin * c.hidden, count, c.hidden});
    for (size_t i = 0; i < 3; ++i) device.emplace_back(matrices[3 * e + i].w);
    experts.push_back({device[3 * e].matrix, device[3 * e + 1].matrix, device[3 * e + 2].matrix});
  }
  const DeviceArray<cuda::ExpertMatrices> table(experts);
  const DeviceArray<int8_t> q(x.q.q, c.tokens * x.q.padded_k);
  const DeviceArray<float> scales(x.q.scales, c.tokens * x.groups);
  const DeviceArray<uint32_t> offsets(routing.offsets), rows(routing.rows);
  const auto total = static_cast<uint32_t>(routing.rows.size());
  const DeviceArray<uint8_t> scratch(
      Api().moe_scratch_bytes(experts[0], static_cast<uint32_t>(c.experts), total));
  const DeviceArray<float> y(want.size());
  const cuda::RowGroups groups{static_cast<uint32_t>(c.experts), offsets.data(), rows.data(),
                               routing.rows_of_expert_max, total};
  Ok(Api().moe_ffn(nullptr, experts[0], table.data(), groups, q.data(), scales.data(),
                   scratch.data(), y.data()));
  ExpectSameBits(y.Get(), want, c.hidden);
}

TEST(CudaExpertsTest, GiveTheBitsOfTheHost) {
  OCTET_NEEDS_CUDA();
  const std::vector<FfnCase> shapes = {
      {"q4_0", "q4_0", 256, 352, 4, 0, 2},        {"q8_0", "q8_0", 256, 352, 4, 0, 2},
      {"int4g128", "int8g64", 200, 300, 3, 0, 2}, {"int8g64", "int4g128", 72, 328, 3, 0, 2},
      {"int4g64", "int4g64", 320, 448, 8, 0, 2},  {"int8g128", "int8g128", 256, 384, 8, 0, 2},
      {"q4_k", "q6_k", 256, 512, 2, 0, 1},        {"q4_0", "q6_k", 256, 512, 2, 0, 1},
      {"q5_1", "q4_0", 96, 96, 2, 0, 1},          {"w4xg32", "w4xg32", 200, 300, 4, 0, 2},
      {"w4xg64", "w4xg128", 256, 352, 4, 0, 2},   {"w4xg128", "int4g64", 72, 328, 3, 0, 2},
      {"q8_0", "w4xg32", 256, 70, 3, 0, 2},       {"int4g128", "int4g128", 1024, 1536, 8, 0, 2}};
  uint32_t seed = 1;
  for (FfnCase c : shapes) {
    for (const size_t tokens : {1u, 5u, 20u, 64u, 200u, 700u}) {
      c.tokens = tokens;
      CheckFfn(c, seed += 100);
    }
  }
}

// The same row, alone and among others, at any place: equal bits.
TEST(CudaExpertsTest, ARowDoesNotDependOnItsCompany) {
  OCTET_NEEDS_CUDA();
  const size_t k = 512, n = 256;
  for (const char* name : {"int4g128", "q4_0", "int8g128", "w4xg64"}) {
    const RandomMatrix m(name, n, k, 5);
    TestContext host(DetectCpuLevel(), 8);
    const HostRows x = Quantize(host.ctx, m.format, Rows(300, k, 9, false), 300, k);
    const DeviceMatrix w(m.w);
    const DeviceArray<int8_t> q(x.q.q, 300 * x.q.padded_k);
    const DeviceArray<float> scales(x.q.scales, 300 * x.groups);
    const DeviceArray<uint8_t> scratch(Api().matmul_scratch_bytes(m.format, k, 300) + 1);
    const DeviceArray<float> all(300 * n);
    Ok(Api().matmul_int(nullptr, w.matrix, q.data(), scales.data(), 300, scratch.data(), all.data(),
                        n));
    const std::vector<float> whole = all.Get();
    for (const size_t rows : {1u, 3u, 12u, 31u, 64u, 100u}) {
      const size_t first = 300 - rows;
      const DeviceArray<float> y(rows * n);
      Ok(Api().matmul_int(nullptr, w.matrix, q.data() + first * x.q.padded_k,
                          scales.data() + first * x.groups, rows, scratch.data(), y.data(), n));
      ExpectSameBits(y.Get(), {whole.begin() + static_cast<ptrdiff_t>(first * n), whole.end()}, n);
    }
  }
}

TEST(CudaEmbedTest, RowsOfEveryFormatAreThoseOfTheHost) {
  OCTET_NEEDS_CUDA();
  std::vector<std::string> formats = kTiled;
  formats.insert(formats.end(),
                 {"q4_1", "q5_0", "q5_1", "q4_k", "q5_k", "q6_k", "f32", "f16", "bf16"});
  for (const std::string& name : formats) {
    SCOPED_TRACE(name);
    const size_t n = 40, k = 512;
    const RandomMatrix m(name, n, k, 3, false);
    const std::vector<int32_t> ids = {0, 39, 17, 16, 15, 8, 7, 0};
    std::vector<float> want(ids.size() * k);
    for (size_t i = 0; i < ids.size(); ++i) {
      UnpackRow(m.w, static_cast<size_t>(ids[i]), want.data() + i * k);
    }
    const DeviceMatrix table(m.w);
    const DeviceArray<int32_t> device_ids(ids);
    const DeviceArray<float> y(want.size());
    Ok(Api().embed_rows(nullptr, table.matrix, device_ids.data(), ids.size(), y.data()));
    ExpectSameBits(y.Get(), want, k);
  }
}

}  // namespace
}  // namespace octet
