#include "transport/cluster/cluster_links.h"

#include <utility>

#include "core/log.h"
#include "core/status_macros.h"
#include "transport/grpc/cluster_links.h"
#include "transport/nccl/nccl_link.h"
#include "transport/preferred_link.h"
#include "transport/shm/control_socket.h"
#include "transport/shm/shm_link.h"

namespace octet {
namespace {

absl::StatusOr<std::shared_ptr<ShmLink>> MakeShmLink(const ClusterLinkOptions& options,
                                                     const std::shared_ptr<ShmDoorbell>& doorbell,
                                                     const std::string& address) {
  OCTET_ASSIGN_OR_RETURN(const std::string socket,
                         ShmSocketPath(ShmDirectory(options.shm_directory), address));
  return ShmLink::Create({socket, options.router, options.incarnation, doorbell});
}

// Null where it can't be.
std::shared_ptr<ExpertLink> ShmLinkOrNull(const ClusterLinkOptions& options,
                                          const std::shared_ptr<ShmDoorbell>& doorbell,
                                          const PlacedWorker& worker) {
  auto link = MakeShmLink(options, doorbell, worker.address);
  if (link.ok()) return *std::move(link);
  LogError("no shared memory with worker ", worker.id.value(), ": ", link.status().ToString());
  return nullptr;
}

absl::StatusOr<ClusterLinks> MakeNcclLinks(const ClusterLinkOptions& options) {
  if (options.nccl == nullptr) {
    return absl::FailedPreconditionError("NCCL: no device was opened for it");
  }
  ClusterLinks links;
  links.doorbell = std::make_shared<DoorbellWords>();
  links.factory =
      [options, bell = links.doorbell](const PlacedWorker& worker) -> std::shared_ptr<ExpertLink> {
    NcclLinkOptions nccl;
    nccl.address = worker.address;
    nccl.router = options.router;
    nccl.incarnation = options.incarnation;
    nccl.doorbell = bell;
    nccl.device = options.nccl;
    auto link = NcclLink::Create(std::move(nccl));
    if (link.ok()) return *std::move(link);
    LogError("no link to worker ", worker.id.value(), ": ", link.status().ToString());
    return nullptr;
  };
  return links;
}

}  // namespace

absl::StatusOr<ClusterLinks> MakeClusterLinks(const ClusterLinkOptions& options) {
  if (options.transport == TransportKind::kNccl) return MakeNcclLinks(options);
  ClusterLinks links;
  links.factory = GrpcLinkFactory();
  if (options.transport == TransportKind::kGrpc) return links;
  auto doorbell = ShmDoorbell::Create();
  if (!doorbell.ok()) {
    if (options.transport == TransportKind::kShm) return doorbell.status();
    LogWarning("no shared memory, workers are reached over gRPC: ", doorbell.status().ToString());
    return links;
  }
  links.doorbell = std::shared_ptr<DoorbellWords>(*doorbell, (*doorbell)->words());
  links.factory = [options, bell = *doorbell, grpc = std::move(links.factory)](
                      const PlacedWorker& worker) -> std::shared_ptr<ExpertLink> {
    std::shared_ptr<ExpertLink> shm = ShmLinkOrNull(options, bell, worker);
    if (options.transport == TransportKind::kShm) return shm;
    std::shared_ptr<ExpertLink> other = grpc(worker);
    if (shm == nullptr || other == nullptr) return shm != nullptr ? shm : other;
    return std::make_shared<PreferredLink>(std::move(shm), std::move(other));
  };
  return links;
}

}  // namespace octet
