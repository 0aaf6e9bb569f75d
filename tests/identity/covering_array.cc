#include "tests/identity/covering_array.h"

#include <set>
#include <tuple>
#include <utility>

namespace octet {

namespace {

// Dimensions a < b and their values.
using Pair = std::tuple<size_t, size_t, size_t, size_t>;

Pair MakePair(size_t a, size_t va, size_t b, size_t vb) {
  return a < b ? Pair(a, b, va, vb) : Pair(b, a, vb, va);
}

constexpr size_t kOpen = static_cast<size_t>(-1);

// Pairs still wanted that setting dimension d to `value` would complete.
size_t Gain(const Configuration& row, size_t d, size_t value, const std::set<Pair>& wanted) {
  size_t gain = 0;
  for (size_t other = 0; other < row.size(); ++other) {
    if (other != d && row[other] != kOpen) {
      gain += wanted.count(MakePair(d, value, other, row[other]));
    }
  }
  return gain;
}

}  // namespace

std::vector<Configuration> PairwiseArray(const std::vector<size_t>& sizes) {
  std::set<Pair> wanted;
  for (size_t a = 0; a < sizes.size(); ++a) {
    for (size_t b = a + 1; b < sizes.size(); ++b) {
      for (size_t va = 0; va < sizes[a]; ++va) {
        for (size_t vb = 0; vb < sizes[b]; ++vb) wanted.insert(Pair(a, b, va, vb));
      }
    }
  }
  std::vector<Configuration> rows;
  while (!wanted.empty()) {
    Configuration row(sizes.size(), kOpen);
    const auto [a, b, va, vb] = *wanted.begin();
    row[a] = va;
    row[b] = vb;
    for (size_t d = 0; d < sizes.size(); ++d) {
      if (row[d] != kOpen) continue;
      // Rows start at different values, so that those which gain nothing now still vary.
      const size_t first = rows.size() % sizes[d];
      size_t best = first;
      for (size_t i = 0; i < sizes[d]; ++i) {
        const size_t value = (first + i) % sizes[d];
        if (Gain(row, d, value, wanted) > Gain(row, d, best, wanted)) best = value;
      }
      row[d] = best;
    }
    for (size_t x = 0; x < row.size(); ++x) {
      for (size_t y = x + 1; y < row.size(); ++y) wanted.erase(Pair(x, y, row[x], row[y]));
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

std::vector<Configuration> FullProduct(const std::vector<size_t>& sizes) {
  std::vector<Configuration> rows;
  Configuration row(sizes.size(), 0);
  while (true) {
    rows.push_back(row);
    size_t d = sizes.size();
    while (d > 0 && ++row[d - 1] == sizes[d - 1]) row[--d] = 0;
    if (d == 0) return rows;
  }
}

}  // namespace octet
