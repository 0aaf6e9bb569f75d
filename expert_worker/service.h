// The worker's side of the expert wire: octet.v1.ExpertWorker (docs/wire.md).
#ifndef OCTET_EXPERT_WORKER_SERVICE_H_
#define OCTET_EXPERT_WORKER_SERVICE_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "expert_worker/expert_store.h"
#include "expert_worker/worker_loop.h"
#include "octet/v1/expert.grpc.pb.h"
#include "rpc/expert_codec.h"

namespace octet {

// Thread-safe. Serves any number of routers at once; a stream has at most kStreamDispatchesMax
// dispatches that are read and not answered, past that it is not read until its peer reads.
class ExpertService final : public octet::v1::ExpertWorker::CallbackService {
 public:
  // `store` and `loop` outlive the service.
  ExpertService(const ExpertStore* store, WorkerLoop* loop);

  // Shown by GetWorkerInfo.
  void set_worker_id(WorkerId id) { worker_id_ = id.value(); }
  void set_draining() { draining_ = true; }
  // Largest message that a well-formed dispatch for this model can be.
  uint32_t message_bytes_max() const;

  grpc::ServerBidiReactor<octet::v1::Dispatch, octet::v1::DispatchReply>* Exchange(
      grpc::CallbackServerContext* context) override;
  grpc::ServerUnaryReactor* GetWorkerInfo(grpc::CallbackServerContext* context,
                                          const octet::v1::GetWorkerInfoRequest* request,
                                          octet::v1::GetWorkerInfoResponse* response) override;

 private:
  class Stream;

  const ExpertStore* const store_;
  WorkerLoop* const loop_;
  const DispatchShape shape_;
  std::atomic<uint64_t> worker_id_{0};
  std::atomic<bool> draining_{false};
};

}  // namespace octet

#endif  // OCTET_EXPERT_WORKER_SERVICE_H_
