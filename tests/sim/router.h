// A router process of the simulation: the real step loop, scheduler, sampler, dispatcher, placement
// view and request codec on a fiber of their own; the forward pass is the simulated model's.
#ifndef OCTET_TESTS_SIM_ROUTER_H_
#define OCTET_TESTS_SIM_ROUTER_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "octet/v1/inference.pb.h"
#include "router/api/served_model.h"
#include "router/placement_view.h"
#include "router/step_loop.h"
#include "tests/sim/fiber.h"
#include "tests/sim/link.h"
#include "tests/sim/member.h"
#include "tests/sim/model.h"
#include "tests/sim/world.h"

namespace octet::sim {

struct RouterSettings {
  SimModel model;
  std::shared_ptr<const Tokenizer> tokenizer;
  uint32_t kv_blocks = 64;
  uint32_t running_max = 8;
  uint32_t waiting_max = 64;
  uint32_t micro_batches = 1;
  LinkBug bug;
};

// The client's end of a stream.
struct StreamEnds {
  std::function<void(std::shared_ptr<octet::v1::GenerateResponse>)> on_event;
  std::function<void(absl::Status)> on_end;
};

class Router {
 public:
  // Starts the process at `node`, which must be down.
  Router(World* world, uint32_t node, const RouterSettings& settings, CoordinatorAt coordinators,
         WorkerAt workers);
  // The process is gone after it.
  ~Router();

  // A call arrived on `stream`; `ends` runs at its other side. `time_left`: 0 for no deadline.
  void OnGenerate(const std::shared_ptr<Connection>& stream,
                  const octet::v1::GenerateRequest& request, Duration time_left, StreamEnds ends);

  Process process() const { return process_; }
  const Member& member() const { return *member_; }
  std::shared_ptr<const Placement> placement() const { return dispatcher_->placement(); }
  // Adds what its parts have counted.
  void AddCoverage();

 private:
  class Sink;
  void Run();  // the fiber's body
  void Wait(Duration longest);
  void Poke();
  MemberReport Report() const;

  World* const world_;
  const uint32_t node_;
  const RouterSettings settings_;
  Process process_;
  ServedModel served_;
  std::unique_ptr<TokenDispatcher> dispatcher_;
  std::unique_ptr<PlacementView> view_;
  std::unique_ptr<SimForwardPass> forward_;
  std::unique_ptr<StepLoop> loop_;
  std::shared_ptr<Member> member_;
  std::vector<IncomingRequest> inbox_;
  std::vector<RequestId> cancels_;
  uint64_t last_id_ = 0;
  uint32_t queued_ = 0;  // submitted, never admitted
  Epoch active_epoch_;
  bool ending_ = false;
  bool poked_ = false;
  uint64_t wait_ = 0;  // the one under way; 0: none
  uint64_t waits_ = 0;
  std::unique_ptr<Fiber> fiber_;
};

}  // namespace octet::sim

#endif  // OCTET_TESTS_SIM_ROUTER_H_
