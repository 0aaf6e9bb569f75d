// octet bench: load from concurrent clients, or with --engine the bare speed of prefill and decode.
#include <algorithm>
#include <atomic>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/backend.h"
#include "cli/bench_stats.h"
#include "cli/bench_timeline.h"
#include "cli/command.h"
#include "cli/pacer.h"
#include "cli/request_settings.h"
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
// What the second turn of a conversation adds to the first.
constexpr uint32_t kSecondTurnTokens = 32;

struct BenchPlan {
  uint32_t concurrency = 1;
  uint32_t requests = 1;
  uint32_t prompt_tokens = 1;
  uint32_t max_tokens = 1;
  uint64_t seed = 1;
  uint32_t vocab = 1;
  uint32_t context = 1;
  // Of this run and no other, so that the prefix cache knows no prompt before it is measured.
  std::string cache_salt;
  std::vector<Duration> arrivals;  // of each request after the start
  // Token ids that prompts are drawn from, by phase; none: the whole vocabulary.
  std::vector<std::vector<TokenId>> phases;

  uint32_t Phase(uint32_t index) const {
    return phases.empty() ? 0 : PhaseOf(index, requests, static_cast<uint32_t>(phases.size()));
  }
};

// A prompt of random ids, greedy, of exactly max_tokens.
octet::v1::GenerateRequest RandomRequest(const BenchPlan& plan, uint32_t index) {
  std::mt19937_64 random(plan.seed * 1'000'003 + index);
  octet::v1::GenerateRequest request;
  for (uint32_t i = 0; i < plan.prompt_tokens; ++i) {
    const uint64_t draw = random();
    const auto* pool = plan.phases.empty() ? nullptr : &plan.phases[plan.Phase(index)];
    request.mutable_token_ids()->add_ids(pool == nullptr ? static_cast<int32_t>(draw % plan.vocab)
                                                         : (*pool)[draw % pool->size()]);
  }
  request.set_cache_salt(plan.cache_salt);
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

struct BenchOutcome {
  std::vector<RequestTimes> times;
  size_t failed = 0;
  absl::Status first_failure;
  MonotonicTime start;
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
  const SystemClock clock{};
  const MonotonicTime start = clock.Now();
  BenchOutcome outcome;
  outcome.start = start;
  Mutex mu;
  std::atomic<uint32_t> next{0};
  const auto client = [&] {
    for (uint32_t i = next++; i < plan.requests; i = next++) {
      RequestTimes times;
      times.phase = plan.Phase(i);
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

// Of each repetition, in milliseconds to the first token or tokens a second.
struct EngineRates {
  std::vector<double> first_turn_ms, second_turn_ms, decode;
};

// Time until the one token of `request` is there.
absl::StatusOr<double> FirstTokenMs(Backend* backend, const octet::v1::GenerateRequest& request,
                                    const CancelToken& cancel) {
  const SystemClock clock{};
  RequestTimes times;
  times.start = clock.Now();
  OCTET_RETURN_IF_ERROR(TimeRequest(backend, request, clock, cancel, &times));
  return (times.end - times.start).millis();
}

// Two turns of a conversation alone: a prompt, then the same with a few more tokens, where the
// context has room for them. Which ones they are is of no interest here.
absl::Status RunTurns(Backend* backend, BenchPlan plan, const CancelToken& cancel,
                      EngineRates* rates) {
  plan.max_tokens = 1;
  octet::v1::GenerateRequest request = RandomRequest(plan, 0);
  OCTET_ASSIGN_OR_RETURN(const double first_ms, FirstTokenMs(backend, request, cancel));
  rates->first_turn_ms.push_back(first_ms);
  if (plan.prompt_tokens + kSecondTurnTokens >= plan.context) return absl::OkStatus();
  for (uint32_t i = 0; i < kSecondTurnTokens; ++i) {
    request.mutable_token_ids()->add_ids(static_cast<int32_t>(i % plan.vocab));
  }
  OCTET_ASSIGN_OR_RETURN(const double second_ms, FirstTokenMs(backend, request, cancel));
  rates->second_turn_ms.push_back(second_ms);
  return absl::OkStatus();
}

// `concurrency` sequences together, from the last first token to the first end.
absl::Status RunDecode(Backend* backend, BenchPlan plan, const CancelToken& cancel, Pacer* pacer,
                       EngineRates* rates) {
  plan.requests = plan.concurrency;
  plan.arrivals.assign(plan.requests, Duration{});
  const BenchOutcome outcome = RunLoad(backend, plan, cancel, pacer);
  if (outcome.failed > 0) return outcome.first_failure;
  if (outcome.times.size() < plan.requests) return absl::CancelledError("interrupted");
  const std::optional<double> rate = SharedDecodeRate(outcome.times);
  if (!rate.has_value()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "decode: at no time were all ", plan.concurrency, " sequences of ", plan.max_tokens,
        " tokens decoded together, so there is no rate to report; ask for more --max-tokens, or "
        "for a --concurrency that the engine runs at once (--running-max)"));
  }
  rates->decode.push_back(*rate);
  return absl::OkStatus();
}

std::string RatesToJson(const EngineRates& rates, const BenchPlan& plan) {
  const double first_ms = MedianOf(rates.first_turn_ms);
  nlohmann::ordered_json out = {{"prefill_tokens_per_s", plan.prompt_tokens / first_ms * 1e3},
                                {"decode_tokens_per_s", MedianOf(rates.decode)},
                                {"first_turn_ms", first_ms}};
  if (!rates.second_turn_ms.empty()) out["second_turn_ms"] = MedianOf(rates.second_turn_ms);
  out["prompt_tokens"] = plan.prompt_tokens;
  out["max_tokens"] = plan.max_tokens;
  out["concurrency"] = plan.concurrency;
  out["repetitions"] = kEngineRepetitions;
  return out.dump();
}

std::string RatesToText(const EngineRates& rates, const BenchPlan& plan) {
  const double first_ms = MedianOf(rates.first_turn_ms);
  std::string text =
      absl::StrFormat("prefill  %.1f tokens/s (%d tokens in %.1f ms)\n",
                      plan.prompt_tokens / first_ms * 1e3, plan.prompt_tokens, first_ms);
  if (!rates.second_turn_ms.empty()) {
    const double second_ms = MedianOf(rates.second_turn_ms);
    absl::StrAppendFormat(&text, "again    %.1f ms with %d tokens more: %.1f %%\n", second_ms,
                          kSecondTurnTokens, 100 * second_ms / first_ms);
  }
  absl::StrAppendFormat(&text, "decode   %.1f tokens/s (%d sequences of %d tokens)\n",
                        MedianOf(rates.decode), plan.concurrency, plan.max_tokens);
  return text;
}

absl::Status RunEngine(Backend* backend, BenchPlan plan, bool json, const CancelToken& cancel,
                       Pacer* pacer) {
  EngineRates rates;
  const std::string salt = plan.cache_salt;
  for (int repetition = 0; repetition < kEngineRepetitions; ++repetition) {
    plan.cache_salt = absl::StrCat(salt, " ", repetition);
    OCTET_RETURN_IF_ERROR(RunTurns(backend, plan, cancel, &rates));
    OCTET_RETURN_IF_ERROR(RunDecode(backend, plan, cancel, pacer, &rates));
    ++plan.seed;
  }
  PrintOut(json ? RatesToJson(rates, plan) + "\n" : RatesToText(rates, plan));
  return absl::OkStatus();
}

absl::Status WriteTimeline(const std::string& path, const BenchOutcome& outcome) {
  if (path.empty()) return absl::OkStatus();
  std::ofstream file(path, std::ios::binary);
  file << TimelineCsv(outcome.times, outcome.start);
  file.close();
  if (!file) return absl::InvalidArgumentError(absl::StrCat("timeline: cannot write ", path));
  return absl::OkStatus();
}

absl::Status Run(const Settings& settings) {
  const bool engine = settings.Bool("engine");
  if (engine && settings.Int("max-tokens") < 2) {
    return absl::InvalidArgumentError(
        "max-tokens: 1; with --engine at least 2: decoding is what follows the first token");
  }
  const SystemClock clock{};
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
  plan.context = model.context();
  std::random_device device;
  plan.cache_salt = absl::StrCat("bench ", device(), " ", device());
  plan.arrivals = Arrivals(plan.requests, settings.Float("rate"), plan.seed);
  const std::string skew = settings.String("skew");
  if (!skew.empty()) {
    OCTET_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(skew, kPromptBytesMax));
    OCTET_ASSIGN_OR_RETURN(plan.phases, ParsePhases(text, skew, plan.vocab));
  }
  const bool json = settings.Bool("json");
  if (engine) return RunEngine(backend.get(), plan, json, cancel, &pacer);
  const BenchOutcome outcome = RunLoad(backend.get(), plan, cancel, &pacer);
  if (outcome.times.empty() && outcome.failed > 0) return outcome.first_failure;
  OCTET_RETURN_IF_ERROR(WriteTimeline(settings.String("timeline"), outcome));
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
        StringSetting("skew", "",
                      "File of token ids to draw prompts from, a line for each phase of the run: "
                      "moves the load between experts",
                      group),
        StringSetting("timeline", "", "CSV file to write: tokens a second over time", group),
        BoolSetting("engine",
                    "Print the rates of prefill and decode (of --concurrency sequences) alone, and "
                    "the time of a second turn",
                    group),
        BoolSetting("json", "Print one JSON object", group)},
       ClientSettings(),
       ModelSettings(),
       PackSettings(),
       ComputeSettings(),
       DeviceSettings(),
       EngineSettings(),
       GeneralSettings()});
  command.run = Run;
  return command;
}

}  // namespace octet
