// A checked expert gives the bits of an unchecked one, and sees every change of a code that changes
// its result: in every format, at every level, for every way in which rows are taken together.
#include <algorithm>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/kernels.h"
#include "kernels/panel_layout.h"
#include "kernels/test_util.h"

namespace octet {
namespace {

using test::AvailableLevels;
using test::FirstDifference;
using test::RandomMatrix;
using test::TestContext;

class Expert {
 public:
  Expert(const std::string& format, const std::string& down_format, size_t hidden, size_t middle)
      : hidden_(hidden),
        gate_(format, middle, hidden, 1),
        up_(format, middle, hidden, 2),
        down_(down_format, hidden, middle, 3),
        gate_column_(PaddedK(gate_.format, hidden)),
        up_column_(PaddedK(up_.format, hidden)),
        down_column_(PaddedK(down_.format, middle)) {
    MakeCheckColumn(gate_.w, gate_column_.data());
    MakeCheckColumn(up_.w, up_column_.data());
    MakeCheckColumn(down_.w, down_column_.data());
  }

  // Output of `rows` of x; *fits of the checked one, which must have the same bits.
  std::vector<float> Run(const ExecContext& ctx, const std::vector<float>& x,
                         const std::vector<uint32_t>& rows, bool* fits) const {
    const Arena::Scope scope(*ctx.arena);
    const ExpertWeights w{gate_.w, up_.w, down_.w};
    ExpertInput input;
    input.q = AllocQuantizedRows(ctx, gate_.format, x.size() / hidden_, hidden_);
    QuantizeRows(ctx, {x.data(), x.size() / hidden_, hidden_}, input.q);
    std::vector<float> y(rows.size() * hidden_), checked(rows.size() * hidden_);
    ExpertFfn(ctx, w, input, rows, {y.data(), rows.size(), hidden_});
    *fits = CheckedExpertFfn(ctx, w, {gate_column_.data(), up_column_.data(), down_column_.data()},
                             input, rows, {checked.data(), rows.size(), hidden_});
    if (*fits) {
      EXPECT_EQ(FirstDifference(y, checked), y.size());
    }
    return y;
  }

  // A byte of the value areas, of any matrix.
  uint8_t* AnyCode(std::mt19937* random) {
    RandomMatrix* const matrices[] = {&gate_, &up_, &down_};
    RandomMatrix& m = *matrices[(*random)() % 3];
    const PanelLayout layout = MakePanelLayout(m.format, m.w.k);
    const size_t panel = (*random)() % PanelCount(m.w.n);
    const size_t byte = layout.values + (*random)() % (layout.bytes - layout.values);
    return m.packed.data() + panel * layout.bytes + byte;
  }

 private:
  size_t hidden_;
  RandomMatrix gate_, up_, down_;
  std::vector<uint32_t> gate_column_, up_column_, down_column_;
};

TEST(CheckedExpertFfnTest, SeesEveryChangedCodeThatChangesAResult) {
  struct Case {
    const char *format, *down;
    size_t hidden, middle;
  };
  const Case cases[] = {{"q4_0", "q4_0", 256, 352},        {"q4_1", "q5_0", 64, 96},
                        {"q5_1", "q8_0", 96, 160},         {"q4_k", "q6_k", 256, 512},
                        {"q5_k", "q4_k", 256, 256},        {"int4g64", "int8g64", 200, 300},
                        {"int8g128", "int4g128", 72, 328}, {"w4xg32", "w4xg32", 200, 300},
                        {"w4xg128", "w4xg64", 256, 352},   {"w4xg64", "q4_0", 72, 320}};
  for (const Case& c : cases) {
    SCOPED_TRACE(std::string(c.format) + " " + c.down);
    Expert expert(c.format, c.down, c.hidden, c.middle);
    const std::vector<float> x = test::Normal(70 * c.hidden, 4);
    std::mt19937 random(7);
    uint32_t changed = 0;
    for (const CpuLevel level : AvailableLevels()) {
      for (const int threads : {1, 2}) {
        TestContext context(level, threads);
        for (const size_t count : {1, 2, 3, 4, 5, 9, 31, 32, 33, 64}) {
          if (level == CpuLevel::kScalar && count > 5) continue;
          std::vector<uint32_t> rows;
          for (uint32_t i = 0; i < count; ++i) rows.push_back(i * 37 % 70);
          bool fits = false;
          const std::vector<float> clean = expert.Run(context.ctx, x, rows, &fits);
          ASSERT_TRUE(fits) << CpuLevelName(level) << ", " << count << " rows";
          for (int flip = 0; flip < 4; ++flip) {
            uint8_t* const code = expert.AnyCode(&random);
            const auto bit = static_cast<uint8_t>(1u << random() % 8);
            *code ^= bit;
            const std::vector<float> y = expert.Run(context.ctx, x, rows, &fits);
            *code ^= bit;
            if (FirstDifference(y, clean) == y.size()) continue;
            ++changed;
            ASSERT_FALSE(fits) << CpuLevelName(level) << ", " << count << " rows";
          }
        }
      }
    }
    EXPECT_GE(changed, 10u) << "most flips change a result";
  }
}

}  // namespace
}  // namespace octet
