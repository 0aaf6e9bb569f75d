// Runs schedules of the simulation:
//   octet_sim --first 1 --count 100000            many; prints a summary, and what failed
//   octet_sim --seed 4711 [--trace] [--print]     one; its event log, or its plan
//   octet_sim --script FILE [--trace]             a written one
//   octet_sim --seed 4711 --shrink                the smallest plan that fails like it, as a script
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "core/log.h"
#include "tests/sim/cluster.h"
#include "tests/sim/shrink.h"

namespace octet::sim {
namespace {

struct Options {
  uint64_t first = 1;
  uint64_t count = 0;
  uint64_t seed = 0;
  std::string script;
  bool trace = false;
  bool print = false;
  bool shrink = false;
};

bool ParseOptions(int argc, char** argv, Options* options) {
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    const char* const value = i + 1 < argc ? argv[i + 1] : "";
    if (name == "--trace") {
      options->trace = true;
    } else if (name == "--print") {
      options->print = true;
    } else if (name == "--shrink") {
      options->shrink = true;
    } else if (name == "--script") {
      options->script = value;
      ++i;
    } else {
      uint64_t* const number = name == "--first"   ? &options->first
                               : name == "--count" ? &options->count
                               : name == "--seed"  ? &options->seed
                                                   : nullptr;
      if (number == nullptr || !absl::SimpleAtoi(value, number)) return false;
      ++i;
    }
  }
  return options->count > 0 || options->seed > 0 || !options->script.empty();
}

// The seed in hand, for a crash to tell.
volatile sig_atomic_t crash_seed_high, crash_seed_low;

void OnAbort(int) {
  const uint64_t seed = (static_cast<uint64_t>(static_cast<uint32_t>(crash_seed_high)) << 32) |
                        static_cast<uint32_t>(crash_seed_low);
  char text[64];
  const int length = std::snprintf(text, sizeof(text), "CRASHED seed %llu\n",
                                   static_cast<unsigned long long>(seed));
  (void)!write(1, text, static_cast<size_t>(length));
  _exit(3);
}

void NoteSeed(uint64_t seed) {
  crash_seed_high = static_cast<sig_atomic_t>(seed >> 32);
  crash_seed_low = static_cast<sig_atomic_t>(seed & 0xffffffffu);
}

int RunMany(const Options& options) {
  Coverage coverage;
  uint64_t failed = 0, events = 0;
  double seconds = 0;
  for (uint64_t seed = options.first; seed < options.first + options.count; ++seed) {
    NoteSeed(seed);
    const Outcome outcome = RunPlan(MakePlan(seed));
    coverage.AddSchedule(outcome.coverage);
    events += outcome.events;
    seconds += outcome.simulated_seconds;
    if (outcome.failure.empty()) continue;
    ++failed;
    std::printf("FAILED seed %llu: %s\n", static_cast<unsigned long long>(seed),
                outcome.failure.c_str());
  }
  std::printf("schedules %llu failed %llu events %llu simulated-seconds %.0f\n",
              static_cast<unsigned long long>(options.count),
              static_cast<unsigned long long>(failed), static_cast<unsigned long long>(events),
              seconds);
  for (size_t i = 0; i < kCoveredCount; ++i) {
    std::printf("covered\t%s\t%llu\t%llu\n", CoveredName(static_cast<Covered>(i)),
                static_cast<unsigned long long>(coverage.schedules[i]),
                static_cast<unsigned long long>(coverage.counts[i]));
  }
  return failed == 0 ? 0 : 1;
}

int RunOne(const Options& options) {
  Plan plan = MakePlan(options.seed);
  if (!options.script.empty()) {
    std::ifstream file(options.script);
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    const auto read = PlanFromText(text);
    if (!read.ok()) {
      std::fprintf(stderr, "%s: %s\n", options.script.c_str(), read.status().ToString().c_str());
      return 2;
    }
    plan = *read;
  }
  NoteSeed(plan.seed);
  if (options.shrink) {
    plan = Shrink(plan, [](const Plan& candidate) { return RunPlan(candidate).failure; });
  }
  if (options.print || options.shrink) std::printf("%s", PlanToText(plan).c_str());
  const Outcome outcome = RunPlan(plan, {}, options.trace);
  std::printf("# %s; hash %016llx, %llu events, %.1f s\n",
              outcome.failure.empty() ? "holds" : outcome.failure.c_str(),
              static_cast<unsigned long long>(outcome.hash),
              static_cast<unsigned long long>(outcome.events), outcome.simulated_seconds);
  return outcome.failure.empty() ? 0 : 1;
}

int Main(int argc, char** argv) {
  Options options;
  if (!ParseOptions(argc, argv, &options)) {
    std::fprintf(stderr,
                 "usage: octet_sim --first N --count N | --seed N | --script FILE"
                 " [--trace] [--print] [--shrink]\n");
    return 2;
  }
  // What the parts say about faults is expected here.
  SilenceLog();
  std::signal(SIGABRT, OnAbort);
  std::signal(SIGSEGV, OnAbort);
  return options.count > 0 ? RunMany(options) : RunOne(options);
}

}  // namespace
}  // namespace octet::sim

int main(int argc, char** argv) { return octet::sim::Main(argc, argv); }
