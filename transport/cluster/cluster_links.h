// Links to the workers of a placement, over whatever the user chose.
#ifndef OCTET_TRANSPORT_CLUSTER_CLUSTER_LINKS_H_
#define OCTET_TRANSPORT_CLUSTER_CLUSTER_LINKS_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "transport/doorbell.h"
#include "transport/nccl/device_thread.h"
#include "transport/token_dispatcher.h"
#include "transport/transport_kind.h"

namespace octet {

struct ClusterLinkOptions {
  TransportKind transport = TransportKind::kAuto;
  // Where workers of this host listen for shared memory; empty: ShmDirectory's choice.
  std::string shm_directory;
  RouterId router;
  uint64_t incarnation = 0;
  std::shared_ptr<NcclDeviceThread> nccl = nullptr;  // kNccl: the device of the rows
};

struct ClusterLinks {
  LinkFactory factory;
  // The dispatcher's (DispatcherOptions); null where no link needs a shared one.
  std::shared_ptr<DoorbellWords> doorbell;
};

// kAuto falls back to gRPC where this process can have no shared memory; kShm fails then with
// RESOURCE_EXHAUSTED. kNccl fails without a device with FAILED_PRECONDITION.
absl::StatusOr<ClusterLinks> MakeClusterLinks(const ClusterLinkOptions& options);

}  // namespace octet

#endif  // OCTET_TRANSPORT_CLUSTER_CLUSTER_LINKS_H_
