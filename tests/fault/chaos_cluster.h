// A local cluster under load that the scenarios do things to.
#ifndef OCTET_TESTS_FAULT_CHAOS_CLUSTER_H_
#define OCTET_TESTS_FAULT_CHAOS_CLUSTER_H_

#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "tests/fault/scenarios.h"
#include "tests/integration/local_cluster.h"

namespace octet {

// Stops `octet up` from restarting anything while it lives.
class SupervisorStopped {
 public:
  explicit SupervisorStopped(LocalCluster* cluster);
  ~SupervisorStopped();

 private:
  LocalCluster* cluster_;
};

// One thread.
class ChaosCluster {
 public:
  // Starts `octet up`, waits until the cluster is whole, asks for the reference answers and starts
  // the streams.
  static absl::StatusOr<std::unique_ptr<ChaosCluster>> Start(const std::string& scenario,
                                                             const ChaosOptions& options);
  // The same with a cluster that the caller started and keeps, whose router is at `address`.
  static absl::StatusOr<std::unique_ptr<ChaosCluster>> Attach(const std::string& scenario,
                                                              const ChaosOptions& options,
                                                              const std::string& address);

  // Of Start; null after Attach.
  LocalCluster* processes() { return cluster_.get(); }
  const std::string& state_directory() const { return state_.path(); }
  std::mt19937_64& random() { return random_; }
  const std::string& address() const { return address_; }
  octet::v1::StatusResponse Status() const;
  // A ready worker by chance.
  absl::StatusOr<pid_t> AnyWorker();

  // Until that many further tokens have come; an error after a minute.
  absl::Status WaitTokens(uint64_t count);
  // The same for a random number of tokens: some random moment of the streams.
  absl::Status WaitSomeTokens();
  // Until `workers` are ready, every expert is on `replication` of them and nothing is rolled out.
  absl::Status WaitWhole(uint32_t workers, uint32_t replication);
  absl::Status WaitStatus(const std::string& what,
                          const std::function<bool(const octet::v1::StatusResponse&)>& condition);

  // Measured for so long.
  double TokensPerSecond(int64_t length_ms);

  // A fault happens now: its second is watched.
  MonotonicTime MarkFault();
  void MarkRepaired(MonotonicTime fault);
  void Note(std::string note) { result_.notes.push_back(std::move(note)); }
  uint64_t tokens() const { return load_->tokens(); }
  StreamLoadResult Progress() const { return load_->Progress(); }
  const Clock& clock() const { return clock_; }

  // Stops the streams and adds up what they saw.
  ScenarioResult Finish();

 private:
  ChaosCluster(const std::string& scenario, const ChaosOptions& options)
      : options_(options), random_(options.seed) {
    result_.scenario = scenario;
    result_.transport = options.transport;
  }
  absl::Status StartStreams();

  const ChaosOptions options_;
  const SystemClock clock_{};
  const TemporaryDirectory state_;
  std::mt19937_64 random_;
  std::unique_ptr<LocalCluster> cluster_;
  std::string address_;
  std::unique_ptr<Client> status_;
  std::unique_ptr<StreamLoad> load_;
  Window quiet_{};
  std::vector<Window> faults_;
  ScenarioResult result_;
};

// True where every expert is on at least `replication` of the ready workers.
bool Replicated(const octet::v1::StatusResponse& status, uint32_t replication);

}  // namespace octet

#endif  // OCTET_TESTS_FAULT_CHAOS_CLUSTER_H_
