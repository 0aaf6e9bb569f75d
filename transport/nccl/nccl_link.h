// The path to an expert worker whose rows travel over NCCL, from device to device. Everything else
// takes a gRPC stream to the worker's usual address, so that it works wherever gRPC does.
#ifndef OCTET_TRANSPORT_NCCL_NCCL_LINK_H_
#define OCTET_TRANSPORT_NCCL_NCCL_LINK_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "core/ids.h"
#include "rpc/channel.h"
#include "transport/doorbell.h"
#include "transport/expert_link.h"
#include "transport/nccl/device_thread.h"

namespace octet {

struct NcclLinkOptions {
  std::string address;  // the worker's
  RouterId router;
  uint64_t incarnation = 0;
  // On which whoever combines sleeps (DispatcherOptions); rung when there is something to Poll.
  std::shared_ptr<DoorbellWords> doorbell;
  std::shared_ptr<NcclDeviceThread> device;  // on which the router's rows travel
  ChannelOptions channel;
};

// Thread-safe. Rows on the host are gathered into page-locked memory by Send; rows on the device of
// the link (WireRows::device), which stay there until the reply, by the device, and f32 replies
// then stay there too: neither has a checksum. The device's thread sends. A connection is one
// stream and one pair of communicators, which the worker makes new unique ids for. When either
// breaks (the stream ends, a transfer misses its deadline, NCCL reports an error) both end, what is
// in flight fails with UNAVAILABLE at once, and the link connects again by itself, with a pause
// that doubles. Replies are checked and delivered in Poll. RESOURCE_EXHAUSTED where
// kLinkQueuedDispatchesMax dispatches are in flight already, or there is no memory for the rows.
class NcclLink final : public ExpertLink {
 public:
  // Starts to connect. INVALID_ARGUMENT for a malformed address.
  static absl::StatusOr<std::shared_ptr<NcclLink>> Create(NcclLinkOptions options);
  // Fails what is in flight with CANCELLED. Waits for the device to let go of the pair and, for
  // kNcclCloseMs at most, for the worker. Never on a thread of gRPC's or of the device.
  ~NcclLink() override;

  void Send(const ExpertDispatch& dispatch, ReplyFn done) override;
  void Cancel(const DispatchKey& key) override;
  bool connected() const override;
  void Poll() override;

 private:
  class Core;
  class Stream;
  NcclLink(std::shared_ptr<NcclDeviceThread> device, std::shared_ptr<Core> core);
  const std::shared_ptr<NcclDeviceThread> device_;
  const std::shared_ptr<Core> core_;
};

}  // namespace octet

#endif  // OCTET_TRANSPORT_NCCL_NCCL_LINK_H_
