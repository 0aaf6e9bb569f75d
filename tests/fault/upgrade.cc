// Rolling upgrades of a cluster whose roles are started one by one, as an operator starts them.
#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/status_macros.h"
#include "tests/fault/chaos_cluster.h"
#include "tests/fault/role_process.h"
#include "tests/fault/scenarios.h"

namespace octet {
namespace {

constexpr int64_t kStartMs = 60'000;

// Ready workers of the version with this digest.
uint64_t WorkersOf(const octet::v1::StatusResponse& status, const std::string& digest) {
  return static_cast<uint64_t>(
      std::count_if(status.workers().begin(), status.workers().end(), [&](const auto& worker) {
        return worker.compute_digest() == digest && worker.state() == "ready";
      }));
}

// Every expert of the version is on `replication` of its ready workers, or on all where it has
// fewer, and nothing is rolled out.
bool VersionWhole(const octet::v1::StatusResponse& status, const std::string& digest,
                  uint64_t replication) {
  for (const auto& version : status.versions()) {
    if (version.model().compute_digest() != digest) continue;
    octet::v1::StatusResponse alone;
    *alone.mutable_placement() = version.placement();
    for (const auto& worker : status.workers()) {
      if (worker.compute_digest() == digest) *alone.add_workers() = worker;
    }
    const uint64_t want = std::min(replication, WorkersOf(status, digest));
    return want > 0 && version.rollout().empty() && Replicated(alone, static_cast<uint32_t>(want));
  }
  return false;
}

class RolledCluster {
 public:
  explicit RolledCluster(const ChaosOptions& options)
      : options_(options), coordinator_({"coordinator", "--state-dir", state_.path()}) {}

  absl::Status Start() {
    OCTET_RETURN_IF_ERROR(StartCoordinator());
    for (uint32_t i = 0; i < options_.workers; ++i) {
      workers_.push_back(std::make_unique<RoleProcess>(Member("worker")));
      OCTET_RETURN_IF_ERROR(workers_.back()->Start({"--model", options_.model}));
    }
    for (uint32_t i = 0; i < options_.routers; ++i) {
      routers_.push_back(std::make_unique<RoleProcess>(Member("router")));
      OCTET_RETURN_IF_ERROR(routers_.back()->Start({"--model", options_.model}));
    }
    return absl::OkStatus();
  }

  std::string Addresses() const {
    std::vector<std::string> addresses;
    for (const auto& router : routers_) addresses.push_back(router->address());
    return absl::StrJoin(addresses, ",");
  }

  // Once the cluster serves: what its version is called.
  void set_digests(std::string now, std::string next) {
    digest_ = std::move(now);
    next_digest_ = std::move(next);
  }

  // Every process is replaced by one of the same version.
  absl::Status Restart(ChaosCluster& chaos) {
    for (auto& worker : workers_) OCTET_RETURN_IF_ERROR(ReplaceWorker(chaos, *worker, model()));
    for (auto& router : routers_) OCTET_RETURN_IF_ERROR(ReplaceRouter(chaos, *router, model()));
    OCTET_RETURN_IF_ERROR(chaos.WaitSomeTokens());
    const MonotonicTime fault = chaos.MarkFault();
    OCTET_RETURN_IF_ERROR(coordinator_.End());
    OCTET_RETURN_IF_ERROR(StartCoordinator());
    OCTET_RETURN_IF_ERROR(WaitWhole(chaos, digest_, options_.workers));
    chaos.MarkRepaired(fault);
    return absl::OkStatus();
  }

  // Half of the workers, then the routers, then the other half: each version has workers for as
  // long as it has routers.
  absl::Status MoveToNext(ChaosCluster& chaos) {
    std::swap(digest_, next_digest_);
    moved_ = !moved_;
    const size_t half = workers_.size() / 2;
    for (size_t i = 0; i < workers_.size(); ++i) {
      if (i == half) {
        for (auto& router : routers_) {
          OCTET_RETURN_IF_ERROR(ReplaceRouter(chaos, *router, model()));
        }
      }
      OCTET_RETURN_IF_ERROR(ReplaceWorker(chaos, *workers_[i], model()));
    }
    return WaitWhole(chaos, digest_, options_.workers);
  }

 private:
  std::vector<std::string> Member(const std::string& role) const {
    return {role,          "--coordinator",    coordinator_.address(),
            "--transport", options_.transport, "--spin",
            "off"};
  }

  const std::string& model() const { return moved_ ? options_.next_model : options_.model; }

