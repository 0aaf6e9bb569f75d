#include "cli/cores.h"

#include <hwloc.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "core/cpu_list.h"
#include "core/status_macros.h"

namespace octet {
namespace {

struct FreeTopology {
  void operator()(hwloc_topology_t topology) const { hwloc_topology_destroy(topology); }
};
using Topology = std::unique_ptr<hwloc_topology, FreeTopology>;

std::string NodeNames(hwloc_topology_t topology) {
  std::string names;
  hwloc_obj_t node = nullptr;
  while ((node = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_NUMANODE, node)) != nullptr) {
    absl::StrAppend(&names, names.empty() ? "" : ", ", node->os_index);
  }
  return names;
}

}  // namespace

absl::StatusOr<std::vector<int>> CoresFrom(const Settings& settings) {
  auto cores = ParseCpuList(settings.String("cores"));
  if (!cores.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("cores: ", cores.status().message()));
  }
  const std::vector<int> allowed = AllowedCores();
  for (const int core : *cores) {
    if (std::find(allowed.begin(), allowed.end(), core) != allowed.end()) continue;
    return absl::InvalidArgumentError(absl::StrCat("cores: this process may not use core ", core,
                                                   "; it may use ", FormatCpuList(allowed)));
  }
  return cores;
}

int CoreCount(const std::vector<int>& cores) {
  if (!cores.empty()) return static_cast<int>(cores.size());
  return std::max(1, static_cast<int>(AllowedCores().size()));
}

int ThreadsFrom(const Settings& settings, const std::vector<int>& cores) {
  const int threads = static_cast<int>(settings.Int("threads"));
  return threads > 0 ? threads : CoreCount(cores);
}

absl::Status BindToNumaNode(const Settings& settings) {
  const int64_t wanted = settings.Int("numa-node");
  if (wanted < 0) return absl::OkStatus();
  hwloc_topology_t made = nullptr;
  if (hwloc_topology_init(&made) != 0) return absl::UnavailableError("numa-node: no topology");
  const Topology topology(made);
  if (hwloc_topology_load(made) != 0) return absl::UnavailableError("numa-node: no topology");
  const hwloc_obj_t node = hwloc_get_numanode_obj_by_os_index(made, static_cast<unsigned>(wanted));
  if (node == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("numa-node: ", wanted, ", this machine has ", NodeNames(made)));
  }
  if (hwloc_set_cpubind(made, node->cpuset, HWLOC_CPUBIND_PROCESS) != 0 ||
      hwloc_set_membind(made, node->nodeset, HWLOC_MEMBIND_BIND,
                        HWLOC_MEMBIND_THREAD | HWLOC_MEMBIND_BYNODESET) != 0) {
    return absl::UnavailableError(
        absl::StrCat("numa-node: cannot bind to node ", wanted, ": ", std::strerror(errno)));
  }
  return absl::OkStatus();
}

}  // namespace octet
