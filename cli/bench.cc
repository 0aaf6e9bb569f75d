// octet bench: load from concurrent clients, or with --engine the bare speed of prefill and decode.
#include <algorithm>
#include <atomic>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/backend.h"
#include "cli/bench_stats.h"
#include "cli/command.h"
#include "cli/setting_table.h"
#include "cli/stop_signals.h"
#include "cli/terminal.h"
#include "core/limits.h"
#include "core/mutex.h"
#include "core/status_macros.h"
#include "kernels/math.h"

namespace octet {
namespace {

constexpr int kEngineRepetitions = 3;

struct BenchPlan {
  uint32_t concurrency = 1;
  uint32_t requests = 1;
  uint32_t prompt_tokens = 1;
  uint32_t max_tokens = 1;
  uint64_t seed = 1;
  uint32_t vocab = 1;
  std::vector<Duration> arrivals;  // of each request after the start
};

// A prompt of random ids, greedy, of exactly max_tokens.
octet::v1::GenerateRequest RandomRequest(const BenchPlan& plan, uint32_t index) {
  std::mt19937_64 random(plan.seed * 1'000'003 + index);
  octet::v1::GenerateRequest request;
  for (uint32_t i = 0; i < plan.prompt_tokens; ++i) {
    request.mutable_token_ids()->add_ids(static_cast<int32_t>(random() % plan.vocab));
  }
  request.mutable_sampling()->set_temperature(0);
  request.mutable_stop()->set_max_tokens(plan.max_tokens);
  request.mutable_stop()->set_ignore_eos(true);
  return request;
}

// Poisson arrivals at `rate` a second; all at once for rate 0.
std::vector<Duration> Arrivals(uint32_t requests, double rate, uint64_t seed) {
  std::vector<Duration> arrivals(requests);
  if (rate <= 0) return arrivals;
  std::mt19937_64 random(seed);
  double seconds = 0;
  for (Duration& arrival : arrivals) {
    const double u = (static_cast<double>(random() >> 11) + 1) / 9007199254740993.0;
    seconds -= LogD(u) / rate;
    arrival.ns = static_cast<int64_t>(seconds * 1e9);
  }
  return arrivals;
}

// Waits until a time or a cancellation.
class Pacer {
 public:
  explicit Pacer(const Clock* clock) : clock_(clock) {}
  void Cancel() {
    MutexLock lock(mu_);
    cancelled_ = true;
    changed_.NotifyAll();
  }
  // False where cancelled.
  bool WaitUntil(MonotonicTime when) {
    MutexLock lock(mu_);
    while (!cancelled_) {
      const Duration left = when - clock_->Now();
      if (left.ns <= 0) return true;
      changed_.WaitFor(mu_, std::chrono::nanoseconds(left.ns));
    }
    return false;
  }

