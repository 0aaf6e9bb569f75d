// A coordinator, ready to run: store, service and gRPC server with health and reflection.
#ifndef OCTET_COORDINATOR_SERVER_H_
#define OCTET_COORDINATOR_SERVER_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "coordinator/cluster_types.h"
#include "core/clock.h"

namespace octet {

class CoordinatorService;
class RpcServer;

struct CoordinatorOptions {
  std::string listen = "127.0.0.1:0";
  std::string store_path;  // SQLite file; empty: in memory, epochs then go on from the members'
  ClusterSettings settings;
};

// Thread-safe.
class CoordinatorServer {
 public:
  // `clock` must outlive the server. Errors: those of OpenSqliteStateStore, StateStore::Load and
  // RpcServer::Start; INVALID_ARGUMENT naming a setting out of range.
  static absl::StatusOr<std::unique_ptr<CoordinatorServer>> Start(const CoordinatorOptions& options,
                                                                  const Clock* clock);
  ~CoordinatorServer();

  uint16_t port() const;
  const std::string& address() const;  // host:port
  // Ends every stream and closes the store. Blocks for at most a second or so. Idempotent.
  void Stop();

 private:
  CoordinatorServer();

  std::unique_ptr<CoordinatorService> service_;
  std::unique_ptr<RpcServer> rpc_;
};

}  // namespace octet

#endif  // OCTET_COORDINATOR_SERVER_H_
