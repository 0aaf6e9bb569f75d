// What a schedule does: the shape of the cluster, the requests and the faults, as data. Made from a
// seed, written and read as text, cut down by shrinking. All else of a run follows from it.
#ifndef OCTET_TESTS_SIM_PLAN_H_
#define OCTET_TESTS_SIM_PLAN_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace octet::sim {

// `a`, `b` and `x` are what each kind says; nodes are numbered as in cluster.h. Times are
// microseconds of simulated time from the start.
enum class FaultKind : uint8_t {
  kCrashWorker,        // worker a, back after `length` with nothing in memory
  kStopWorker,         // worker a stands still (SIGSTOP)
  kSlowWorker,         // worker a takes x times as long
  kDrainWorker,        // worker a leaves in good order, back after `length`
  kLoadFail,           // worker a finds damaged weights, all of them
  kCrashRouter,        // router a
  kStopRouter,         // router a
  kCrashCoordinator,   // after a further actions of slot b; x: 1 disk emptied, 2 its clock behind
  kStopCoordinator,    // slot b
  kSecondCoordinator,  // started in the other slot; a: 0 on the same disk, 1 on an empty one
  kDiskFull,           // of slot b
  kCut,                // nodes a and b; x: 0 both ways, 1 from a to b, 2 from b to a
  kBreak,              // the connections between nodes a and b
  kNoise,              // nodes a and b; x: a sum of NoiseBit
  kCount,
};
enum NoiseBit : uint64_t {
  kNoiseDelay = 1,
  kNoiseDuplicate = 2,
  kNoiseReorder = 4,
  kNoiseCorrupt = 8,
  kNoiseLoss = 16,
};
const char* FaultName(FaultKind kind);

struct Fault {
  FaultKind kind = FaultKind::kCrashWorker;
  int64_t at = 0;
  int64_t length = 0;
  uint32_t a = 0;
  uint32_t b = 0;
  uint64_t x = 0;
};

struct PlannedRequest {
  int64_t at = 0;
  uint32_t router = 0;   // asked first
  uint32_t prompt = 1;   // tokens
  uint32_t tokens = 1;   // to generate
  uint32_t text = 0;     // which text the prompt is the beginning of
  int64_t deadline = 0;  // after `at`; 0: none
};

struct Plan {
  uint64_t seed = 1;
  uint32_t workers = 3;
  uint32_t routers = 1;
  uint32_t experts = 6;
  uint32_t layers = 1;
  uint32_t replication = 2;
  uint32_t memory = 0;  // experts that a worker has room for; 0: no bound
  uint32_t speeds = 1;  // worker i registers with the equal speed times 1 + i % speeds
  uint32_t micro_batches = 1;
  uint32_t kv_blocks = 64;
  uint32_t running_max = 8;      // requests that a router computes together
  uint32_t waiting_max = 64;     // and queues
  uint32_t worker_queue = 4096;  // dispatches that a worker queues
  int64_t lease = 1'000'000;
  int64_t heartbeat = 200'000;
  int64_t settle = 100'000;
  int64_t prepare = 8'000'000;
  int64_t freeze = 2'000'000;
  int64_t keepalive = 3'000'000;
  int64_t compute = 3'000;  // of one kernel call, at most
  int64_t load = 60'000;    // of one expert, at most
  std::vector<PlannedRequest> requests;
  std::vector<Fault> faults;
};

// The schedule of a seed.
Plan MakePlan(uint64_t seed);

// One line per setting that differs from its default, per request and per fault. '#' begins a
// comment.
std::string PlanToText(const Plan& plan);
// INVALID_ARGUMENT names the line.
absl::StatusOr<Plan> PlanFromText(absl::string_view text);

}  // namespace octet::sim

#endif  // OCTET_TESTS_SIM_PLAN_H_