  absl::Status StartCoordinator() {
    return coordinator_.Start({"--replication", absl::StrCat(options_.replication)});
  }

  absl::Status WaitWhole(ChaosCluster& chaos, const std::string& digest, uint64_t workers) {
    return chaos.WaitStatus(
        absl::StrCat("version ", digest.substr(0, 8), " with ", workers, " workers"),
        [&](const auto& status) {
          return WorkersOf(status, digest) == workers &&
                 VersionWhole(status, digest, options_.replication);
        });
  }

  absl::Status ReplaceWorker(ChaosCluster& chaos, RoleProcess& worker, const std::string& model) {
    OCTET_RETURN_IF_ERROR(chaos.WaitSomeTokens());
    const uint64_t before = WorkersOf(chaos.Status(), digest_);
    const MonotonicTime fault = chaos.MarkFault();
    OCTET_RETURN_IF_ERROR(worker.End());
    OCTET_RETURN_IF_ERROR(worker.Start({"--model", model}));
    OCTET_RETURN_IF_ERROR(
        WaitWhole(chaos, digest_, std::min<uint64_t>(options_.workers, before + 1)));
    chaos.MarkRepaired(fault);
    return absl::OkStatus();
  }

  absl::Status ReplaceRouter(ChaosCluster& chaos, RoleProcess& router, const std::string& model) {
    OCTET_RETURN_IF_ERROR(chaos.WaitSomeTokens());
    const MonotonicTime fault = chaos.MarkFault();
    OCTET_RETURN_IF_ERROR(router.End());
    OCTET_RETURN_IF_ERROR(router.Start({"--model", model}));
    OCTET_RETURN_IF_ERROR(chaos.WaitStatus("the router serves", [&](const auto& status) {
      return std::any_of(status.routers().begin(), status.routers().end(), [&](const auto& one) {
        return one.address() == router.address() && one.state() == "ready" &&
               one.compute_digest() == digest_;
      });
    }));
    chaos.MarkRepaired(fault);
    return absl::OkStatus();
  }

  const ChaosOptions& options_;
  const TemporaryDirectory state_;
  RoleProcess coordinator_;
  std::vector<std::unique_ptr<RoleProcess>> workers_;
  std::vector<std::unique_ptr<RoleProcess>> routers_;
  std::string digest_, next_digest_;  // of the version that is served, and of the other one
  bool moved_ = false;
};

// The digest that the members of a cluster register with.
absl::StatusOr<std::string> VersionServed(const std::string& address) {
  OCTET_ASSIGN_OR_RETURN(const auto client, Client::Connect(address));
  OCTET_ASSIGN_OR_RETURN(const auto status, client->Status());
  return status.model().compute_digest();
}

}  // namespace

absl::StatusOr<ScenarioResult> UpgradeCluster(const ChaosOptions& given) {
  if (given.next_model.empty() || given.model.empty() || given.routers < 2) {
    return absl::InvalidArgumentError("upgrades need two models and two routers");
  }
  ChaosOptions options = given;
  RolledCluster cluster(options);
  OCTET_RETURN_IF_ERROR(cluster.Start());
  std::unique_ptr<ChaosCluster> chaos;
  std::string next_digest;
  {
    LocalCluster next(options.next_model, {"--workers", "1", "--log-level", "warning"});
    if (!next.WaitReady(kStartMs)) return absl::UnavailableError(next.Log());
    OCTET_ASSIGN_OR_RETURN(next_digest, VersionServed(next.address()));
    options.other_versions = {next.address()};
    OCTET_ASSIGN_OR_RETURN(chaos, ChaosCluster::Attach("upgrade", options, cluster.Addresses()));
  }
  OCTET_ASSIGN_OR_RETURN(const std::string digest, VersionServed(cluster.Addresses()));
  cluster.set_digests(digest, next_digest);
  for (uint32_t round = 0; round < options.rounds; ++round) {
    OCTET_RETURN_IF_ERROR(cluster.Restart(*chaos));
    OCTET_RETURN_IF_ERROR(cluster.MoveToNext(*chaos));
    OCTET_RETURN_IF_ERROR(cluster.MoveToNext(*chaos));
  }
  OCTET_RETURN_IF_ERROR(chaos->WaitSomeTokens());
  ScenarioResult result = chaos->Finish();
  for (const auto& [answered, count] : result.load.answers) {
    result.notes.push_back(absl::StrCat(count, " answers of version ", answered.substr(0, 8)));
  }
  return result;
}

}  // namespace octet
