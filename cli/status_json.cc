#include "cli/status_json.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "core/worker_speed.h"

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
  json["compute_digest"] = member.compute_digest();
  return json;
}

Json ModelToJson(const octet::v1::ModelInfo& model) {
  return {{"name", model.name()},
          {"version", model.model_version()},
          {"compute_digest", model.compute_digest()},
          {"experts", model.experts()},
          {"layers", model.layers()}};
}

Json VersionToJson(const octet::v1::VersionStatus& version) {
  return {{"model", ModelToJson(version.model())},
          {"ready", version.ready()},
          {"epoch", version.placement().epoch()},
          {"rollout", version.rollout()}};
}

Json WorkerToJson(const octet::v1::MemberStatus& member) {
  Json json = MemberToJson(member);
  json["dispatches"] = member.load().dispatches();
  json["queue_frames"] = member.load().queue_frames();
  json["resident_bytes"] = member.load().resident_bytes();
  json["speed"] = member.speed();
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

// Enough of a digest to tell versions apart.
constexpr size_t kDigestShown = 8;

std::string ShortDigest(const std::string& digest) { return digest.substr(0, kDigestShown); }

// Where a cluster has several versions: which one a member serves.
std::string VersionMark(const octet::v1::StatusResponse& status,
                        const octet::v1::MemberStatus& member) {
  if (status.versions_size() < 2) return "";
  return absl::StrCat(", version ", ShortDigest(member.compute_digest()));
}

// The versions of a cluster that has several, a line each.
std::string VersionLines(const octet::v1::StatusResponse& status) {
  std::string text;
  if (status.versions_size() < 2) return text;
  for (const auto& version : status.versions()) {
    absl::StrAppend(&text, "version ", ShortDigest(version.model().compute_digest()), ": model ",
                    version.model().name(), ", epoch ", version.placement().epoch(), ", ",
                    version.ready() ? "ready" : "not ready");
    if (!version.rollout().empty()) absl::StrAppend(&text, ", ", version.rollout());
    absl::StrAppend(&text, "\n");
  }
  return text;
}

constexpr uint64_t kBarLength = 10;

// How much of `most` a value is.
std::string Bar(uint64_t value, uint64_t most) {
  const uint64_t filled = most == 0 ? 0 : (value * kBarLength + most - 1) / most;
  return std::string(filled, '#') + std::string(kBarLength - filled, '.');
}

uint64_t Rows(const octet::v1::MemberStatus& worker) {
  uint64_t rows = 0;
  for (const auto& load : worker.load().experts()) rows += load.tokens();
  return rows;
}

// Rows that a worker has computed since an earlier status, or in all.
uint64_t RowsSince(const octet::v1::MemberStatus& worker, const octet::v1::StatusResponse* before) {
  const uint64_t rows = Rows(worker);
  if (before == nullptr) return rows;
  for (const auto& old : before->workers()) {
    if (old.id() == worker.id() && old.pid() == worker.pid()) {
      return rows - std::min(rows, Rows(old));
    }
  }
  return rows;
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
  json["model"] = ModelToJson(status.model());
  json["replication"] = status.replication();
  json["rollout"] = status.rollout();
  json["versions"] = Json::array();
  for (const auto& version : status.versions()) json["versions"].push_back(VersionToJson(version));
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

size_t LeastReplicas(const octet::v1::StatusResponse& status) {
  std::set<uint64_t> ready;
  for (const auto& worker : status.workers()) {
    if (worker.state() == "ready") ready.insert(worker.id());
  }
  size_t least = SIZE_MAX;
  for (const auto& expert : status.placement().experts()) {
    least = std::min(least, static_cast<size_t>(
                                std::count_if(expert.workers().begin(), expert.workers().end(),
                                              [&](uint64_t id) { return ready.count(id) > 0; })));
  }
  return least;
}

std::string StatusToText(const octet::v1::StatusResponse& status,
                         const octet::v1::StatusResponse* before) {
  std::string text = absl::StrCat("model ", status.model().name(), ", epoch ", status.epoch(), ", ",
                                  status.ready() ? "ready" : "not ready");
  if (status.placement().experts_size() > 0) {
    absl::StrAppend(&text, ", every expert on ", LeastReplicas(status), " ready workers or more");
  }
  if (!status.rollout().empty()) absl::StrAppend(&text, ", ", status.rollout());
  absl::StrAppend(&text, "\n", VersionLines(status));
  std::map<uint64_t, uint64_t> rows;
  uint64_t most = 0;
  for (const auto& worker : status.workers()) {
    most = std::max(most, rows[worker.id()] = RowsSince(worker, before));
  }
  for (const auto& worker : status.workers()) {
    const bool equal = worker.speed() == 0 || worker.speed() == kWorkerSpeedEqual;
    absl::StrAppendFormat(&text, "worker %-4d pid %-8d %-22s %-9s %s experts %s%s%s\n", worker.id(),
                          worker.pid(), worker.address(), worker.state(),
                          Bar(rows[worker.id()], most), absl::StrJoin(worker.experts(), " "),
                          equal ? "" : absl::StrCat("  speed ", worker.speed()),
                          VersionMark(status, worker));
  }
  for (const auto& router : status.routers()) {
    absl::StrAppendFormat(&text, "router %-4d pid %-8d %-22s %-9s running %d, waiting %d%s\n",
                          router.id(), router.pid(), router.address(), router.state(),
                          router.load().requests_running(), router.load().requests_waiting(),
                          VersionMark(status, router));
  }
  return text;
}

std::vector<std::string> StatusEvents(const octet::v1::StatusResponse& before,
                                      const octet::v1::StatusResponse& after) {
  std::vector<std::string> events;
  const auto compare = [&](const auto& old_members, const auto& members, const char* role) {
    for (const auto& member : members) {
      const auto old = std::find_if(old_members.begin(), old_members.end(),
                                    [&](const auto& m) { return m.id() == member.id(); });
      const std::string was = old == old_members.end() ? "new" : old->state();
      if (was == member.state()) continue;
      events.push_back(absl::StrCat(role, " ", member.id(), ": ", was, " -> ", member.state()));
    }
    for (const auto& old : old_members) {
      const bool gone = std::none_of(members.begin(), members.end(),
                                     [&](const auto& m) { return m.id() == old.id(); });
      if (gone) events.push_back(absl::StrCat(role, " ", old.id(), ": ", old.state(), " -> gone"));
    }
  };
  compare(before.workers(), after.workers(), "worker");
  compare(before.routers(), after.routers(), "router");
  const auto digests = [](const octet::v1::StatusResponse& status) {
    std::set<std::string> set;
    for (const auto& version : status.versions()) set.insert(version.model().compute_digest());
    return set;
  };
  const std::set<std::string> old_digests = digests(before), new_digests = digests(after);
  for (const std::string& digest : new_digests) {
    if (old_digests.count(digest) == 0) {
      events.push_back(absl::StrCat("version ", ShortDigest(digest), ": new"));
    }
  }
  for (const std::string& digest : old_digests) {
    if (new_digests.count(digest) == 0) {
      events.push_back(absl::StrCat("version ", ShortDigest(digest), ": gone"));
    }
  }
  if (before.epoch() != after.epoch()) {
    events.push_back(absl::StrCat("epoch ", before.epoch(), " -> ", after.epoch()));
  }
  if (before.term() != after.term()) {
    events.push_back(absl::StrCat("coordinator: term ", before.term(), " -> ", after.term()));
  }
  return events;
}

}  // namespace octet
