// An expert worker of the simulation: the real store, placement executor, admission and job queue,
// with a kernel that takes simulated time and messages in the bytes of the expert wire.
#ifndef OCTET_TESTS_SIM_WORKER_H_
#define OCTET_TESTS_SIM_WORKER_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "expert_worker/admission.h"
#include "expert_worker/expert_store.h"
#include "expert_worker/job_queue.h"
#include "expert_worker/load_counter.h"
#include "expert_worker/placement_executor.h"
#include "octet/v1/expert.pb.h"
#include "tests/sim/fiber.h"
#include "tests/sim/member.h"
#include "tests/sim/model.h"
#include "tests/sim/world.h"

namespace octet::sim {

struct WorkerBug {
  bool wrong_layer = false;  // now and then computes another layer
};

struct WorkerSettings {
  SimModel model;
  uint32_t queue_max = 4096;  // dispatches
  uint32_t memory_experts = 0;
  uint32_t speed = kWorkerSpeedEqual;
  Duration compute = Duration::Millis(3);
  Duration load = Duration::Millis(60);
  WorkerBug bug;
};

// What of a worker changes from outside while it runs, and outlives its process.
struct WorkerWeather {
  uint64_t slow_factor = 1;
  MonotonicTime slow_until;
  MonotonicTime load_fails_until;
};

inline constexpr uint64_t kSimExpertBytes = 1000;

class Worker {
 public:
  using ReplyFn = std::function<void(std::shared_ptr<octet::v1::DispatchReply>)>;

  // Starts the process at `node`, which must be down.
  Worker(World* world, uint32_t node, const WorkerSettings& settings, const WorkerWeather* weather,
         CoordinatorAt coordinators);
  // The process is gone after it.
  ~Worker();

  // A dispatch arrived on `stream`; `reply` sends to its other side.
  void OnDispatch(const std::shared_ptr<Connection>& stream,
                  std::shared_ptr<octet::v1::Dispatch> message, ReplyFn reply);
  // Leaves in good order, as on SIGTERM; true once nothing is left to do.
  void Drain();
  bool drained() const;

  Process process() const { return process_; }
  const ExpertStore& store() const { return store_; }
  const Member& member() const { return *member_; }
  bool serving() const { return executor_.state().serving; }
  static std::string Address(uint32_t node);

 private:
  struct Job {
    std::weak_ptr<Connection> stream;
    std::shared_ptr<octet::v1::Dispatch> request;
    std::vector<DispatchView::Group> groups;
    ExpertJob job;
    std::vector<float> rows;
    size_t reply_rows = 0;
    ReplyFn reply;
  };
  WorkerModel MakeModel();
  absl::StatusOr<MappedExpert> Load(ExpertId expert);
  MemberReport Report() const;
  void FollowPlacements();  // the fiber's body
  void WaitInFiber(Duration length);
  void ComputeNext();
  void Finish(const std::vector<QueuedGroup>& batch);
  void Answer(Job* job);
  void Refuse(const Job& job, const absl::Status& status);

  World* const world_;
  const uint32_t node_;
  const WorkerSettings settings_;
  const WorkerWeather* const weather_;
  Process process_;
  ExpertStore store_;
  DispatchShape shape_;
  PlacementExecutor executor_;
  std::deque<PlacementUpdate> updates_;
  bool ending_ = false;
  bool fiber_idle_ = false;
  std::unique_ptr<Fiber> fiber_;
  std::shared_ptr<Member> member_;
  JobQueue queue_;
  std::map<const ExpertJob*, std::unique_ptr<Job>> jobs_;
  bool computing_ = false;
  bool draining_ = false;
  bool refusing_ = false;
  std::vector<uint64_t> rows_per_expert_;
  Epoch active_epoch_;
};

}  // namespace octet::sim

#endif  // OCTET_TESTS_SIM_WORKER_H_
