// A real cluster for tests: `octet up` on free ports, with helpers to ask and to wait.
#ifndef OCTET_TESTS_INTEGRATION_LOCAL_CLUSTER_H_
#define OCTET_TESTS_INTEGRATION_LOCAL_CLUSTER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "client/client.h"
#include "octet/v1/inference.pb.h"
#include "tests/integration/process.h"

namespace octet {

// A committed tiny model packed into `directory`/package; fails the test on an error. Returns the
// package's path. `formats`: flags of `octet pack`.
std::string PackTestModel(const std::string& directory, const std::vector<std::string>& formats);

// The request of test prompt `index`: token ids, sampled for odd indices, never ended by the model.
octet::v1::GenerateRequest TestRequest(uint32_t index, uint32_t max_tokens);

// What one process without a cluster answers to TestRequest(index, max_tokens).
std::vector<int32_t> SingleProcessTokens(const std::string& package, uint32_t index,
                                         uint32_t max_tokens);

// The generated ids of one request through `client`. `on_tokens` gets their count so far after each
// chunk; `*digest`, unless null, the compute digest of the version that answers.
absl::StatusOr<std::vector<int32_t>> GenerateTokens(
    Client* client, const octet::v1::GenerateRequest& request,
    const std::function<void(size_t)>& on_tokens = nullptr,
    const CancelToken& cancel = CancelToken(), std::string* digest = nullptr);

// Not thread-safe, but its clients are.
class LocalCluster {
 public:
  // Starts `octet up --model package flags...`; an empty package: the embedded model. Call
  // WaitReady before anything else.
  LocalCluster(const std::string& package, const std::vector<std::string>& flags);
  bool WaitReady(int64_t timeout_ms);

  ChildProcess* process() { return &up_; }
  // host:port of the router; of several, with commas between.
  const std::string& address() const { return address_; }
  std::unique_ptr<Client> Connect() const;
  octet::v1::StatusResponse Status() const;
  // Polls the status until `condition` holds.
  bool WaitStatus(const std::function<bool(const octet::v1::StatusResponse&)>& condition,
                  int64_t timeout_ms) const;
  // Process ids as `up` printed them when the processes first listened, for lines that start with
  // `name` ("worker", "router", "coordinator", "" for all).
  std::vector<pid_t> Pids(const std::string& name) const;
  // Everything the processes wrote, for the message of a failure.
  std::string Log() const { return up_.StdoutText() + up_.StderrText(); }

 private:
  ChildProcess up_;
  std::string address_;
};

// Ready workers in a status.
size_t ReadyWorkers(const octet::v1::StatusResponse& status);

}  // namespace octet

#endif  // OCTET_TESTS_INTEGRATION_LOCAL_CLUSTER_H_
