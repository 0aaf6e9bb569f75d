#include "rpc/placement_codec.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "core/limits.h"
#include "core/status_macros.h"

namespace octet {
namespace {

absl::Status DecodeWorkers(const octet::v1::PlacementTable& table, Placement* placement) {
  if (table.workers_size() > static_cast<int>(kWorkersMax)) {
    return absl::InvalidArgumentError(absl::StrCat("placement.workers: ", table.workers_size(),
                                                   " entries, at most ", kWorkersMax, " allowed"));
  }
  for (const auto& worker : table.workers()) {
    if (worker.id() == 0 ||
        (!placement->workers.empty() && placement->workers.back().id.value() >= worker.id())) {
      return absl::InvalidArgumentError(
          absl::StrCat("placement.workers: id ", worker.id(), " is zero or out of order"));
    }
    if (worker.address().empty() || worker.address().size() > kAddressBytesMax) {
      return absl::InvalidArgumentError(
          absl::StrCat("placement.workers: address of worker ", worker.id(), " has ",
                       worker.address().size(), " bytes, allowed are 1 to ", kAddressBytesMax));
    }
    if (worker.speed() > kWorkerSpeedMax) {
      return absl::InvalidArgumentError(absl::StrCat("placement.workers: speed ", worker.speed(),
                                                     " of worker ", worker.id(),
                                                     ", allowed are 1 to ", kWorkerSpeedMax));
    }
    placement->workers.push_back({WorkerId(worker.id()), worker.address(),
                                  worker.speed() == 0 ? kWorkerSpeedEqual : worker.speed()});
  }
  return absl::OkStatus();
}

absl::Status DecodeReplicas(int expert, const octet::v1::ReplicaSet& set, Placement* placement) {
  std::vector<WorkerId> replicas;
  for (const uint64_t raw : set.workers()) {
    const WorkerId id(raw);
    const auto found = std::lower_bound(
        placement->workers.begin(), placement->workers.end(), id,
        [](const PlacedWorker& worker, WorkerId wanted) { return worker.id < wanted; });
    if (found == placement->workers.end() || found->id != id) {
      return absl::InvalidArgumentError(
          absl::StrCat("placement.experts[", expert, "]: worker ", raw, " is not in the table"));
    }
    if (std::find(replicas.begin(), replicas.end(), id) != replicas.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("placement.experts[", expert, "]: worker ", raw, " appears twice"));
    }
    replicas.push_back(id);
  }
  placement->expert_replicas.push_back(std::move(replicas));
  return absl::OkStatus();
}

}  // namespace

bool IsDigest(const std::string& text) {
  return text.size() == 64 && std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

octet::v1::PlacementTable PlacementToProto(const Placement& placement) {
  octet::v1::PlacementTable table;
  table.set_epoch(placement.epoch.value());
  table.set_compute_digest(placement.compute_digest);
  table.set_model_version(placement.model_version);
  for (const PlacedWorker& worker : placement.workers) {
    auto* info = table.add_workers();
    info->set_id(worker.id.value());
    info->set_address(worker.address);
    info->set_speed(worker.speed);
  }
  for (const auto& replicas : placement.expert_replicas) {
    auto* set = table.add_experts();
    for (const WorkerId id : replicas) set->add_workers(id.value());
  }
  return table;
}

absl::StatusOr<Placement> PlacementFromProto(const octet::v1::PlacementTable& table) {
  Placement placement;
  placement.epoch = Epoch(table.epoch());
  if (!IsDigest(table.compute_digest())) {
    return absl::InvalidArgumentError(
        "placement.compute_digest: must be 64 lower-case hexadecimal characters");
  }
  placement.compute_digest = table.compute_digest();
  if (table.model_version().size() > kModelVersionBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("placement.model_version: ", table.model_version().size(), " bytes, at most ",
                     kModelVersionBytesMax));
  }
  placement.model_version = table.model_version();
  OCTET_RETURN_IF_ERROR(DecodeWorkers(table, &placement));
  if (table.experts_size() < 1 || table.experts_size() > static_cast<int>(kExpertsMax)) {
    return absl::InvalidArgumentError(absl::StrCat("placement.experts: ", table.experts_size(),
                                                   " entries, allowed are 1 to ", kExpertsMax));
  }
  for (int expert = 0; expert < table.experts_size(); ++expert) {
    OCTET_RETURN_IF_ERROR(DecodeReplicas(expert, table.experts(expert), &placement));
  }
  return placement;
}

}  // namespace octet
