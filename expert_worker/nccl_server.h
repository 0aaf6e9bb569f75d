// The worker's side of NCCL: a gRPC service for the control streams of routers, and the pairs of
// communicators that bring their rows (docs/wire.md).
#ifndef OCTET_EXPERT_WORKER_NCCL_SERVER_H_
#define OCTET_EXPERT_WORKER_NCCL_SERVER_H_

#include <grpcpp/grpcpp.h>

#include <memory>

#include "absl/status/statusor.h"
#include "expert_worker/expert_store.h"
#include "expert_worker/worker_loop.h"
#include "octet/v1/expert.grpc.pb.h"
#include "transport/nccl/device_thread.h"

namespace octet {

// Thread-safe. Serves up to kNcclRoutersMax routers, each over a stream and a pair of communicators
// that end together. Dispatches pass the same checks as over gRPC; of each router at most
// kStreamDispatchesMax are read and not answered. Dispatches are checked on the device's thread as
// their rows come, and computed by the loop from the host's part of their memory (row_pool.h), or
// where they lie by a loop that computes on this device; then rows and replies have no checksum.
class NcclServer final : public octet::v1::ExpertNccl::CallbackService {
 public:
  // `store` and `loop` outlive the server. `on_device`: the loop computes on the device of
  // `device`. FAILED_PRECONDITION where NCCL does not even tell its version.
  static absl::StatusOr<std::unique_ptr<NcclServer>> Create(
      std::shared_ptr<NcclDeviceThread> device, const ExpertStore* store, WorkerLoop* loop,
      bool on_device);
  // After the gRPC server that offered it was shut down, which ends the streams and with them their
  // pairs. Waits until the loop and the device have let go of all dispatches.
  ~NcclServer() override;

  grpc::ServerBidiReactor<octet::v1::NcclFromRouter, octet::v1::NcclFromWorker>* Control(
      grpc::CallbackServerContext* context) override;

 private:
  class Session;
  struct Shared;
  NcclServer(std::shared_ptr<NcclDeviceThread> device, std::shared_ptr<Shared> shared);
  const std::shared_ptr<NcclDeviceThread> device_;
  const std::shared_ptr<Shared> shared_;
};

}  // namespace octet

#endif  // OCTET_EXPERT_WORKER_NCCL_SERVER_H_
