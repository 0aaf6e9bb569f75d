#include "coordinator/expected_experts.h"

#include <algorithm>
#include <numeric>

#include "core/check.h"
#include "core/limits.h"

namespace octet {
namespace {

// Binomial coefficients; those of kExpertsMax stay far below the largest double.
class Binomials {
 public:
  explicit Binomials(uint32_t n) : rows_(n + 1) {
    for (uint32_t i = 0; i <= n; ++i) {
      rows_[i].assign(i + 1, 1.0);
      for (uint32_t j = 1; j < i; ++j) rows_[i][j] = rows_[i - 1][j - 1] + rows_[i - 1][j];
    }
  }
  double operator()(uint32_t n, uint32_t k) const { return k > n ? 0.0 : rows_[n][k]; }

 private:
  std::vector<std::vector<double>> rows_;
};

void CheckArguments(uint32_t experts, uint32_t top_k) {
  OCTET_CHECK(top_k >= 1 && top_k <= experts && experts <= kExpertsMax);
}

// [a]: how likely it is that `rows` rows activate a experts.
std::vector<double> ActiveDistribution(const Binomials& choose, uint32_t experts, uint32_t top_k,
                                       uint32_t rows) {
  std::vector<double> now(experts + 1, 0.0);
  now[0] = 1;
  constexpr double kNegligible = 1e-12;
  for (uint32_t row = 0; row < rows && now[experts] < 1 - kNegligible; ++row) {
    std::vector<double> next(experts + 1, 0.0);
    for (uint32_t a = 0; a <= experts; ++a) {
      if (now[a] == 0) continue;
      for (uint32_t fresh = 0; fresh <= std::min(top_k, experts - a); ++fresh) {
        next[a + fresh] +=
            now[a] * choose(experts - a, fresh) * choose(a, top_k - fresh) / choose(experts, top_k);
      }
    }
    now = std::move(next);
  }
  return now;
}

// [a]: sets of a experts of which no worker serves more than `most`.
std::vector<double> SetsWithin(const Binomials& choose, const std::vector<uint32_t>& served,
                               uint32_t most) {
  std::vector<double> sets = {1.0};
  for (const uint32_t held : served) {
    const uint32_t degree = std::min(most, held);
    std::vector<double> product(sets.size() + degree, 0.0);
    for (size_t i = 0; i < sets.size(); ++i) {
      for (uint32_t j = 0; j <= degree; ++j) product[i + j] += sets[i] * choose(held, j);
    }
    sets = std::move(product);
  }
  return sets;
}

}  // namespace

double ExpectedActive(uint32_t experts, uint32_t top_k, uint32_t rows) {
  CheckArguments(experts, top_k);
  double missed = 1;
  for (uint32_t row = 0; row < rows; ++row) missed *= 1 - static_cast<double>(top_k) / experts;
  return experts * (1 - missed);
}

double ExpectedBusiest(const std::vector<uint32_t>& served, uint32_t top_k, uint32_t rows) {
  const uint32_t experts = std::accumulate(served.begin(), served.end(), 0u);
  CheckArguments(experts, top_k);
  const Binomials choose(experts);
  const std::vector<double> active = ActiveDistribution(choose, experts, top_k, rows);
  const uint32_t greatest = *std::max_element(served.begin(), served.end());
  double expected = 0;  // the sum over m of how likely it is that some worker has more than m
  for (uint32_t most = 0; most < greatest; ++most) {
    const std::vector<double> sets = SetsWithin(choose, served, most);
    double within = 0;
    for (uint32_t a = 0; a < sets.size(); ++a) within += active[a] * sets[a] / choose(experts, a);
    expected += 1 - within;
  }
  return expected;
}

double RowShare(uint32_t experts, uint32_t top_k, uint32_t served) {
  CheckArguments(experts, top_k);
  OCTET_CHECK(served <= experts);
  double none = 1;  // no choice falls on a served expert
  for (uint32_t i = 0; i < top_k; ++i) {
    const double left = static_cast<double>(experts) - served - i;
    none *= std::max(0.0, left) / (experts - i);
  }
  return 1 - none;
}

}  // namespace octet
