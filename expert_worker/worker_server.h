// An expert worker, ready to run: store, compute loop, gRPC server and the line to the coordinator.
#ifndef OCTET_EXPERT_WORKER_WORKER_SERVER_H_
#define OCTET_EXPERT_WORKER_WORKER_SERVER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/clock.h"
#include "core/ids.h"
#include "core/worker_speed.h"
#include "expert_worker/worker_model.h"
#include "kernels/cuda_experts.h"
#include "kernels/exec_context.h"
#include "transport/nccl/device_thread.h"
#include "transport/transport_kind.h"

namespace octet {

struct WorkerServerOptions {
  std::string listen = "127.0.0.1:0";
  // host:port under which routers reach this worker; empty: `listen` with the port bound.
  std::string advertise;
  std::string coordinator;  // host:port
  std::string zone;
  std::string host;
  uint32_t pid = 0;
  uint64_t incarnation = 0;            // random, of this process
  uint64_t memory_bytes = 0;           // budget for experts; 0: no bound
  uint32_t speed = kWorkerSpeedEqual;  // against other workers, 1 to kWorkerSpeedMax
  int threads = 1;                     // of the kernels
  std::vector<int> cores;              // that they are pinned to; empty: any
  bool spin = true;                    // they wait awake for each other for a moment
  Duration scrub_period;               // of checking the weights held again; 0: never
  bool verify = false;                 // the weights of each product; not with `cuda`
  // After damage was found and told, from a thread of the server. It ends the process: what the
  // worker holds is not what it says.
  std::function<void(const absl::Status&)> on_damaged;
  // kAuto: also through shared memory where that can be set up.
  TransportKind transport = TransportKind::kGrpc;
  std::string shm_directory;               // empty: ShmDirectory's choice
  std::shared_ptr<NcclDeviceThread> nccl;  // kNccl: the device to which rows come
  CpuLevel cpu_level = CpuLevel::kScalar;
  // Where the model's experts lie (CudaWorkerModel) and are computed; null: the host.
  std::shared_ptr<CudaExperts> cuda;
  // Both run on threads of the server, must be quick and may be empty.
  std::function<void(bool serving)> on_serving;         // experts are in memory and placed here
  std::function<void(const absl::Status&)> on_refused;  // the coordinator said no; it is asked on
  // On the compute thread: the device of `cuda` failed for good.
  std::function<void(const absl::Status&)> on_device_failed;
};

// Thread-safe. Health: "liveness" is SERVING while the process runs; "" and
// "octet.v1.ExpertWorker" while it serves experts.
class WorkerServer {
 public:
  // Does not wait for the coordinator. UNAVAILABLE where it cannot listen, INVALID_ARGUMENT for
  // malformed options; as ShmServer::Start where kShm is asked for, and FAILED_PRECONDITION without
  // a device where kNccl is. `clock` outlives the server.
  static absl::StatusOr<std::unique_ptr<WorkerServer>> Start(const WorkerServerOptions& options,
                                                             WorkerModel model, const Clock* clock);
  // Stops.
  ~WorkerServer();

  const std::string& address() const;  // bound
  WorkerId id() const;                 // 0 before the first registration
  bool serving() const;
  // Tells the coordinator, serves on until no placement needs this worker (at most half of
  // `timeout`), then refuses new dispatches and finishes the accepted ones. True when all ended in
  // time. Blocks.
  bool Drain(Duration timeout);
  // Leaves at once. Blocks briefly. Idempotent.
  void Stop();

 private:
  WorkerServer();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace octet

#endif  // OCTET_EXPERT_WORKER_WORKER_SERVER_H_
