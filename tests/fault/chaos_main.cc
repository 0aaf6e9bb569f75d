// octet_chaos: does things to the processes of a real cluster under load and prints what the
// streams saw.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <functional>
#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/fault/scenarios.h"

namespace octet {
namespace {

using Scenario = std::function<absl::StatusOr<ScenarioResult>(const ChaosOptions&)>;

const std::map<std::string, Scenario>& Scenarios() {
  static const auto* const scenarios =
      new std::map<std::string, Scenario>{{"kill", KillWorkers},
                                          {"stop", StopWorkers},
                                          {"rejoin", RejoinWorkers},
                                          {"last_replica", KillLastReplica},
                                          {"coordinator", LoseCoordinator},
                                          {"throughput", MeasureThroughput},
                                          {"partition", PartitionWorkers},
                                          {"router", KillRouters},
                                          {"upgrade", UpgradeCluster},
                                          {"damage", DamageWeights},
                                          {"messages", SpoilMessages},
                                          {"overload", Overload}};
  return *scenarios;
}

void Print(const ScenarioResult& r) {
  std::printf("scenario      %s over %s, %u faults watched\n", r.scenario.c_str(),
              r.transport.c_str(), r.faults);
  std::printf(
      "answers       %llu, failed %llu (%llu DATA_LOSS), with other tokens %llu (%llu tokens)\n",
      static_cast<unsigned long long>(r.load.requests),
      static_cast<unsigned long long>(r.load.failed),
      static_cast<unsigned long long>(r.load.data_loss),
      static_cast<unsigned long long>(r.load.mismatched),
      static_cast<unsigned long long>(r.load.tokens));
  if (!r.load.first_error.empty()) std::printf("error         %s\n", r.load.first_error.c_str());
  std::printf("references    SHA-256 %s\n", r.reference_digest.c_str());
  const auto line = [](const char* name, const Summary& s) {
    std::printf("%-34s p50 %.1f ms, p99 %.1f ms, max %.1f ms (%zu)\n", name, s.median, s.p99, s.max,
                s.count);
  };
  line("gap, undisturbed", r.usual);
  line("longest in a second, undisturbed", r.quiet);
  line("longest in the second of a fault", r.disturbed);
  line("added by a fault", r.added);
  if (!r.repair_ms.empty()) {
    const Summary repair = Summarize(r.repair_ms);
    std::printf("repaired in   p50 %.0f ms, max %.0f ms\n", repair.median, repair.max);
  }
  for (const std::string& note : r.notes) std::printf("note          %s\n", note.c_str());
  std::fflush(stdout);
}

int Main(int argc, char** argv) {
  CLI::App app("Faults on the processes of a real cluster under load");
  ChaosOptions options;
  std::string scenario = "kill";
  std::vector<std::string> names;
  for (const auto& entry : Scenarios()) names.push_back(entry.first);
  app.add_option("--scenario", scenario, "What to do")->check(CLI::IsMember(names));
  app.add_option("--model", options.model, "Packed directory; default: the embedded model");
  app.add_option("--next-model", options.next_model,
                 "Packed directory of the version that upgrade moves to");
  app.add_option("--transport", options.transport)->check(CLI::IsMember({"grpc", "shm", "nccl"}));
  app.add_option("--rounds", options.rounds, "Faults")->check(CLI::Range(1, 100'000));
  app.add_option("--seed", options.seed, "Of victims and moments");
  app.add_option("--workers", options.workers)->check(CLI::Range(2, 64));
  app.add_option("--replication", options.replication)->check(CLI::Range(1, 8));
  app.add_option("--streams", options.streams)->check(CLI::Range(1, 256));
  app.add_option("--tokens", options.tokens, "Of an answer")->check(CLI::Range(2, 4'000));
  app.add_option("--prompt-tokens", options.prompt_tokens)->check(CLI::Range(1, 100'000));
  app.add_flag("--verify", options.verify, "Workers check every product");
  app.add_flag("--fresh", options.fresh, "No answer finds another one's blocks in a cache");
  app.add_option("--routers", options.routers)->check(CLI::Range(1, 16));
  app.add_option("--up-flag", options.up_flags, "One more flag of octet up, as --a=b");
  app.add_option("--outage-ms", options.outage_ms,
                 "How long the coordinator is away or throughput is measured")
      ->check(CLI::Range(100, 3'600'000));
  CLI11_PARSE(app, argc, argv);
  const auto result = Scenarios().at(scenario)(options);
  if (absl::IsUnimplemented(result.status())) {
    std::printf("not run: %s\n", std::string(result.status().message()).c_str());
    return 77;
  }
  if (!result.ok()) {
    std::fprintf(stderr, "octet_chaos: %s\n", result.status().ToString().c_str());
    return 1;
  }
  Print(*result);
  return result->load.failed == 0 && result->load.mismatched == 0 ? 0 : 2;
}

}  // namespace
}  // namespace octet

int main(int argc, char** argv) { return octet::Main(argc, argv); }
