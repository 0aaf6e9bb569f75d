// One expert layer against vectors that train/emulate.py made from docs/numerics.md alone: norm,
// attention gate, experts in w4x and int4 from bf16 weights, combine; every level, bit for bit.
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/check.h"
#include "kernels/kernels.h"
#include "kernels/test_util.h"

namespace octet {
namespace {

using test::AlignedBytes;
using test::AvailableLevels;
using test::FirstDifference;
using test::TestContext;

constexpr size_t kExperts = 4;
constexpr size_t kTopK = 2;
constexpr float kEps = 1e-5f;

struct Record {
  size_t rows = 0;
  size_t columns = 0;
  std::vector<float> values;
};

// The layout is written down in train/emulate.py.
std::map<std::string, Record> LoadVectors() {
  std::ifstream file(OCTET_SOURCE_DIR "/tests/golden/expert_layer/vectors.bin", std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  std::map<std::string, Record> records;
  for (size_t at = 0; at + 36 <= bytes.size();) {
    Record& record = records[std::string(&bytes[at], strnlen(&bytes[at], 24))];
    uint32_t header[3];
    std::memcpy(header, &bytes[at + 24], 12);
    at += 36;
    record.rows = header[1];
    record.columns = header[2];
    if (record.rows * record.columns * header[0] > bytes.size() - at) {
      ADD_FAILURE() << "the file of vectors is cut off";
      return {};
    }
    for (size_t i = 0; i < record.rows * record.columns; ++i, at += header[0]) {
      float value = 0;
      uint16_t half = 0;
      if (header[0] == 4) std::memcpy(&value, &bytes[at], 4);
      if (header[0] == 2) std::memcpy(&half, &bytes[at], 2);
      if (header[0] == 2) value = BF16ToF32(half);
      if (header[0] == 1) value = static_cast<float>(static_cast<uint8_t>(bytes[at]));
      record.values.push_back(value);
    }
  }
  return records;
}

class Packed {
 public:
  Packed(const std::string& format, const Record& r)
      : bytes_(PackedBytes(*WeightFormatFromName(format), r.rows, r.columns)) {
    w_ = {*WeightFormatFromName(format), r.rows, r.columns, bytes_.data(), Device{}};
    const ConstTensorF32 source(r.values.data(), r.rows, r.columns);
    EXPECT_TRUE(PackFloatWeights(w_.format, source, bytes_.data()).ok());
  }
  const PackedWeights& w() const { return w_; }

 private:
  AlignedBytes bytes_;
  PackedWeights w_;
};

class ExpertLayerTest : public testing::Test {
 protected:
  const Record& At(const std::string& name) const {
    const auto it = vectors_.find(name);
    OCTET_CHECK(it != vectors_.end()) << name << " is not in vectors.bin";
    return it->second;
  }
  void ExpectEqual(const std::vector<float>& actual, const std::string& name) const {
    const std::vector<float>& expected = At(name).values;
    ASSERT_EQ(actual.size(), expected.size()) << name;
    const size_t i = FirstDifference(actual, expected);
    ASSERT_EQ(i, actual.size()) << name << ": " << actual[i] << ", expected " << expected[i];
  }
  std::vector<float> RunExpert(const ExecContext& ctx, const std::string& format, size_t expert,
                               const std::vector<float>& h) const {
    const std::string prefix = absl::StrCat(expert, ".");
    const Packed gate(format, At(prefix + "gate")), up(format, At(prefix + "up")),
        down(format, At(prefix + "down"));
    const size_t rows = At("x").rows, hidden = At("x").columns;
    ExpertInput input;
    input.q = AllocQuantizedRows(ctx, gate.w().format, rows, hidden);
    QuantizeRows(ctx, {h.data(), rows, hidden}, input.q);
    std::vector<uint32_t> all(rows);
    for (size_t r = 0; r < rows; ++r) all[r] = static_cast<uint32_t>(r);
    std::vector<float> y(rows * hidden);
    ExpertFfn(ctx, {gate.w(), up.w(), down.w()}, input, all, {y.data(), rows, hidden});
    return y;
  }

  const std::map<std::string, Record> vectors_ = LoadVectors();
};

TEST_F(ExpertLayerTest, PackedWeightsHaveTheValuesOfTheEmulation) {
  for (const std::string format : {"w4xg64", "int4g32"}) {
    const Record& source = At("0.gate");
    const Packed packed(format, source);
    std::vector<float> values(source.values.size());
    for (size_t n = 0; n < source.rows; ++n) {
      UnpackRow(packed.w(), n, &values[n * source.columns]);
    }
    ExpectEqual(values, format + ".gate");
  }
}

TEST_F(ExpertLayerTest, EveryLevelGivesTheBitsOfTheEmulation) {
  const Record& x = At("x");
  const size_t rows = x.rows, hidden = x.columns;
  const Packed q("f32", At("gate_q")), k("f32", At("gate_k")), v("f32", At("gate_v"));
  for (const CpuLevel level : AvailableLevels()) {
    SCOPED_TRACE(CpuLevelName(level));
    TestContext context(level, 2);
    std::vector<float> h(rows * hidden);
    RmsNorm(context.ctx, {x.values.data(), rows, hidden}, At("norm").values.data(), kEps,
            {h.data(), rows, hidden});
    ExpectEqual(h, "h");
    std::vector<uint32_t> chosen(rows * kTopK);
    std::vector<float> weights(rows * kTopK);
    GateAttention(context.ctx, q.w(), k.w(), v.w(), {h.data(), rows, hidden},
                  {rows, kTopK, chosen.data(), weights.data()});
    ExpectEqual({chosen.begin(), chosen.end()}, "chosen");
    ExpectEqual(weights, "weights");
    for (const std::string format : {"w4xg64", "int4g32"}) {
      std::vector<std::vector<float>> replies;
      for (size_t e = 0; e < kExperts; ++e) {
        replies.push_back(RunExpert(context.ctx, format, e, h));
      }
      ExpectEqual(replies[1], format + ".expert_1");
      std::vector<const float*> pointers;
      for (size_t i = 0; i < rows * kTopK; ++i) {
        pointers.push_back(&replies[chosen[i]][i / kTopK * hidden]);
      }
      std::vector<float> y(rows * hidden);
      CombineExperts(context.ctx, {x.values.data(), rows, hidden}, kTopK, weights.data(),
                     pointers.data(), {y.data(), rows, hidden});
      ExpectEqual(y, format + ".y");
    }
  }
}

}  // namespace
}  // namespace octet
