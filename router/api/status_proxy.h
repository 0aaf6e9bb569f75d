// Answers octet.v1.Coordinator/Status at a router by asking its coordinator, so that clients need
// one address. Every other method stays UNIMPLEMENTED.
#ifndef OCTET_ROUTER_API_STATUS_PROXY_H_
#define OCTET_ROUTER_API_STATUS_PROXY_H_

#include <grpcpp/grpcpp.h>

#include <memory>

#include "octet/v1/cluster.grpc.pb.h"

namespace octet {

// Thread-safe; no reaction blocks.
class StatusProxy final : public octet::v1::Coordinator::CallbackService {
 public:
  explicit StatusProxy(const std::shared_ptr<grpc::Channel>& coordinator);
  // UNAVAILABLE or DEADLINE_EXCEEDED where the coordinator does not answer.
  grpc::ServerUnaryReactor* Status(grpc::CallbackServerContext* context,
                                   const octet::v1::StatusRequest* request,
                                   octet::v1::StatusResponse* response) override;

 private:
  const std::unique_ptr<octet::v1::Coordinator::Stub> stub_;
};

}  // namespace octet

#endif  // OCTET_ROUTER_API_STATUS_PROXY_H_
