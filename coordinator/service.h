// The gRPC face of the coordinator. Reactions only decode and queue; one owner thread runs
// ClusterState and the store, and answers.
#ifndef OCTET_COORDINATOR_SERVICE_H_
#define OCTET_COORDINATOR_SERVICE_H_

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "coordinator/cluster_state.h"
#include "coordinator/store/state_store.h"
#include "coordinator/stream_writer.h"
#include "core/clock.h"
#include "core/mutex.h"
#include "octet/v1/cluster.grpc.pb.h"

namespace octet {

// Thread-safe. The reactions never block; the store is touched by the owner thread alone.
class CoordinatorService final : public octet::v1::Coordinator::CallbackService {
 public:
  // `clock` must outlive the service. `on_storing(bool)` tells, on the owner thread, whether the
  // store takes writes: while it does not, nothing new is announced and the service retries.
  CoordinatorService(const ClusterSettings& settings, std::unique_ptr<StateStore> store,
                     const std::optional<DurableState>& restored, uint64_t fresh_term,
                     const Clock* clock, std::function<void(bool)> on_storing);
  ~CoordinatorService() override;

  void Start();
  // Ends every open call with UNAVAILABLE and joins the owner thread. Idempotent. To be called
  // before the server is shut down, and before destruction.
  void Stop();

  grpc::ServerUnaryReactor* Register(grpc::CallbackServerContext* context,
                                     const octet::v1::RegisterRequest* request,
                                     octet::v1::RegisterResponse* response) override;
  grpc::ServerUnaryReactor* Heartbeat(grpc::CallbackServerContext* context,
                                      const octet::v1::HeartbeatRequest* request,
                                      octet::v1::HeartbeatResponse* response) override;
  grpc::ServerWriteReactor<octet::v1::PlacementEvent>* WatchPlacement(
      grpc::CallbackServerContext* context,
      const octet::v1::WatchPlacementRequest* request) override;
  grpc::ServerUnaryReactor* Status(grpc::CallbackServerContext* context,
                                   const octet::v1::StatusRequest* request,
                                   octet::v1::StatusResponse* response) override;
  grpc::ServerWriteReactor<octet::v1::DrainProgress>* Drain(
      grpc::CallbackServerContext* context, const octet::v1::DrainRequest* request) override;

 private:
  using WatchWriter = NewestWinsWriter<octet::v1::PlacementEvent>;
  using DrainWriter = NewestWinsWriter<octet::v1::DrainProgress>;
  struct RegisterCall {
    grpc::ServerUnaryReactor* reactor;
    octet::v1::RegisterResponse* response;
  };
  struct HeartbeatCall {
    grpc::ServerUnaryReactor* reactor;
    octet::v1::HeartbeatResponse* response;
    MemberId id;
    octet::v1::LoadReport load;
  };

  // Queues work for the owner thread. False, with nothing queued, when stopped or, unless
  // `must_run`, when the queue is full. `must_run` is for the ends of streams, of which there are
  // no more than there were beginnings.
  bool Post(std::function<void()> work, bool must_run = false);
  uint64_t NextNumber();
  void Run();
  void Step(const ClusterEvent& event);
  void Perform(const PersistAction& action);
  void Perform(const RegisterReplyAction& action);
  void Perform(const HeartbeatReplyAction& action);
  void Perform(const SendPlacementAction& action);
  void Perform(const CloseWatchAction& action);
  void Perform(const DrainUpdateAction& action);
  void Perform(const LogAction& action);
  void KeepLoad(MemberId id, octet::v1::LoadReport load);
  bool WaitOrStopped(Duration wait);
  void EndEverything();

  const ClusterSettings settings_;
  const Clock* const clock_;
  const std::function<void(bool)> on_storing_;

  // Owner thread only.
  std::unique_ptr<StateStore> store_;
  ClusterState state_;
  bool storing_ = true;
  std::map<uint64_t, RegisterCall> registers_;
  std::map<uint64_t, HeartbeatCall> heartbeats_;
  std::map<uint64_t, std::shared_ptr<WatchWriter>> watches_;
  std::map<uint64_t, std::shared_ptr<DrainWriter>> drains_;
  std::map<MemberId, octet::v1::LoadReport> loads_;

  Mutex mu_;
  CondVar wake_;
  std::deque<std::function<void()>> queue_ OCTET_GUARDED_BY(mu_);
  bool stopping_ OCTET_GUARDED_BY(mu_) = false;
  uint64_t next_number_ OCTET_GUARDED_BY(mu_) = 1;
  std::thread owner_;
};

}  // namespace octet

#endif  // OCTET_COORDINATOR_SERVICE_H_
