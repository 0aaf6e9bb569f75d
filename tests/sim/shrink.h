// Cuts a failing plan down to the requests and faults that it takes to fail.
#ifndef OCTET_TESTS_SIM_SHRINK_H_
#define OCTET_TESTS_SIM_SHRINK_H_

#include <functional>
#include <string>

#include "tests/sim/plan.h"

namespace octet::sim {

// What is wrong with a plan; empty: nothing.
using RunFn = std::function<std::string(const Plan&)>;

// Delta debugging over the faults and the requests, then their numbers. The result fails with the
// same words, numbers aside. At most `runs_max` runs.
Plan Shrink(const Plan& failing, const RunFn& run, int runs_max = 600);

}  // namespace octet::sim

#endif  // OCTET_TESTS_SIM_SHRINK_H_
