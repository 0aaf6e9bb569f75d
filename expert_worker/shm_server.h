// The worker's side of shared memory: routers of this host connect at a Unix socket, the
// loop polls their rings (docs/wire.md).
#ifndef OCTET_EXPERT_WORKER_SHM_SERVER_H_
#define OCTET_EXPERT_WORKER_SHM_SERVER_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "expert_worker/expert_store.h"
#include "expert_worker/worker_loop.h"
#include "transport/shm/shared_memory.h"

namespace octet {

struct ShmServerOptions {
  std::string socket;  // path (ShmSocketPath); its directory is made
  // The loop's doorbell, kDoorbellPageBytes; outlives the server.
  const SharedMemory* doorbell = nullptr;
};

// Thread-safe. Serves up to kShmRoutersMax routers. Dispatches pass the same checks as over gRPC;
// of each router at most kStreamDispatchesMax are read and their answers not taken. A router that
// writes nonsense into a ring is cut off; one that goes takes its unfinished dispatches with it.
class ShmServer final : public JobSource {
 public:
  // `store` and `loop` outlive the server. UNAVAILABLE where it cannot listen, PERMISSION_DENIED
  // for a directory that others can reach into.
  static absl::StatusOr<std::unique_ptr<ShmServer>> Start(const ShmServerOptions& options,
                                                          const ExpertStore* store,
                                                          WorkerLoop* loop);
  // Cuts all routers off, and waits until the loop has let go of their dispatches.
  ~ShmServer() override;

  // No more routers come; those that are connected stay.
  void Hide();
  void Poll() override;

 private:
  struct Impl;
  explicit ShmServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace octet

#endif  // OCTET_EXPERT_WORKER_SHM_SERVER_H_
