// A router, ready to run: model, engine, links to workers, line to the coordinator, gRPC server
// with Inference, cluster status, health, reflection and channelz.
#ifndef OCTET_ROUTER_API_ROUTER_SERVER_H_
#define OCTET_ROUTER_API_ROUTER_SERVER_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/clock.h"
#include "model/model_package.h"
#include "router/engine.h"
#include "router/generation.h"
#include "transport/nccl/device_thread.h"
#include "transport/transport_kind.h"

namespace octet {

struct RouterServerOptions {
  std::string listen = "127.0.0.1:7411";
  std::string advertise;  // host:port that others reach it by; empty: `listen` with its real port
  std::string coordinator;
  std::string zone;
  std::string host;
  EngineOptions engine;
  TransportKind transport = TransportKind::kGrpc;
  std::string shm_directory;  // where workers of this host are found; empty: ShmDirectory's choice
  std::shared_ptr<NcclDeviceThread> nccl;  // kNccl: the device from which rows go
  // Called once, on a thread of the server, when every expert first has a live replica. May be
  // empty.
  std::function<void()> on_ready;
};

// Thread-safe.
class RouterServer {
 public:
  // Maps the router's weights and listens; does not wait for workers or the coordinator (requests
  // do, until their deadline). `clock` outlives the server. UNAVAILABLE where the port is in use;
  // else the errors of ModelPackage::MapRouter and Engine::Start.
  static absl::StatusOr<std::unique_ptr<RouterServer>> Start(
      RouterServerOptions options, std::shared_ptr<const ModelPackage> package, const Clock* clock);
  // As Stop.
  ~RouterServer();

  const std::string& address() const;  // host:port with the port bound
  // The health that the standard service tells: every expert has a live replica and no drain runs.
  bool serving() const;
  EngineStats stats() const;
  // Health goes to NOT_SERVING, new requests get UNAVAILABLE, those in flight may end until
  // `timeout`. Blocks.
  void Drain(Duration timeout);
  // Cancels what is in flight and ends everything. Idempotent.
  void Stop();

 private:
  struct Impl;
  explicit RouterServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace octet

#endif  // OCTET_ROUTER_API_ROUTER_SERVER_H_
