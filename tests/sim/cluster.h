// A whole simulated cluster that carries out a plan under the eyes of its checks.
//
// Nodes: 0 and 1 are the slots for coordinators, 2 is all clients, then come the routers, then the
// workers.
#ifndef OCTET_TESTS_SIM_CLUSTER_H_
#define OCTET_TESTS_SIM_CLUSTER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tests/sim/client.h"
#include "tests/sim/coordinator.h"
#include "tests/sim/coverage.h"
#include "tests/sim/invariants.h"
#include "tests/sim/plan.h"
#include "tests/sim/router.h"
#include "tests/sim/worker.h"
#include "tests/sim/world.h"

namespace octet::sim {

// Deliberate faults of the logic.
struct Bugs {
  CoordinatorBug coordinator;
  WorkerBug worker;
  LinkBug link;
};

struct Outcome {
  std::string failure;  // empty: all held
  uint64_t hash = 0;    // of the event log
  uint64_t events = 0;
  double simulated_seconds = 0;
  Coverage coverage;
};

// Runs a plan to its end or its first failure.
Outcome RunPlan(const Plan& plan, const Bugs& bugs = {}, bool trace = false);

// Drops every log line, errors too: what the parts say about faults is expected here.
void SilenceLog();

inline constexpr uint32_t kClientNode = 2;
inline constexpr uint32_t kFirstRouterNode = 3;

class Cluster {
 public:
  Cluster(const Plan& plan, const Bugs& bugs, bool trace);
  ~Cluster();
  Outcome Run();

 private:
  uint32_t RouterNode(uint32_t i) const { return kFirstRouterNode + i; }
  uint32_t WorkerNode(uint32_t i) const { return kFirstRouterNode + plan_.routers + i; }
  MonotonicTime After(int64_t us) const { return start_ + Duration::Micros(us); }

  void StartWorker(uint32_t i);
  void StartRouter(uint32_t i);
  void StartCoordinator(uint32_t slot);
  void KillCoordinator(uint32_t slot);
  void StartRequest(const PlannedRequest& planned);
  void Schedule(const Fault& fault);
  void Begin(const Fault& fault);
  void BeginWorkerFault(const Fault& fault);
  void BeginRouterFault(const Fault& fault);
  void BeginCoordinatorFault(const Fault& fault);
  void BeginNetworkFault(const Fault& fault);
  void CrashWorker(uint32_t i, Duration back_after);
  void CrashCoordinator(const Fault& fault);
  void SecondCoordinator(const Fault& fault);
  void WatchDrain(uint32_t i, Duration back_after);
  void Collect();  // what has died, once nothing of it is on the stack
  // All requests have ended and the cluster is as the plan wants it, or why not.
  std::string Unfinished() const;

  const Plan plan_;
  const Bugs bugs_;
  World world_;
  const MonotonicTime start_;
  MonotonicTime calm_;  // no fault after it
  ClusterSettings settings_;
  SimModel model_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  Disk* NewDisk() { return disks_.emplace_back(std::make_unique<Disk>()).get(); }
  std::vector<std::unique_ptr<Disk>> disks_;
  Disk* disk_of_[2];             // [slot]
  uint64_t wall_clock_ = 1'000;  // seconds, as a coordinator with an empty disk reads them
  std::vector<WorkerWeather> weather_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<std::unique_ptr<Router>> routers_;
  std::unique_ptr<Coordinator> coordinators_[2];
  std::vector<std::shared_ptr<ClientRequest>> requests_;
  size_t requests_started_ = 0;
  Invariants invariants_;
};

}  // namespace octet::sim

#endif  // OCTET_TESTS_SIM_CLUSTER_H_
