// A router's link to a worker over the simulated network: as GrpcLink keeps its stream, with every
// message in the bytes of the expert wire, which the network may repeat, delay and damage.
#ifndef OCTET_TESTS_SIM_LINK_H_
#define OCTET_TESTS_SIM_LINK_H_

#include <functional>
#include <memory>
#include <vector>

#include "octet/v1/expert.pb.h"
#include "tests/sim/worker.h"
#include "tests/sim/world.h"
#include "transport/expert_link.h"

namespace octet::sim {

// Where workers can be reached: null for a node whose process is down.
using WorkerAt = std::function<Worker*(uint32_t node)>;

struct LinkBug {
  bool any_attempt = false;        // takes a reply for whatever is in flight
  bool forgets_in_flight = false;  // says nothing of what was in flight when the stream broke
};

class Link final : public ExpertLink {
 public:
  // Of the router's process `self` to the worker at `node`. `news` is called whenever something
  // was delivered to the dispatcher.
  Link(World* world, Process self, uint32_t node, WorkerAt workers, std::function<void()> news,
       const LinkBug& bug);
  ~Link() override;

  void Send(const ExpertDispatch& dispatch, ReplyFn done) override;
  void Cancel(const DispatchKey& key) override;
  bool connected() const override;

 private:
  struct State;
  const std::shared_ptr<State> state_;
};

}  // namespace octet::sim

#endif  // OCTET_TESTS_SIM_LINK_H_
