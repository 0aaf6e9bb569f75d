// What must hold of every word that a coordinator says, whatever happens around it.
#ifndef OCTET_TESTS_SIM_INVARIANTS_H_
#define OCTET_TESTS_SIM_INVARIANTS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "tests/sim/coordinator.h"
#include "tests/sim/worker.h"
#include "tests/sim/world.h"

namespace octet::sim {

class Invariants final : public AnnouncementChecker {
 public:
  // `worker_of`: the live process that a table of a term means; null where it is gone, or where it
  // is registered in another term by now.
  Invariants(World* world, uint32_t memory_experts,
             std::function<const Worker*(const PlacedWorker&, uint64_t term)> worker_of)
      : world_(world), memory_experts_(memory_experts), worker_of_(std::move(worker_of)) {}

  void OnSend(const SendPlacementAction& send, MemberId member, const Disk& disk) override;
  void OnGrant(const RegisterGrant& grant, const Disk& disk) override;

 private:
  void CheckNewTable(const SendPlacementAction& send);
  void CheckHolders(const Placement& table, uint64_t term, const Placement* before);

  World* const world_;
  const uint32_t memory_experts_;
  const std::function<const Worker*(const PlacedWorker&, uint64_t term)> worker_of_;
  using Table = std::vector<std::vector<WorkerId>>;
  std::map<std::pair<uint64_t, uint64_t>, Table> tables_;        // by (term, epoch)
  std::map<uint64_t, std::shared_ptr<const Placement>> active_;  // last activated, by term
};

}  // namespace octet::sim

#endif  // OCTET_TESTS_SIM_INVARIANTS_H_
