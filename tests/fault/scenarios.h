// Faults on real processes: each scenario starts `octet up`, lets streams run, does something to
// its processes, and says what the streams saw.
#ifndef OCTET_TESTS_FAULT_SCENARIOS_H_
#define OCTET_TESTS_FAULT_SCENARIOS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/bench_stats.h"
#include "tests/fault/gap_statistics.h"
#include "tests/fault/stream_load.h"

namespace octet {

struct ChaosOptions {
  std::string model;  // as --model of octet up; empty: the embedded one
  // Another version, for scenarios that need two: a packed directory with the same vocabulary.
  std::string next_model;
  std::vector<std::string> other_versions;  // as StreamLoadOptions has it
  std::string transport = "grpc";
  uint32_t rounds = 3;  // faults
  uint64_t seed = 1;    // of the choice of victims and moments
  uint32_t workers = 8;
  uint32_t replication = 2;
  uint32_t routers = 1;
  size_t streams = 16;
  uint32_t tokens = 200;              // of each answer
  uint32_t prompt_tokens = 24;        // of each question
  std::vector<std::string> up_flags;  // further ones of `octet up`
  bool verify = false;                // workers run with --verify-experts
  std::vector<int> cores;             // of the cluster's processes; none: where the caller's run
  bool fresh = false;                 // no answer finds another one's blocks in a cache
  uint64_t undisturbed_tokens = 0;    // received before the first fault; 0: 10 answers' worth
  // How long the coordinator stays away, one measurement of throughput takes, or a flood lasts.
  int64_t outage_ms = 3'000;
};

struct ScenarioResult {
  std::string scenario;
  std::string transport;
  uint32_t faults = 0;
  StreamLoadResult load;  // without its gaps
  Summary usual;          // every gap before the first fault
  Summary quiet;          // longest gap of a stream in a second without a fault
  Summary disturbed;      // longest gap of a stream in the second after a fault
  Summary added;          // `disturbed` above usual.median
  // From a fault until every expert is on as many ready workers as is asked for.
  std::vector<double> repair_ms;
  std::string reference_digest;
  std::vector<std::string> notes;
};

// Each returns an error only where the scenario could not be carried out (the cluster did not
// start, was not repaired in a minute, ...); what the streams saw is in the result.

// kill -9 of a ready worker.
absl::StatusOr<ScenarioResult> KillWorkers(const ChaosOptions& options);
// SIGSTOP of a worker until it is replaced, then SIGCONT: it comes back as a zombie.
absl::StatusOr<ScenarioResult> StopWorkers(const ChaosOptions& options);
// A worker is missing until the others have its experts, and then comes back.
absl::StatusOr<ScenarioResult> RejoinWorkers(const ChaosOptions& options);
// One worker holds the only replica of its experts, and is killed for good: a live worker loads
// them. Then all workers are killed: a request ends with UNAVAILABLE.
absl::StatusOr<ScenarioResult> KillLastReplica(const ChaosOptions& options);
// The coordinator is killed, its store deleted; a while later a worker is killed too.
absl::StatusOr<ScenarioResult> LoseCoordinator(const ChaosOptions& options);
// Tokens per second before and while a worker is missing, each worker under a CPU quota where the
// machine has one to give (else notes say so).
absl::StatusOr<ScenarioResult> MeasureThroughput(const ChaosOptions& options);

// Requests at ten times the rate that the cluster can serve, from clients that don't wait. Where
// there are two cores or more, half of them are the cluster's and the others the clients', as if
// these were on other machines.
absl::StatusOr<ScenarioResult> Overload(const ChaosOptions& options);
// kill -9 of one of two or more routers; its streams go on at another one.
absl::StatusOr<ScenarioResult> KillRouters(const ChaosOptions& options);
// A worker's network drops what comes in, what goes out, or both, by turns, until the worker is
// replaced; then it works again. Each worker is in a network namespace of its own (as root, with
// `ip` and `nft`; else UNIMPLEMENTED says what is missing).
absl::StatusOr<ScenarioResult> PartitionWorkers(const ChaosOptions& options);
// Rolling upgrades, one process after the other, each told to end and started anew where it was: a
// round replaces every worker, router and the coordinator by processes of the same version, then
// moves the cluster to `next_model`, then back. Each request has the tokens of the version it began
// on. INVALID_ARGUMENT without `next_model` or with fewer than 2 routers.
absl::StatusOr<ScenarioResult> UpgradeCluster(const ChaosOptions& options);
// Flips a bit in the weights that a worker has mapped, while it serves. Each worker has a copy of
// `model` of its own. With `verify` workers check every product: no request fails and no token
// changes. Without, the scrubber finds it: what was in flight ends with DATA_LOSS, and answers
// that end once that is over are right again; how many were wrong before is in a note.
absl::StatusOr<ScenarioResult> DamageWeights(const ChaosOptions& options);
// Messages between the router and the workers pass through proxies that flip bits in them, lose
// them, send them twice, late and in another order; gRPC only.
absl::StatusOr<ScenarioResult> SpoilMessages(const ChaosOptions& options);

}  // namespace octet

#endif  // OCTET_TESTS_FAULT_SCENARIOS_H_
