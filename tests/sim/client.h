// Clients of the simulation: the real StreamState around streams that break, with the retries of
// octet::Client, and a check of every token that arrives.
#ifndef OCTET_TESTS_SIM_CLIENT_H_
#define OCTET_TESTS_SIM_CLIENT_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "client/stream_state.h"
#include "tests/sim/router.h"
#include "tests/sim/world.h"

namespace octet::sim {

using RouterAt = std::function<Router*(uint32_t index)>;

struct ClientSettings {
  uint32_t routers = 1;
  uint32_t first_router_node = 0;
  uint32_t node = 0;  // of the clients
  // The routers' queues may refuse requests.
  bool overload_allowed = false;
};

// One generation from its start to its end.
class ClientRequest : public std::enable_shared_from_this<ClientRequest> {
 public:
  ClientRequest(World* world, const ClientSettings& settings, RouterAt routers,
                octet::v1::GenerateRequest request, std::vector<TokenId> expected,
                uint32_t first_router, MonotonicTime deadline);

  void Start() { Attempt(); }
  bool ended() const { return ended_; }
  const absl::Status& status() const { return status_; }

 private:
  void Attempt();
  void OnEvent(uint64_t attempt, octet::v1::GenerateResponse event);
  void OnEnd(uint64_t attempt, const absl::Status& status);
  void End(const absl::Status& status);
  bool MayEndWith(const absl::Status& status) const;

  World* const world_;
  const ClientSettings settings_;
  const RouterAt routers_;
  StreamState state_;
  const std::vector<TokenId> expected_;
  const MonotonicTime deadline_;
  size_t received_ = 0;
  uint32_t router_;
  int64_t last_router_ = -1;
  uint64_t attempt_ = 0;
  bool faulted_ = false;   // an attempt ended for no reason of the request's
  uint32_t failures_ = 0;  // without progress between them
  uint32_t index_before_ = 0;
  std::shared_ptr<Connection> stream_;
  bool ended_ = false;
  absl::Status status_;
};

}  // namespace octet::sim

#endif  // OCTET_TESTS_SIM_CLIENT_H_
