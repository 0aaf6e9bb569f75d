#include "tests/sim/plan.h"

#include <map>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace octet::sim {
namespace {

constexpr const char* kFaultNames[] = {"crash-worker",
                                       "stop-worker",
                                       "slow-worker",
                                       "drain-worker",
                                       "load-fail",
                                       "crash-router",
                                       "stop-router",
                                       "crash-coordinator",
                                       "stop-coordinator",
                                       "second-coordinator",
                                       "disk-full",
                                       "cut",
                                       "break",
                                       "noise"};
static_assert(sizeof(kFaultNames) / sizeof(kFaultNames[0]) ==
              static_cast<size_t>(FaultKind::kCount));

// Visits every field by name, for writing and for reading.
template <typename P, typename Visit>
void VisitSettings(P& p, Visit visit) {
  visit("seed", p.seed);
  visit("workers", p.workers);
  visit("routers", p.routers);
  visit("experts", p.experts);
  visit("layers", p.layers);
  visit("replication", p.replication);
  visit("memory", p.memory);
  visit("speeds", p.speeds);
  visit("micro-batches", p.micro_batches);
  visit("kv-blocks", p.kv_blocks);
  visit("running-max", p.running_max);
  visit("waiting-max", p.waiting_max);
  visit("worker-queue", p.worker_queue);
  visit("lease", p.lease);
  visit("heartbeat", p.heartbeat);
  visit("settle", p.settle);
  visit("prepare", p.prepare);
  visit("freeze", p.freeze);
  visit("keepalive", p.keepalive);
  visit("compute", p.compute);
  visit("load", p.load);
}
template <typename R, typename Visit>
void VisitRequest(R& r, Visit visit) {
  visit("at", r.at);
  visit("router", r.router);
  visit("prompt", r.prompt);
  visit("tokens", r.tokens);
  visit("text", r.text);
  visit("deadline", r.deadline);
}
template <typename F, typename Visit>
void VisitFault(F& f, Visit visit) {
  visit("at", f.at);
  visit("length", f.length);
  visit("a", f.a);
  visit("b", f.b);
  visit("x", f.x);
}

using Fields = std::map<std::string, int64_t>;

// Takes a field out of what a line said.
auto Reader(Fields* fields) {
  return [fields](const char* name, auto& value) {
    const auto found = fields->find(name);
    if (found == fields->end()) return;
    value = static_cast<std::remove_reference_t<decltype(value)>>(found->second);
    fields->erase(found);
  };
}

auto Writer(std::string* line) {
  return [line](const char* name, const auto& value) {
    if (value != 0) absl::StrAppend(line, " ", name, "=", value);
  };
}

absl::Status LineError(absl::string_view line, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("\"", line, "\": ", why));
}

absl::Status ReadLine(absl::string_view line, Plan* plan) {
  const std::vector<std::string> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
  Fields fields;
  for (size_t i = 1; i < words.size(); ++i) {
    const std::vector<std::string> sides = absl::StrSplit(words[i], '=');
    int64_t value = 0;
    if (sides.size() != 2 || !absl::SimpleAtoi(sides[1], &value) || value < 0) {
      return LineError(line, absl::StrCat("\"", words[i], "\" is not NAME=NUMBER"));
    }
    fields[sides[0]] = value;
  }
  if (words[0] == "set") {
    VisitSettings(*plan, Reader(&fields));
  } else if (words[0] == "request") {
    VisitRequest(plan->requests.emplace_back(), Reader(&fields));
  } else {
    size_t kind = 0;
    while (kind < std::size(kFaultNames) && words[0] != kFaultNames[kind]) ++kind;
    if (kind == std::size(kFaultNames)) return LineError(line, "no such fault");
    Fault& fault = plan->faults.emplace_back();
    fault.kind = static_cast<FaultKind>(kind);
    VisitFault(fault, Reader(&fields));
  }
  if (!fields.empty()) {
    return LineError(line, absl::StrCat("no field \"", fields.begin()->first, "\" here"));
  }
  return absl::OkStatus();
}

// A plan that a run may index with.
absl::Status Check(const Plan& p) {
  const uint32_t nodes = 3 + p.routers + p.workers;
  if (p.workers < 1 || p.workers > 16 || p.routers < 1 || p.routers > 4 || p.experts < 2 ||
      p.experts > 64 || p.layers < 1 || p.layers > 4 || p.replication < 1 || p.heartbeat < 1000 ||
      p.lease < 2 * p.heartbeat || p.settle < 1000 || p.kv_blocks < 1 || p.running_max < 1) {
    return absl::InvalidArgumentError("a setting is out of range");
  }
  for (const PlannedRequest& r : p.requests) {
    if (r.router >= p.routers || r.prompt < 1 || r.tokens < 1 || r.prompt + r.tokens > 512) {
      return absl::InvalidArgumentError(absl::StrCat("request at=", r.at, ": out of range"));
    }
  }
  for (const Fault& f : p.faults) {
    const bool nodes_fit = f.kind < FaultKind::kCut || (f.a < nodes && f.b < nodes && f.a != f.b);
    const bool worker = f.kind <= FaultKind::kLoadFail && f.a >= p.workers;
    const bool router =
        (f.kind == FaultKind::kCrashRouter || f.kind == FaultKind::kStopRouter) && f.a >= p.routers;
    const bool slot = f.kind >= FaultKind::kCrashCoordinator && f.kind < FaultKind::kCut && f.b > 1;
    if (!nodes_fit || worker || router || slot) {
      return absl::InvalidArgumentError(
          absl::StrCat(FaultName(f.kind), " at=", f.at, ": out of range"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

const char* FaultName(FaultKind kind) { return kFaultNames[static_cast<size_t>(kind)]; }

std::string PlanToText(const Plan& plan) {
  const Plan defaults;
  std::string text;
  Fields plain;
  VisitSettings(defaults, [&](const char* name, const auto& value) {
    plain[name] = static_cast<int64_t>(value);
  });
  VisitSettings(plan, [&](const char* name, const auto& value) {
    if (static_cast<int64_t>(value) != plain[name]) {
      absl::StrAppend(&text, "set ", name, "=", value, "\n");
    }
  });
  for (const PlannedRequest& request : plan.requests) {
    std::string line = "request";
    VisitRequest(request, Writer(&line));
    absl::StrAppend(&text, line, "\n");
  }
  for (const Fault& fault : plan.faults) {
    std::string line = FaultName(fault.kind);
    VisitFault(fault, Writer(&line));
    absl::StrAppend(&text, line, "\n");
  }
  return text;
}

absl::StatusOr<Plan> PlanFromText(absl::string_view text) {
  Plan plan;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    line = line.substr(0, line.find('#'));
    line = absl::StripAsciiWhitespace(line);
    if (line.empty()) continue;
    const absl::Status read = ReadLine(line, &plan);
    if (!read.ok()) return read;
  }
  const absl::Status fits = Check(plan);
  if (!fits.ok()) return fits;
  return plan;
}

}  // namespace octet::sim
