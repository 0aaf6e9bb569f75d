// How many experts a batch of rows needs, when every row chooses top_k distinct ones of all,
// any set as likely as another. Exact, no simulation.
#ifndef OCTET_COORDINATOR_EXPECTED_EXPERTS_H_
#define OCTET_COORDINATOR_EXPECTED_EXPERTS_H_

#include <cstdint>
#include <vector>

namespace octet {

// Arguments of all: 1 <= top_k <= experts <= kExpertsMax (CHECK).

// Experts that at least one of `rows` chose: E (1 - (1 - k/E)^rows).
double ExpectedActive(uint32_t experts, uint32_t top_k, uint32_t rows);

// Active experts on the worker that has most of them. served[w]: experts that worker w computes;
// they sum to `experts`. Rows are added one by one to the distribution of the number of active
// experts; given that number, every set of this size is as likely, so the share of sets with at
// most m on each worker is a coefficient of a product of polynomials.
double ExpectedBusiest(const std::vector<uint32_t>& served, uint32_t top_k, uint32_t rows);

// The share of rows that need at least one of `served` experts: 1 - C(E - served, k) / C(E, k).
double RowShare(uint32_t experts, uint32_t top_k, uint32_t served);

}  // namespace octet

#endif  // OCTET_COORDINATOR_EXPECTED_EXPERTS_H_
