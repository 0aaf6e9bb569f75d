// The path to an expert worker over one long-lived bidirectional gRPC stream.
#ifndef OCTET_TRANSPORT_GRPC_GRPC_LINK_H_
#define OCTET_TRANSPORT_GRPC_GRPC_LINK_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "rpc/channel.h"
#include "transport/expert_link.h"

namespace octet {

// Thread-safe. Send encodes and writes on the caller's thread and never waits; replies are decoded
// and delivered on a thread of gRPC. A broken stream fails what is in flight with UNAVAILABLE at
// once and is opened again by itself, with a pause that doubles. RESOURCE_EXHAUSTED where
// kLinkQueuedDispatchesMax dispatches are in flight already.
class GrpcLink final : public ExpertLink {
 public:
  // Starts to connect. INVALID_ARGUMENT for a malformed address.
  static absl::StatusOr<std::shared_ptr<GrpcLink>> Create(const std::string& address,
                                                          ChannelOptions options = {});
  // Fails what is in flight with CANCELLED and waits until gRPC has let go of the stream. Never on
  // a thread of gRPC's.
  ~GrpcLink() override;

  void Send(const ExpertDispatch& dispatch, ReplyFn done) override;
  void Cancel(const DispatchKey& key) override;
  bool connected() const override;

 private:
  class Core;
  class Stream;
  explicit GrpcLink(std::shared_ptr<Core> core);
  std::shared_ptr<Core> core_;
};

}  // namespace octet

#endif  // OCTET_TRANSPORT_GRPC_GRPC_LINK_H_
