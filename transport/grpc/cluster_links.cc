#include "transport/grpc/cluster_links.h"

#include "core/log.h"
#include "transport/grpc/grpc_link.h"

namespace octet {

LinkFactory GrpcLinkFactory() {
  return [](const PlacedWorker& worker) -> std::shared_ptr<ExpertLink> {
    auto link = GrpcLink::Create(worker.address);
    if (!link.ok()) {
      LogError("no link to worker ", worker.id.value(), ": ", link.status().ToString());
      return nullptr;
    }
    return std::move(link).value();
  };
}

}  // namespace octet
