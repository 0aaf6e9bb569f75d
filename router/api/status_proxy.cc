#include "router/api/status_proxy.h"

#include <chrono>

#include "absl/strings/str_cat.h"

namespace octet {
namespace {

constexpr std::chrono::seconds kTimeout(3);

// One call to the coordinator; lives until its answer.
struct ForwardedCall {
  grpc::ClientContext context;
  octet::v1::StatusRequest request;
};

}  // namespace

StatusProxy::StatusProxy(const std::shared_ptr<grpc::Channel>& coordinator)
    : stub_(octet::v1::Coordinator::NewStub(coordinator)) {}

grpc::ServerUnaryReactor* StatusProxy::Status(grpc::CallbackServerContext* context,
                                              const octet::v1::StatusRequest* request,
                                              octet::v1::StatusResponse* response) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  auto call = std::make_shared<ForwardedCall>();
  call->request = *request;
  call->context.set_deadline(std::chrono::system_clock::now() + kTimeout);
  grpc::ClientContext* const outgoing = &call->context;
  const octet::v1::StatusRequest* const forwarded = &call->request;
  stub_->async()->Status(
      outgoing, forwarded, response, [reactor, call = std::move(call)](const grpc::Status& status) {
        if (status.ok()) return reactor->Finish(status);
        reactor->Finish(grpc::Status(
            status.error_code(),
            absl::StrCat("the router's coordinator does not answer: ", status.error_message())));
      });
  return reactor;
}

}  // namespace octet
