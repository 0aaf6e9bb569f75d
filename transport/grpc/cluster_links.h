// Links to the workers of a placement over gRPC.
#ifndef OCTET_TRANSPORT_GRPC_CLUSTER_LINKS_H_
#define OCTET_TRANSPORT_GRPC_CLUSTER_LINKS_H_

#include "transport/token_dispatcher.h"

namespace octet {

// Makes a GrpcLink to each placed worker's address. A malformed address is logged and gives null.
LinkFactory GrpcLinkFactory();

}  // namespace octet

#endif  // OCTET_TRANSPORT_GRPC_CLUSTER_LINKS_H_
