// How a simulated cluster suffers the faults of its plan.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "tests/sim/cluster.h"

namespace octet::sim {
namespace {

constexpr Duration kTenMinutes = Duration::Millis(600'000);

}  // namespace

void Cluster::Schedule(const Fault& fault) {
  const MonotonicTime end = After(fault.at + fault.length);
  calm_ = std::max(calm_, end + Duration::Millis(1));
  world_.At(After(fault.at), [this, fault] { Begin(fault); });
}

void Cluster::Begin(const Fault& fault) {
  world_.Note(FaultName(fault.kind), fault.a, fault.b, fault.x);
  if (fault.kind <= FaultKind::kLoadFail) return BeginWorkerFault(fault);
  if (fault.kind <= FaultKind::kStopRouter) return BeginRouterFault(fault);
  if (fault.kind <= FaultKind::kDiskFull) return BeginCoordinatorFault(fault);
  BeginNetworkFault(fault);
}

void Cluster::CrashWorker(uint32_t i, Duration back_after) {
  if (workers_[i] == nullptr) return;
  workers_[i].reset();
  const auto down = std::count(workers_.begin(), workers_.end(), nullptr);
  if (down >= 2) world_.Cover(Covered::kTwoWorkersDown);
  world_.At(world_.Now() + back_after, [this, i] { StartWorker(i); });
}

void Cluster::WatchDrain(uint32_t i, Duration back_after) {
  const Worker* const worker = workers_[i].get();
  if (worker == nullptr) return;
  if (worker->drained()) {
    CrashWorker(i, back_after);
    return;
  }
  world_.At(world_.Now() + Duration::Millis(50), [this, i, worker, back_after] {
    if (workers_[i].get() == worker) WatchDrain(i, back_after);
  });
}

void Cluster::BeginWorkerFault(const Fault& fault) {
  const Duration length = Duration::Micros(fault.length);
  const MonotonicTime end = world_.Now() + length;
  switch (fault.kind) {
    case FaultKind::kCrashWorker:
      world_.Cover(Covered::kWorkerCrash);
      return CrashWorker(fault.a, length);
    case FaultKind::kStopWorker:
      if (workers_[fault.a] == nullptr) return;
      world_.Cover(Covered::kWorkerStop);
      return world_.Stop(WorkerNode(fault.a), length);
    case FaultKind::kSlowWorker:
      world_.Cover(Covered::kWorkerSlow);
      weather_[fault.a].slow_factor = std::max<uint64_t>(fault.x, 1);
      weather_[fault.a].slow_until = end;
      return;
    case FaultKind::kDrainWorker:
      if (workers_[fault.a] == nullptr) return;
      world_.Cover(Covered::kWorkerDrain);
      workers_[fault.a]->Drain();
      calm_ = std::max(calm_, end + Duration::Millis(3'000));
      return WatchDrain(fault.a, length);
    default:
      weather_[fault.a].load_fails_until = end;
  }
}

void Cluster::BeginRouterFault(const Fault& fault) {
  const uint32_t i = fault.a;
  if (routers_[i] == nullptr) return;
  const Duration length = Duration::Micros(fault.length);
  if (fault.kind == FaultKind::kStopRouter) {
    world_.Cover(Covered::kRouterStop);
    return world_.Stop(RouterNode(i), length);
  }
  world_.Cover(Covered::kRouterCrash);
  routers_[i].reset();
  world_.At(world_.Now() + length, [this, i] { StartRouter(i); });
}

void Cluster::CrashCoordinator(const Fault& fault) {
  const uint32_t slot = fault.b;
  if (coordinators_[slot] == nullptr) return;
  world_.Cover(Covered::kCoordinatorCrash);
  const Duration length = Duration::Micros(fault.length);
  if (length >= kTenMinutes) world_.Cover(Covered::kCoordinatorOutageTenMinutes);
  if (fault.a == 0) {
    KillCoordinator(slot);
  } else {
    coordinators_[slot]->DieAfter(fault.a - 1);
  }
  const uint64_t x = fault.x;
  world_.At(world_.Now() + length, [this, slot, x] {
    if (coordinators_[slot] != nullptr && !coordinators_[slot]->dead()) {
      KillCoordinator(slot);  // it has not done so much
    }
    coordinators_[slot].reset();
    if (x > 0) {
      world_.Cover(x > 1 ? Covered::kCoordinatorClockBehind : Covered::kCoordinatorDiskEmptied);
      disk_of_[slot] = NewDisk();
      wall_clock_ = x > 1 ? 1 : wall_clock_ + 1'000;
    }
    // A second one keeps its own name.
    if (slot == 0) StartCoordinator(slot);
  });
}

void Cluster::SecondCoordinator(const Fault& fault) {
  const uint32_t first = coordinators_[0] != nullptr ? 0 : 1;
  const uint32_t second = 1 - first;
  if (coordinators_[second] != nullptr || coordinators_[first] == nullptr) return;
  world_.Cover(Covered::kSecondCoordinator);
  disk_of_[second] = disk_of_[first];
  if (fault.a != 0) {
    disk_of_[second] = NewDisk();
    wall_clock_ += 1'000;
  }
  StartCoordinator(second);
  // In the end one is left, with whatever disk it has: now in the first slot.
  world_.At(world_.Now() + Duration::Micros(fault.length), [this, second, first] {
    KillCoordinator(second);
    if (coordinators_[first] != nullptr) KillCoordinator(first);
    disk_of_[0] = disk_of_[second];
    StartCoordinator(0);
  });
}

void Cluster::BeginCoordinatorFault(const Fault& fault) {
  const uint32_t slot = fault.b;
  const Duration length = Duration::Micros(fault.length);
  switch (fault.kind) {
    case FaultKind::kCrashCoordinator:
      return CrashCoordinator(fault);
    case FaultKind::kStopCoordinator:
      if (coordinators_[slot] == nullptr) return;
      world_.Cover(Covered::kCoordinatorStop);
      return world_.Stop(slot, length);
    case FaultKind::kSecondCoordinator:
      return SecondCoordinator(fault);
    default: {
      world_.Cover(Covered::kDiskFull);
      Disk* const disk = disk_of_[slot];
      disk->SetFull(true);
      world_.At(world_.Now() + length, [disk] { disk->SetFull(false); });
    }
  }
}

void Cluster::BeginNetworkFault(const Fault& fault) {
  const Duration length = Duration::Micros(fault.length);
  if (fault.kind == FaultKind::kBreak) {
    world_.Cover(Covered::kConnectionBroken);
    return world_.BreakConnections(fault.a, fault.b);
  }
  if (fault.kind == FaultKind::kCut) {
    world_.Cover(fault.x == 0 ? Covered::kCutBothWays : Covered::kCutOneWay);
    if (fault.x != 2) world_.Cut(fault.a, fault.b, length);
    if (fault.x != 1) world_.Cut(fault.b, fault.a, length);
    return;
  }
  PathNoise noise;
  noise.until = world_.Now() + length;
  noise.delay = (fault.x & kNoiseDelay) != 0;
  noise.duplicate = (fault.x & kNoiseDuplicate) != 0;
  noise.reorder = (fault.x & kNoiseReorder) != 0;
  noise.corrupt = (fault.x & kNoiseCorrupt) != 0;
  noise.loss = (fault.x & kNoiseLoss) != 0;
  world_.SetNoise(fault.a, fault.b, noise);
  world_.SetNoise(fault.b, fault.a, noise);
}

}  // namespace octet::sim
