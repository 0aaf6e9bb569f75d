// Messages between routers and workers that are damaged, doubled, late and out of order.
#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/status_macros.h"
#include "tests/fault/chaos_cluster.h"
#include "tests/fault/message_proxy.h"
#include "tests/fault/role_process.h"
#include "tests/fault/scenarios.h"

namespace octet {
namespace {

// A cluster whose workers are reached through proxies.
class ProxiedCluster {
 public:
  explicit ProxiedCluster(const ChaosOptions& options)
      : options_(options), coordinator_({"coordinator"}) {}
  ~ProxiedCluster() {
    // Streams end before the proxies that carry them.
    router_.reset();
    workers_.clear();
  }

  absl::Status Start() {
    std::vector<std::string> model;
    if (!options_.model.empty()) model = {"--model", options_.model};
    OCTET_RETURN_IF_ERROR(
        coordinator_.Start({"--replication", absl::StrCat(options_.replication),
                            "--expected-workers", absl::StrCat(options_.workers)}));
    for (uint32_t i = 0; i < options_.workers; ++i) {
      OCTET_ASSIGN_OR_RETURN(auto proxy, MessageProxy::Start(options_.seed * 1000 + i));
      workers_.push_back(std::make_unique<RoleProcess>(
          std::vector<std::string>{"worker", "--coordinator", coordinator_.address(), "--transport",
                                   "grpc", "--spin", "off", "--advertise", proxy->address()}));
      OCTET_RETURN_IF_ERROR(workers_.back()->Start(model));
      OCTET_RETURN_IF_ERROR(proxy->SetUpstream(workers_.back()->address()));
      proxies_.push_back(std::move(proxy));
    }
    router_ = std::make_unique<RoleProcess>(std::vector<std::string>{
        "router", "--coordinator", coordinator_.address(), "--transport", "grpc", "--spin", "off"});
    return router_->Start(model);
  }

  const std::string& address() const { return router_->address(); }
  void SetFaults(const MessageFaults& faults) {
    for (const auto& proxy : proxies_) proxy->SetFaults(faults);
  }
  MessageCounts Counts() const {
    MessageCounts sum;
    for (const auto& proxy : proxies_) {
      const MessageCounts counts = proxy->counts();
      sum.messages += counts.messages;
      sum.flipped += counts.flipped;
      sum.lost += counts.lost;
      sum.duplicated += counts.duplicated;
      sum.delayed += counts.delayed;
    }
    return sum;
  }
  std::string Describe() const {
    std::string text;
    for (size_t i = 0; i < proxies_.size(); ++i) {
      absl::StrAppend(&text, "proxy ", i, ":\n", proxies_[i]->Describe(), "worker ", i, ": ",
                      Tail(workers_[i]->Log()), "\n");
    }
    return absl::StrCat(text, "router: ", Tail(router_->Log()));
  }
  // Lines of the logs of all processes in which one says that a message was damaged.
  size_t Noticed() const {
    size_t count = Occurrences(router_->Log());
    for (const auto& worker : workers_) count += Occurrences(worker->Log());
    return count;
  }

 private:
  static std::string Tail(const std::string& log) {
    constexpr size_t kShown = 1'500;
    return log.substr(log.size() - std::min(log.size(), kShown));
  }
  static size_t Occurrences(const std::string& log) {
    size_t count = 0;
    for (const char* mark : {"a damaged dispatch", "a damaged reply", "failed, sending it"}) {
      for (size_t at = log.find(mark); at != std::string::npos; at = log.find(mark, at + 1)) {
        ++count;
      }
    }
    return count;
  }

  const ChaosOptions& options_;
  RoleProcess coordinator_;
  std::vector<std::unique_ptr<MessageProxy>> proxies_;
  std::vector<std::unique_ptr<RoleProcess>> workers_;
  std::unique_ptr<RoleProcess> router_;
};

// One kind after the other, then all together.
MessageFaults FaultsOf(uint32_t round) {
  MessageFaults faults;
  const auto happens = [&](uint32_t kind) { return round % 5 == kind || round % 5 == 4; };
  if (happens(0)) faults.flip = 0.001;
  if (happens(1)) faults.duplicate = 0.05;
  if (happens(2)) faults.delay = 0.01;
  if (happens(3)) faults.lose = 0.001;
  return faults;
}

}  // namespace

absl::StatusOr<ScenarioResult> SpoilMessages(const ChaosOptions& options) {
  if (options.transport != "grpc") return absl::InvalidArgumentError("messages are gRPC's alone");
  ProxiedCluster cluster(options);
  OCTET_RETURN_IF_ERROR(cluster.Start());
  OCTET_ASSIGN_OR_RETURN(const auto chaos,
                         ChaosCluster::Attach("messages", options, cluster.address()));
  for (uint32_t round = 0; round < options.rounds; ++round) {
    chaos->MarkFault();
    cluster.SetFaults(FaultsOf(round));
    const absl::Status status = chaos->WaitTokens(2 * options.streams * uint64_t{options.tokens});
    if (!status.ok()) {
      return absl::Status(status.code(), absl::StrCat(status.message(), "\n", cluster.Describe()));
    }
    cluster.SetFaults({});
    OCTET_RETURN_IF_ERROR(chaos->WaitWhole(options.workers, options.replication));
  }
  const MessageCounts counts = cluster.Counts();
  chaos->Note(absl::StrCat(counts.messages, " messages, of them ", counts.flipped,
                           " with a flipped bit, ", counts.lost, " lost, ", counts.duplicated,
                           " sent twice, ", counts.delayed, " late; damage noticed ",
                           cluster.Noticed(), " times"));
  if (counts.flipped == 0 || cluster.Noticed() == 0) {
    return absl::InternalError("no message was damaged, or nobody noticed");
  }
  return chaos->Finish();
}

}  // namespace octet
