#include "coordinator/cluster_codec.h"

#include "absl/strings/str_cat.h"
#include "core/limits.h"
#include "core/status_macros.h"
#include "rpc/channel.h"
#include "rpc/placement_codec.h"
#include "rpc/status_details.h"

namespace octet {
namespace {

absl::Status CheckText(const char* field, const std::string& text) {
  if (text.size() <= kNameBytesMax) return absl::OkStatus();
  return InvalidFieldError(field, absl::StrCat(text.size(), " bytes, at most ", kNameBytesMax));
}

absl::Status DecodeExperts(const char* field,
                           const google::protobuf::RepeatedField<uint32_t>& numbers,
                           std::vector<ExpertId>* experts) {
  if (numbers.size() > static_cast<int>(kExpertsMax)) {
    return InvalidFieldError(field,
                             absl::StrCat(numbers.size(), " entries, at most ", kExpertsMax));
  }
  for (const uint32_t number : numbers) {
    if (number >= kExpertsMax) {
      return InvalidFieldError(
          field, absl::StrCat("expert ", number, ", below ", kExpertsMax, " is allowed"));
    }
    experts->push_back(ExpertId(number));
  }
  return absl::OkStatus();
}

absl::StatusOr<ModelSummary> DecodeModel(const octet::v1::ModelInfo& info) {
  if (!IsDigest(info.compute_digest())) {
    return InvalidFieldError("model.compute_digest",
                             "must be 64 lower-case hexadecimal characters");
  }
  if (info.experts() < 1 || info.experts() > kExpertsMax) {
    return InvalidFieldError("model.experts",
                             absl::StrCat(info.experts(), ", allowed are 1 to ", kExpertsMax));
  }
  if (info.layers() > kLayersMax) {
    return InvalidFieldError("model.layers", absl::StrCat(info.layers(), ", at most ", kLayersMax));
  }
  if (info.model_version().size() > kModelVersionBytesMax) {
    return InvalidFieldError(
        "model.model_version",
        absl::StrCat(info.model_version().size(), " bytes, at most ", kModelVersionBytesMax));
  }
  OCTET_RETURN_IF_ERROR(CheckText("model.name", info.name()));
  return ModelSummary{info.compute_digest(), info.model_version(), info.name(),
                      info.experts(),        info.layers(),        info.expert_bytes()};
}

}  // namespace

absl::StatusOr<RegisterEvent> DecodeRegister(const octet::v1::RegisterRequest& request) {
  RegisterEvent event;
  if (request.role() != octet::v1::ROLE_ROUTER && request.role() != octet::v1::ROLE_WORKER) {
    return InvalidFieldError("role", absl::StrCat(request.role(), ", allowed are ROLE_ROUTER (1) ",
                                                  "and ROLE_WORKER (2)"));
  }
  event.member.role = static_cast<MemberRole>(request.role());
  const auto address = ParseHostPort(request.address());
  if (!address.ok()) {
    return InvalidFieldError("address", address.status().message());
  }
  if (address->port == 0) return InvalidFieldError("address", "port 0 can't be reached");
  event.member.address = request.address();
  event.member.incarnation = request.incarnation();
  OCTET_ASSIGN_OR_RETURN(event.model, DecodeModel(request.model()));
  OCTET_RETURN_IF_ERROR(CheckText("zone", request.zone()));
  OCTET_RETURN_IF_ERROR(CheckText("host", request.host()));
  event.member.zone = request.zone();
  event.member.host = request.host();
  event.member.pid = request.pid();
  event.member.memory_bytes = request.memory_bytes();
  if (request.speed() > kWorkerSpeedMax) {
    return InvalidFieldError("speed",
                             absl::StrCat(request.speed(), ", allowed are 1 to ", kWorkerSpeedMax));
  }
  // Members of earlier releases send none.
  if (request.speed() != 0) event.member.speed = request.speed();
  event.member.id = MemberId(request.previous_id());
  event.seen_term = request.seen_term();
  event.seen_epoch = Epoch(request.seen_epoch());
  OCTET_RETURN_IF_ERROR(DecodeExperts("held", request.held(), &event.held));
  return event;
}

absl::StatusOr<HeartbeatEvent> DecodeHeartbeat(const octet::v1::HeartbeatRequest& request) {
  HeartbeatEvent event;
  event.id = MemberId(request.id());
  event.term = request.term();
  event.incarnation = request.incarnation();
  if (request.state() == "loading") {
    event.state = MemberState::kLoading;
  } else if (request.state() == "ready") {
    event.state = MemberState::kReady;
  } else if (request.state() == "draining") {
    event.state = MemberState::kDraining;
  } else if (request.state() == "damaged") {
    event.state = MemberState::kDamaged;
  } else {
    return InvalidFieldError("state",
                             absl::StrCat("\"", request.state().substr(0, 32),
                                          "\", allowed are loading, ready, draining, damaged"));
  }
  event.prepared_epoch = Epoch(request.prepared_epoch());
  event.active_epoch = Epoch(request.active_epoch());
  OCTET_RETURN_IF_ERROR(DecodeExperts("held", request.held(), &event.held));
  event.prepare_error = request.prepare_error().substr(0, kPrepareErrorBytesMax);
  event.prepare_error_epoch = Epoch(request.prepare_error_epoch());
  if (request.load().experts_size() > static_cast<int>(kExpertsMax)) {
    return InvalidFieldError("load.experts", absl::StrCat(request.load().experts_size(),
                                                          " entries, at most ", kExpertsMax));
  }
  for (const auto& load : request.load().experts()) {
    if (load.expert() >= kExpertsMax) {
      return InvalidFieldError("load.experts", absl::StrCat("expert ", load.expert(), ", below ",
                                                            kExpertsMax, " is allowed"));
    }
    if (load.expert() >= event.expert_rows.size()) event.expert_rows.resize(load.expert() + 1, 0);
    event.expert_rows[load.expert()] = load.tokens();
  }
  return event;
}

octet::v1::ModelInfo ModelToProto(const ModelSummary& model) {
  octet::v1::ModelInfo info;
  info.set_compute_digest(model.compute_digest);
  info.set_model_version(model.model_version);
  info.set_name(model.name);
  info.set_experts(model.experts);
  info.set_layers(model.layers);
  info.set_expert_bytes(model.expert_bytes);
  return info;
}

octet::v1::PlacementEvent PlacementEventToProto(const SendPlacementAction& action) {
  octet::v1::PlacementEvent event;
  event.set_term(action.term);
  event.set_phase(static_cast<octet::v1::PlacementPhase>(action.phase));
  *event.mutable_table() = PlacementToProto(*action.placement);
  for (const MemberId id : action.damaged) event.add_damaged(id.value());
  return event;
}

namespace {

octet::v1::MemberStatus MemberToProto(const MemberSnapshot& member) {
  octet::v1::MemberStatus status;
  status.set_id(member.record.id.value());
  status.set_role(static_cast<octet::v1::Role>(member.record.role));
  status.set_pid(member.record.pid);
  status.set_address(member.record.address);
  status.set_state(MemberStateName(member.state));
  for (const ExpertId expert : member.experts) status.add_experts(expert.value());
  status.set_zone(member.record.zone);
  status.set_host(member.record.host);
  status.set_active_epoch(member.active_epoch.value());
  status.set_lease_left_ms(static_cast<uint64_t>(member.lease_left.ns / 1'000'000));
  status.set_compute_digest(member.compute_digest);
  if (member.record.role == MemberRole::kWorker) status.set_speed(member.record.speed);
  return status;
}

}  // namespace

octet::v1::StatusResponse StatusToProto(const ClusterSnapshot& snapshot,
                                        const std::map<MemberId, octet::v1::LoadReport>& loads) {
  octet::v1::StatusResponse response;
  response.set_term(snapshot.term);
  response.set_replication(snapshot.replication);
  std::map<MemberId, const MemberSnapshot*> members;
  for (const VersionSnapshot& version : snapshot.versions) {
    auto* status = response.add_versions();
    *status->mutable_model() = ModelToProto(version.model);
    status->set_ready(version.ready);
    status->set_rollout(version.rollout);
    if (version.active != nullptr) *status->mutable_placement() = PlacementToProto(*version.active);
    for (const MemberSnapshot& member : version.members) members[member.record.id] = &member;
  }
  if (response.versions_size() > 0) {
    const octet::v1::VersionStatus& first = response.versions(0);
    *response.mutable_model() = first.model();
    response.set_ready(first.ready());
    response.set_rollout(first.rollout());
    if (first.has_placement()) {
      response.set_epoch(first.placement().epoch());
      *response.mutable_placement() = first.placement();
    }
  }
  for (const auto& [id, member] : members) {
    const bool worker = member->record.role == MemberRole::kWorker;
    auto* status = worker ? response.add_workers() : response.add_routers();
    *status = MemberToProto(*member);
    const auto load = loads.find(id);
    if (load != loads.end()) *status->mutable_load() = load->second;
  }
  return response;
}

}  // namespace octet
