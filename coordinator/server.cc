#include "coordinator/server.h"

#include <atomic>
#include <ctime>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/service.h"
#include "coordinator/store/state_store.h"
#include "core/limits.h"
#include "core/status_macros.h"
#include "rpc/channel.h"

namespace octet {
namespace {

constexpr char kServiceName[] = "octet.v1.Coordinator";

absl::Status CheckRange(const char* name, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, ": ", value, ", allowed are ", low, " to ", high));
}

absl::Status CheckSettings(const ClusterSettings& settings) {
  OCTET_RETURN_IF_ERROR(CheckRange("replication", settings.replication, 1, kWorkersMax));
  OCTET_RETURN_IF_ERROR(
      CheckRange("extra_replicas", settings.extra_replicas, 0, kExpertsMax * kWorkersMax));
  OCTET_RETURN_IF_ERROR(CheckRange("expected_workers", settings.expected_workers, 0, kWorkersMax));
  OCTET_RETURN_IF_ERROR(
      CheckRange("lease_ms", settings.lease.ns / 1'000'000, kLeaseMsMin, kLeaseMsMax));
  OCTET_RETURN_IF_ERROR(CheckRange("heartbeat_ms", settings.heartbeat.ns / 1'000'000, 1,
                                   settings.lease.ns / 1'000'000 / 2));
  return CheckRange("settle_ms", settings.settle.ns / 1'000'000, 1, kLeaseMsMax);
}

}  // namespace

CoordinatorServer::CoordinatorServer() = default;
CoordinatorServer::~CoordinatorServer() { Stop(); }

absl::StatusOr<std::unique_ptr<CoordinatorServer>> CoordinatorServer::Start(
    const CoordinatorOptions& options, const Clock* clock) {
  OCTET_RETURN_IF_ERROR(CheckSettings(options.settings));
  std::unique_ptr<StateStore> store = std::make_unique<MemoryStateStore>();
  if (!options.store_path.empty()) {
    OCTET_ASSIGN_OR_RETURN(store, OpenSqliteStateStore(options.store_path));
  }
  OCTET_ASSIGN_OR_RETURN(const std::optional<DurableState> restored, store->Load());
  auto server = std::unique_ptr<CoordinatorServer>(new CoordinatorServer);
  // The one use of the date: the terms of a store that begins empty should go on from those before.
  // Should it be wrong, members still know better, and the draw keeps the terms apart.
  const uint64_t draw = std::random_device()() & ((1u << kTermDrawBits) - 1);
  const uint64_t fresh_term = static_cast<uint64_t>(std::time(nullptr)) << kTermDrawBits | draw;
  CoordinatorServer* raw = server.get();
  server->service_ = std::make_unique<CoordinatorService>(
      options.settings, std::move(store), restored, fresh_term, clock, [raw](bool storing) {
        raw->rpc_->SetServing(kServiceName, storing);
        raw->rpc_->SetServing("", storing);
      });
  OCTET_ASSIGN_OR_RETURN(server->rpc_, RpcServer::Start(options.listen, {server->service_.get()}));
  server->rpc_->SetServing(kServiceName, true);
  server->rpc_->SetServing("", true);
  server->service_->Start();
  return server;
}

uint16_t CoordinatorServer::port() const { return rpc_->port(); }
const std::string& CoordinatorServer::address() const { return rpc_->address(); }

void CoordinatorServer::Stop() {
  if (service_ != nullptr) service_->Stop();
  if (rpc_ != nullptr) rpc_->Shutdown(Duration::Millis(200));
}

}  // namespace octet