 private:
  const Clock* const clock_;
  Mutex mu_;
  CondVar changed_;
  bool cancelled_ OCTET_GUARDED_BY(mu_) = false;
};

struct BenchOutcome {
  std::vector<RequestTimes> times;
  size_t failed = 0;
  absl::Status first_failure;
  Duration elapsed;
};

absl::Status TimeRequest(Backend* backend, const octet::v1::GenerateRequest& request,
                         const Clock& clock, const CancelToken& cancel, RequestTimes* times) {
  const absl::Status status = backend->Generate(
      request,
      [&](const octet::v1::GenerateResponse& event) {
        const MonotonicTime now = clock.Now();
        if (event.has_started()) times->prompt_tokens = event.started().prompt_tokens();
        times->tokens.insert(times->tokens.end(),
                             static_cast<size_t>(event.chunk().token_ids_size()), now);
      },
      cancel);
  times->end = clock.Now();
  return status;
}

BenchOutcome RunLoad(Backend* backend, const BenchPlan& plan, const CancelToken& cancel,
                     Pacer* pacer) {
  const SystemClock clock;
  const MonotonicTime start = clock.Now();
  BenchOutcome outcome;
  Mutex mu;
  std::atomic<uint32_t> next{0};
  const auto client = [&] {
    for (uint32_t i = next++; i < plan.requests; i = next++) {
      RequestTimes times;
      times.start = plan.arrivals[i].ns == 0 ? clock.Now() : start + plan.arrivals[i];
      if (!pacer->WaitUntil(times.start)) return;
      const absl::Status status =
          TimeRequest(backend, RandomRequest(plan, i), clock, cancel, &times);
      MutexLock lock(mu);
      if (status.ok()) {
        outcome.times.push_back(std::move(times));
      } else if (++outcome.failed == 1) {
        outcome.first_failure = status;
      }
    }
  };
  std::vector<std::thread> clients;
  for (uint32_t i = 0; i < plan.concurrency; ++i) clients.emplace_back(client);
  for (std::thread& thread : clients) thread.join();
  outcome.elapsed = clock.Now() - start;
  return outcome;
}

double MedianOf(std::vector<double> values) { return Summarize(std::move(values)).median; }

// Prefill: one prompt alone. Decode: `concurrency` sequences together, from the last first token to
// the first end.
absl::Status RunEngine(Backend* backend, BenchPlan plan, bool json, const CancelToken& cancel,
                       Pacer* pacer) {
  const SystemClock clock;
  std::vector<double> prefill, decode;
  for (int repetition = 0; repetition < kEngineRepetitions; ++repetition) {
    RequestTimes times;
    times.start = clock.Now();
    BenchPlan one = plan;
    one.max_tokens = 1;
    one.seed += static_cast<uint64_t>(repetition);
    OCTET_RETURN_IF_ERROR(TimeRequest(backend, RandomRequest(one, 0), clock, cancel, &times));
    prefill.push_back(plan.prompt_tokens / (times.end - times.start).seconds());
    plan.requests = plan.concurrency;
    plan.arrivals.assign(plan.requests, Duration{});
    const BenchOutcome outcome = RunLoad(backend, plan, cancel, pacer);
    if (outcome.failed > 0) return outcome.first_failure;
    MonotonicTime from{INT64_MIN};
    MonotonicTime to = kNever;
    for (const RequestTimes& r : outcome.times) {
      from = std::max(from, r.tokens.front());
      to = std::min(to, r.tokens.back());
    }
    double tokens = 0;
    for (const RequestTimes& r : outcome.times) {
      for (const MonotonicTime t : r.tokens) tokens += t > from && t <= to ? 1 : 0;
    }
    if (to > from) decode.push_back(tokens / (to - from).seconds());
  }
  const double prefill_rate = MedianOf(prefill);
  const double decode_rate = MedianOf(decode);
  if (json) {
    nlohmann::ordered_json out = {
        {"prefill_tokens_per_s", prefill_rate}, {"decode_tokens_per_s", decode_rate},
        {"prompt_tokens", plan.prompt_tokens},  {"max_tokens", plan.max_tokens},
        {"concurrency", plan.concurrency},      {"repetitions", kEngineRepetitions}};
    PrintOut(out.dump() + "\n");
  } else {
    PrintOut(absl::StrFormat(
        "prefill  %.1f tokens/s (%d tokens)\ndecode   %.1f tokens/s (%d "
        "sequences of %d tokens)\n",
        prefill_rate, plan.prompt_tokens, decode_rate, plan.concurrency, plan.max_tokens));
  }
  return absl::OkStatus();
}

absl::Status Run(const Settings& settings) {
  const SystemClock clock;
  const CancelToken cancel;
  Pacer pacer(&clock);
  const StopSignals signals([&](int) {
    cancel.Cancel();
    pacer.Cancel();
  });
  OCTET_ASSIGN_OR_RETURN(const auto backend, OpenBackend(settings));
  OCTET_ASSIGN_OR_RETURN(const auto model, backend->GetModel());
  BenchPlan plan;
  plan.concurrency = static_cast<uint32_t>(settings.Int("concurrency"));
  plan.requests = static_cast<uint32_t>(settings.Int("requests"));
  plan.prompt_tokens = static_cast<uint32_t>(settings.Int("prompt-tokens"));
  plan.max_tokens = static_cast<uint32_t>(settings.Int("max-tokens"));
  plan.seed = settings.Uint64("seed");
  plan.vocab = model.vocab();
  plan.arrivals = Arrivals(plan.requests, settings.Float("rate"), plan.seed);
  const bool json = settings.Bool("json");
  if (settings.Bool("engine")) return RunEngine(backend.get(), plan, json, cancel, &pacer);
  const BenchOutcome outcome = RunLoad(backend.get(), plan, cancel, &pacer);
  if (outcome.times.empty() && outcome.failed > 0) return outcome.first_failure;
  const BenchReport report = MakeReport(outcome.times, outcome.failed, outcome.elapsed);
  PrintOut(json ? ReportToJson(report) + "\n" : ReportToText(report));
  if (cancel.cancelled()) return absl::CancelledError("interrupted");
  return outcome.first_failure;
}

}  // namespace

Command BenchCommand() {
  Command command;
  command.name = "bench";
  command.group = "Examine a model";
  command.summary = "Measure latency and throughput under load";
  const std::string group = "Load";
  SettingSpec seed = StringSetting("seed", "1", "Seed of prompts and arrivals", group);
  seed.type = SettingType::kUint64;
  command.settings = Join(
      {{IntSetting("concurrency", "4", 1, kRunningRequestsMax, "Clients at once", group),
        IntSetting("requests", "16", 1, 1e6, "Requests in all", group),
        IntSetting("prompt-tokens", "128", 1, kContextMax, "Length of the random prompts", group),
        IntSetting("max-tokens", "64", 1, kContextMax, "Tokens that each request makes", group),
        FloatSetting("rate", "0", 0, 1e6,
                     "Requests a second, as a Poisson process; 0: as fast as clients are free",
                     group),
        seed,
        BoolSetting("engine",
                    "Print prefill and decode rates alone (decode: --concurrency sequences)",
                    group),
        BoolSetting("json", "Print one JSON object", group)},
       ClientSettings(),
       ModelSettings(),
       PackSettings(),
       ComputeSettings(),
       EngineSettings(),
       GeneralSettings()});
  command.run = Run;
  return command;
}

}  // namespace octet
