// A router's or worker's line to the coordinator: registers, beats, watches placements, and does
// it all again whenever the coordinator or the lease was lost. The coordinator may be absent at the
// start and for any length of time; nothing of the data plane waits for it.
#ifndef OCTET_COORDINATOR_CLIENT_H_
#define OCTET_COORDINATOR_CLIENT_H_

#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/cluster_types.h"
#include "coordinator/member_session.h"
#include "core/clock.h"
#include "core/ids.h"
#include "core/mutex.h"
#include "core/placement.h"
#include "octet/v1/cluster.grpc.pb.h"

namespace octet {

// One message of the watch stream. kPrepare and kAbort go to workers only.
struct PlacementUpdate {
  MemberId self;  // the receiver's own id, under which a table lists it
  uint64_t term = 0;
  PlacementPhase phase = PlacementPhase::kActivate;
  std::shared_ptr<const Placement> placement;
};

struct MemberLoad {
  std::vector<uint64_t> expert_rows;  // rows computed since the process started, by expert
  uint32_t queue_frames = 0;
  uint64_t dispatches = 0;
  uint64_t compute_ns = 0;
  uint64_t resident_bytes = 0;
  // Routers only.
  uint32_t requests_running = 0;
  uint32_t requests_waiting = 0;
  uint64_t tokens_generated = 0;
  uint64_t prefix_cache_queries = 0;  // prompt tokens
  uint64_t prefix_cache_hits = 0;
};

// What a member tells about itself with every heartbeat.
struct MemberReport {
  MemberState state = MemberState::kLoading;  // kLoading, kReady, kDraining or kDamaged
  Epoch prepared_epoch;  // highest epoch whose experts are in memory and verified
  Epoch active_epoch;
  std::vector<ExpertId> held;
  std::string prepare_error;  // why preparing prepare_error_epoch failed, if it did
  Epoch prepare_error_epoch;
  MemberLoad load;
};

struct CoordinatorClientOptions {
  std::string coordinator;  // host:port
  MemberRole role = MemberRole::kWorker;
  std::string address;  // host:port where this member serves
  // Random number of this process, so that a restart on the same address is noticed.
  uint64_t incarnation = 0;
  ModelSummary model;
  std::string zone;
  std::string host;
  uint32_t pid = 0;
  uint64_t memory_bytes = 0;  // budget for experts; 0: no bound
  uint32_t speed = kWorkerSpeedEqual;
  uint64_t seed = 0;  // of the jitter of reconnections
};

struct CoordinatorClientCallbacks {
  // Called on the client's thread before each heartbeat and registration; must be quick.
  std::function<MemberReport()> report;
  // Called on the client's watch thread, one at a time; must be quick (a worker hands PREPARE to
  // its loader). Epochs of kActivate grow, except that a restarted coordinator repeats the one in
  // force. A kPrepare may come again for the same epoch after a broken stream.
  std::function<void(const PlacementUpdate&)> on_placement;
  // Routers: this worker found its weights damaged, what it computed may be wrong. Comes before the
  // placement of the same message, again and again for a while. May be empty.
  std::function<void(MemberId worker)> on_damaged;
  // The coordinator answered and said no (wrong model, malformed field). The client keeps trying;
  // the process may prefer to exit with this status. May be empty.
  std::function<void(const absl::Status&)> on_refused;
};

// Thread-safe. Two threads of its own. No callback runs after Stop returned.
class CoordinatorClient {
 public:
  // Fails only for malformed options; does not wait for the coordinator.
  static absl::StatusOr<std::unique_ptr<CoordinatorClient>> Start(
      const CoordinatorClientOptions& options, CoordinatorClientCallbacks callbacks);
  ~CoordinatorClient();

  // Sends a heartbeat at once, e.g. when an epoch is prepared or failed to be.
  void ReportNow();
  // The id this process was given; 0 before the first registration.
  MemberId id() const OCTET_EXCLUDES(mu_);
  // True while the lease is held, as far as known.
  bool connected() const OCTET_EXCLUDES(mu_);
  // Ends calls and threads. Blocks briefly; not to be called from a callback. Idempotent.
  void Stop();

 private:
  CoordinatorClient(const CoordinatorClientOptions& options, CoordinatorClientCallbacks callbacks,
                    std::shared_ptr<grpc::Channel> channel);

  void Run();
  MemberSession::Then Register();
  MemberSession::Then Beat();
  void StartWatch();
  void EndWatch();
  void ReadWatch(std::shared_ptr<grpc::ClientContext> context, MemberId id, uint64_t term);
  void Deliver(MemberId id, const octet::v1::PlacementEvent& event);
  // Runs `call` with a deadline in a way that Stop can cancel.
  grpc::Status Call(const std::function<grpc::Status(grpc::ClientContext*)>& call);
  // Waits for `wait`, ReportNow, the end of the watch stream or Stop. False: stopping.
  bool Sleep(Duration wait);

  const CoordinatorClientOptions options_;
  const CoordinatorClientCallbacks callbacks_;
  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<octet::v1::Coordinator::Stub> stub_;

  std::thread watch_thread_;  // client thread only

  mutable Mutex mu_;
  CondVar wake_;
  MemberSession session_ OCTET_GUARDED_BY(mu_);
  bool stopping_ OCTET_GUARDED_BY(mu_) = false;
  bool poked_ OCTET_GUARDED_BY(mu_) = false;
  bool watch_ended_ OCTET_GUARDED_BY(mu_) = false;
  grpc::ClientContext* call_ OCTET_GUARDED_BY(mu_) = nullptr;
  std::shared_ptr<grpc::ClientContext> watch_ OCTET_GUARDED_BY(mu_);
  std::thread thread_;
};

// Asks a coordinator once. UNAVAILABLE or DEADLINE_EXCEEDED if it does not answer in `timeout`.
absl::StatusOr<octet::v1::StatusResponse> FetchClusterStatus(const std::string& coordinator,
                                                             Duration timeout);

// Moves every expert away from a worker; returns when none is left. `on_progress` may be empty.
// NOT_FOUND for an id that is no live worker.
absl::Status DrainWorker(const std::string& coordinator, MemberId worker, Duration timeout,
                         const std::function<void(const octet::v1::DrainProgress&)>& on_progress);

}  // namespace octet

#endif  // OCTET_COORDINATOR_CLIENT_H_
