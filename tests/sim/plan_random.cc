// Makes the schedule of a seed.
#include <algorithm>

#include "tests/sim/plan.h"
#include "tests/sim/world.h"

namespace octet::sim {
namespace {

class Maker {
 public:
  explicit Maker(uint64_t seed) : state_(Mix(seed ^ 0x5eedull)) { plan_.seed = seed; }

  Plan Make() {
    Shape();
    // Trouble begins when the cluster serves, mostly.
    trouble_ = Between(300'000, 3'500'000);
    Requests();
    const uint64_t faults = Below(10) == 0 ? 0 : 1 + Below(Below(3) == 0 ? 10 : 4);
    for (uint64_t i = 0; i < faults; ++i) AddFault();
    if (Below(40) == 0) Outage();
    if (Below(4) == 0) plan_.speeds = Small(2, 4);
    std::stable_sort(plan_.faults.begin(), plan_.faults.end(),
                     [](const Fault& a, const Fault& b) { return a.at < b.at; });
    return plan_;
  }

 private:
  uint64_t Below(uint64_t n) { return Mix(state_ += 0x9e3779b97f4a7c15ull) % n; }
  int64_t Between(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(Below(static_cast<uint64_t>(high - low + 1)));
  }
  uint32_t Small(uint64_t low, uint64_t high) {
    return static_cast<uint32_t>(low + Below(high - low + 1));
  }

  void Shape() {
    plan_.workers = Small(1, 5);
    plan_.routers = Small(1, 2);
    plan_.experts = Small(2, 8);
    plan_.layers = Small(1, 2);
    plan_.replication = Below(5) == 0 ? 1 : Small(2, 3);
    plan_.micro_batches = Small(1, 2);
    if (Below(4) == 0) {
      // Enough for every expert once, at least.
      const uint32_t least = (plan_.experts + plan_.workers - 1) / plan_.workers;
      plan_.memory = least + Small(0, 2);
    }
    if (Below(6) == 0) plan_.kv_blocks = Small(2, 4);
    if (Below(10) == 0) {
      plan_.running_max = 1;
      plan_.waiting_max = Small(1, 2);
    }
    if (Below(6) == 0) plan_.worker_queue = Small(1, 4);
    plan_.lease = Between(500'000, 2'000'000);
    plan_.heartbeat = plan_.lease / Between(4, 6);
    plan_.settle = Between(60'000, 250'000);
    plan_.prepare = Between(2'000'000, 8'000'000);
    plan_.freeze = Between(500'000, 3'000'000);
    plan_.keepalive = Between(800'000, 5'000'000);
    plan_.compute = Between(1'000, 12'000);
    plan_.load = Between(10'000, 150'000);
  }

  void Requests() {
    const uint64_t count = 2 + Below(5);
    const bool early = Below(6) == 0;
    for (uint64_t i = 0; i < count; ++i) {
      PlannedRequest request;
      request.at = early ? Between(0, 500'000) : Between(200'000, 400'000 + trouble_);
      request.router = Small(0, plan_.routers - 1);
      request.prompt = Below(6) == 0 ? Small(40, 80) : Small(1, 12);
      request.tokens = Small(2, 20);
      request.text = Small(0, 2);
      if (Below(8) == 0) request.deadline = Between(20'000, 2'000'000);
      plan_.requests.push_back(request);
    }
  }

  int64_t When() { return Between(250'000, 400'000 + trouble_); }

  int64_t Length() {
    switch (Below(5)) {
      case 0:
        return Between(1'000, 60'000);
      case 1:
        return Between(1'000'000, 6'000'000);
      default:
        return Between(50'000, 1'500'000);
    }
  }

  uint32_t Node() { return Small(0, 2 + plan_.routers + plan_.workers); }
  uint32_t RouterOrWorker() { return Small(3, 2 + plan_.routers + plan_.workers); }

  // Two different nodes that talk to each other, mostly a router and a worker.
  void Pair(Fault* fault) {
    fault->a = 3 + Small(0, plan_.routers - 1);
    fault->b = 3 + plan_.routers + Small(0, plan_.workers - 1);
    const uint64_t other = Below(4);
    if (other == 0) {
      fault->a = 0;  // the coordinator and any member
      fault->b = RouterOrWorker();
    } else if (other == 1) {
      fault->b = 2;  // a router and the clients
    }
  }

  void AddFault() {
    static constexpr FaultKind kLikely[] = {FaultKind::kCrashWorker,
                                            FaultKind::kCrashWorker,
                                            FaultKind::kStopWorker,
                                            FaultKind::kStopWorker,
                                            FaultKind::kSlowWorker,
                                            FaultKind::kDrainWorker,
                                            FaultKind::kLoadFail,
                                            FaultKind::kCrashRouter,
                                            FaultKind::kStopRouter,
                                            FaultKind::kCrashCoordinator,
                                            FaultKind::kCrashCoordinator,
                                            FaultKind::kStopCoordinator,
                                            FaultKind::kSecondCoordinator,
                                            FaultKind::kDiskFull,
                                            FaultKind::kCut,
                                            FaultKind::kCut,
                                            FaultKind::kCut,
                                            FaultKind::kBreak,
                                            FaultKind::kNoise,
                                            FaultKind::kNoise};
    Fault fault;
    fault.kind = kLikely[Below(std::size(kLikely))];
    fault.at = When();
    fault.length = Length();
    Details(&fault);
    plan_.faults.push_back(fault);
    // Trouble is rarely alone.
    if (fault.kind == FaultKind::kCrashWorker && Below(3) == 0) {
      fault.a = Small(0, plan_.workers - 1);
      fault.at += Between(0, 100'000);
      plan_.faults.push_back(fault);
    }
  }

  void Details(Fault* fault) {
    switch (fault->kind) {
      case FaultKind::kCrashRouter:
      case FaultKind::kStopRouter:
        fault->a = Small(0, plan_.routers - 1);
        return;
      case FaultKind::kCrashCoordinator:
        fault->a = Below(3) == 0 ? 0 : Small(1, 30);
        fault->b = Below(8) == 0 ? 1 : 0;
        fault->x = Below(3) == 0 ? 1 + Below(2) : 0;
        return;
      case FaultKind::kStopCoordinator:
      case FaultKind::kDiskFull:
        fault->b = Below(6) == 0 ? 1 : 0;
        return;
      case FaultKind::kSecondCoordinator:
        fault->a = Small(0, 1);
        if (Below(2) == 0) {
          // The first one stands still meanwhile, and comes back.
          Fault stop;
          stop.kind = FaultKind::kStopCoordinator;
          stop.at = fault->at - std::min<int64_t>(fault->at, Between(0, 200'000));
          stop.length = Between(100'000, fault->length + 200'000);
          plan_.faults.push_back(stop);
        }
        return;
      case FaultKind::kCut:
        Pair(fault);
        fault->x = Below(3);
        return;
      case FaultKind::kBreak:
        Pair(fault);
        fault->length = 0;
        return;
      case FaultKind::kNoise:
        Pair(fault);
        fault->x = 1 + Below(31);
        return;
      case FaultKind::kSlowWorker:
        fault->x = Small(3, 60);
        [[fallthrough]];
      default:
        fault->a = Small(0, plan_.workers - 1);
    }
  }

  // Ten minutes without a coordinator, in which requests come and a worker may die.
  void Outage() {
    Fault outage;
    outage.kind = FaultKind::kCrashCoordinator;
    outage.at = When();
    outage.length = 600'000'000;
    outage.x = Below(2);
    plan_.faults.push_back(outage);
    for (PlannedRequest& request : plan_.requests) {
      if (Below(2) == 0) request.at = outage.at + Between(0, outage.length);
    }
    if (plan_.workers < 2 || plan_.replication < 2 || Below(2) == 0) return;
    Fault kill;
    kill.at = outage.at + Between(0, outage.length / 2);
    kill.length = Between(1'000'000, outage.length / 2);
    kill.a = Small(0, plan_.workers - 1);
    plan_.faults.push_back(kill);
  }

  Plan plan_;
  uint64_t state_;
  int64_t trouble_ = 0;
};

}  // namespace

Plan MakePlan(uint64_t seed) { return Maker(seed).Make(); }

}  // namespace octet::sim
