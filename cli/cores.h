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
// Threads for computing: `threads`, else one for each of `cores`, else for each available one.
absl::StatusOr<int> ThreadsFrom(const Settings& settings);

// Binds this process, the memory that it takes from now on included, to the node that `numa-node`
// names; nothing where it is -1. Before other threads start. INVALID_ARGUMENT names the nodes there
// are, UNAVAILABLE where the system refuses.
absl::Status BindToNumaNode(const Settings& settings);

}  // namespace octet

#endif  // OCTET_CLI_CORES_H_
