#include "cli/status_json.h"

#include <nlohmann/json.hpp>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace octet {
namespace {

using Json = nlohmann::ordered_json;

Json MemberToJson(const octet::v1::MemberStatus& member) {
  Json json;
  json["id"] = member.id();
  json["pid"] = member.pid();
  json["address"] = member.address();
  json["state"] = member.state();
  json["experts"] = std::vector<uint32_t>(member.experts().begin(), member.experts().end());
  json["host"] = member.host();
  json["zone"] = member.zone();
  json["active_epoch"] = member.active_epoch();
  json["lease_left_ms"] = member.lease_left_ms();
  return json;
}

Json WorkerToJson(const octet::v1::MemberStatus& member) {
  Json json = MemberToJson(member);
  json["dispatches"] = member.load().dispatches();
  json["queue_frames"] = member.load().queue_frames();
  json["resident_bytes"] = member.load().resident_bytes();
  Json tokens = Json::object();
  for (const auto& load : member.load().experts()) {
    tokens[absl::StrCat(load.expert())] = load.tokens();
  }
  json["tokens_per_expert"] = std::move(tokens);
  return json;
}

Json RouterToJson(const octet::v1::MemberStatus& member) {
  Json json = MemberToJson(member);
  json.erase("experts");
  json["requests_running"] = member.load().requests_running();
  json["requests_waiting"] = member.load().requests_waiting();
  json["tokens_generated"] = member.load().tokens_generated();
  json["prefix_cache_queries"] = member.load().prefix_cache_queries();
  json["prefix_cache_hits"] = member.load().prefix_cache_hits();
  return json;
}

}  // namespace

std::string StatusToJson(const octet::v1::StatusResponse& status) {
  Json json;
  json["epoch"] = status.epoch();
  json["ready"] = status.ready();
  json["workers"] = Json::array();
  for (const auto& worker : status.workers()) json["workers"].push_back(WorkerToJson(worker));
  json["routers"] = Json::array();
  for (const auto& router : status.routers()) json["routers"].push_back(RouterToJson(router));
  json["term"] = status.term();
  json["model"] = {{"name", status.model().name()},
                   {"version", status.model().model_version()},
                   {"compute_digest", status.model().compute_digest()},
                   {"experts", status.model().experts()},
                   {"layers", status.model().layers()}};
  json["replication"] = status.replication();
  json["rollout"] = status.rollout();
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string StatusToText(const octet::v1::StatusResponse& status) {
  std::string text = absl::StrCat("model ", status.model().name(), ", epoch ", status.epoch(), ", ",
                                  status.ready() ? "ready" : "not ready");
  if (!status.rollout().empty()) absl::StrAppend(&text, ", ", status.rollout());
  absl::StrAppend(&text, "\n");
  for (const auto& worker : status.workers()) {
    absl::StrAppendFormat(&text, "worker %-4d pid %-8d %-22s %-9s experts %s\n", worker.id(),
                          worker.pid(), worker.address(), worker.state(),
                          absl::StrJoin(worker.experts(), " "));
  }
  for (const auto& router : status.routers()) {
    absl::StrAppendFormat(&text, "router %-4d pid %-8d %-22s %-9s running %d, waiting %d\n",
                          router.id(), router.pid(), router.address(), router.state(),
                          router.load().requests_running(), router.load().requests_waiting());
  }
  return text;
}

}  // namespace octet
