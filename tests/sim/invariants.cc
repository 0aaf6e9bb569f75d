#include "tests/sim/invariants.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace octet::sim {

void Invariants::OnGrant(const RegisterGrant& grant, const Disk& disk) {
  const auto& saved = disk.state();
  if (!saved.has_value() || saved->term < grant.term || saved->next_id <= grant.id.value()) {
    world_->Fail(absl::StrCat("id ", grant.id.value(), " of term ", grant.term,
                              " was given out before it was saved"));
  }
}

void Invariants::OnSend(const SendPlacementAction& send, MemberId, const Disk& disk) {
  const Placement& table = *send.placement;
  const auto& saved = disk.state();
  if (!saved.has_value() || saved->epoch < table.epoch || saved->term < send.term) {
    return world_->Fail(
        absl::StrCat("epoch ", table.epoch.value(), " was announced before it was saved"));
  }
  const auto known =
      tables_.emplace(std::make_pair(send.term, table.epoch.value()), table.expert_replicas);
  if (!known.second && known.first->second != table.expert_replicas) {
    return world_->Fail(
        absl::StrCat("two tables of epoch ", table.epoch.value(), " and term ", send.term));
  }
  if (send.phase != PlacementPhase::kActivate) return;
  const auto& versions = saved->versions;
  const auto version = std::find_if(versions.begin(), versions.end(), [&](const auto& candidate) {
    return candidate.model.compute_digest == table.compute_digest;
  });
  if (version == versions.end() || !version->active.has_value() ||
      version->active->epoch < table.epoch) {
    return world_->Fail(
        absl::StrCat("epoch ", table.epoch.value(), " was activated before it was saved"));
  }
  CheckNewTable(send);
}

void Invariants::CheckNewTable(const SendPlacementAction& send) {
  const bool first_ever = active_.empty();
  std::shared_ptr<const Placement>& last = active_[send.term];
  const Placement& table = *send.placement;
  if (last != nullptr && last->epoch == table.epoch) return;
  if (last != nullptr && last->epoch > table.epoch) {
    return world_->Fail(absl::StrCat("a coordinator went back from epoch ", last->epoch.value(),
                                     " to ", table.epoch.value()));
  }
  std::map<WorkerId, uint32_t> given;
  for (const auto& replicas : table.expert_replicas) {
    for (const WorkerId id : replicas) ++given[id];
  }
  for (const auto& [id, experts] : given) {
    if (memory_experts_ > 0 && experts > memory_experts_) {
      world_->Fail(absl::StrCat("worker ", id.value(), " is given ", experts, " experts"));
    }
  }
  // A later coordinator's first words repeat what an earlier one activated.
  if (first_ever || last != nullptr) CheckHolders(table, send.term, last.get());
  last = send.placement;
}

// What is new in a table is where the table says, unless that process has ended since.
void Invariants::CheckHolders(const Placement& table, uint64_t term, const Placement* before) {
  bool shrinks = true;
  for (uint32_t e = 0; e < table.expert_replicas.size(); ++e) {
    const std::vector<WorkerId> old =
        before == nullptr ? std::vector<WorkerId>() : before->expert_replicas[e];
    for (const WorkerId id : table.expert_replicas[e]) {
      if (std::find(old.begin(), old.end(), id) != old.end()) continue;
      shrinks = false;
      const Worker* const worker = worker_of_(*table.FindWorker(id), term);
      if (worker != nullptr && worker->store().Find(ExpertId(e)) == nullptr) {
        return world_->Fail(absl::StrCat("epoch ", table.epoch.value(), " puts expert ", e,
                                         " on worker ", id.value(), ", which does not hold it"));
      }
    }
  }
  world_->Cover(shrinks ? Covered::kShrinkEpoch : Covered::kRolloutActivated);
}

}  // namespace octet::sim
