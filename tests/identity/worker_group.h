// Expert workers for the identity test: in-process or real servers on loopback, each holding only
// what its placement gives it.
#ifndef OCTET_TESTS_IDENTITY_WORKER_GROUP_H_
#define OCTET_TESTS_IDENTITY_WORKER_GROUP_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/clock.h"
#include "core/placement.h"
#include "kernels/exec_context.h"
#include "model/model_package.h"
#include "router/test_util.h"
#include "transport/cluster/cluster_links.h"
#include "transport/token_dispatcher.h"

namespace octet {

enum class GroupKind {
  kInProcess,  // all experts in the router's process, as `octet generate --model` has them
  kLocal,      // workers with stores of their own behind local links
  kGrpc,       // gRPC servers on loopback
  kShm,        // servers that share memory with the router
};

struct GroupShape {
  GroupKind kind = GroupKind::kInProcess;
  uint32_t workers = 1;
  uint32_t replication = 1;
  int threads = 1;
  CpuLevel level = CpuLevel::kScalar;
  friend bool operator==(const GroupShape&, const GroupShape&) = default;
};

class WorkerGroup {
 public:
  // CHECKs that everything starts.
  WorkerGroup(std::shared_ptr<const ModelPackage> package, const GroupShape& shape);
  ~WorkerGroup();

  // A dispatcher over the group, ready to serve. `clock` outlives it, the group too.
  std::unique_ptr<TokenDispatcher> MakeDispatcher(const Clock* clock) const;

 private:
  class Worker;

  std::shared_ptr<const ModelPackage> package_;
  TempDirectory temp_;  // of the workers' sockets
  std::vector<std::unique_ptr<Worker>> workers_;
  std::shared_ptr<const Placement> placement_;
  ClusterLinks links_;
};

}  // namespace octet

#endif  // OCTET_TESTS_IDENTITY_WORKER_GROUP_H_
