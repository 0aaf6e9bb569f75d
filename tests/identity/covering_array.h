// Pairwise covering arrays: few configurations in which every pair of values of every two
// dimensions occurs together.
#ifndef OCTET_TESTS_IDENTITY_COVERING_ARRAY_H_
#define OCTET_TESTS_IDENTITY_COVERING_ARRAY_H_

#include <cstddef>
#include <vector>

namespace octet {

// One value, in [0, sizes[d]), for each dimension d.
using Configuration = std::vector<size_t>;

// A covering array by greedy choice, not the smallest there is. Deterministic. Sizes are at least
// one.
std::vector<Configuration> PairwiseArray(const std::vector<size_t>& sizes);

// Every configuration; the last dimension changes fastest.
std::vector<Configuration> FullProduct(const std::vector<size_t>& sizes);

}  // namespace octet

#endif  // OCTET_TESTS_IDENTITY_COVERING_ARRAY_H_
