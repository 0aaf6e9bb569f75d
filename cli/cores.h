// Where the threads and memory of this process are to be: --cores and --numa-node.
#ifndef OCTET_CLI_CORES_H_
#define OCTET_CLI_CORES_H_

#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cli/settings.h"

namespace octet {

// `cores`. INVALID_ARGUMENT for a list that is none, and names a core that this process may not
// use.
absl::StatusOr<std::vector<int>> CoresFrom(const Settings& settings);
// How many `cores` are; where they are none, how many this process may use, at least 1.
int CoreCount(const std::vector<int>& cores);
// Threads for computing: `threads`, else CoreCount.
int ThreadsFrom(const Settings& settings, const std::vector<int>& cores);

// Binds this process, the memory that it takes from now on included, to the node that `numa-node`
// names; nothing where it is -1. Before other threads start. INVALID_ARGUMENT names the nodes there
// are, UNAVAILABLE where the system refuses.
absl::Status BindToNumaNode(const Settings& settings);

}  // namespace octet

#endif  // OCTET_CLI_CORES_H_
