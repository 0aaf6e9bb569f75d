// Far more requests than can be served, whether clients wait for answers or not.
#include <algorithm>
#include <atomic>
#include <cstddef>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/pacer.h"
#include "core/cpu_list.h"
#include "core/mutex.h"
#include "core/status_macros.h"
#include "rpc/status_details.h"
#include "tests/fault/chaos_cluster.h"
#include "tests/fault/scenarios.h"

namespace octet {
namespace {

// More than a router admits at once (running and waiting), so that the generator waits for nobody.
constexpr size_t kClients = 448;

double ResidentMiB(pid_t process) {
  std::ifstream file(absl::StrCat("/proc/", process, "/statm"));
  uint64_t pages = 0, resident = 0;
  file >> pages >> resident;
  return static_cast<double>(resident * 4096) / (1 << 20);
}

// Requests that come at fixed times, each sent by a free thread.
class OpenLoop {
 public:
  struct Outcome {
    uint64_t sent = 0, answered = 0, refused = 0, failed = 0;
    uint64_t refused_without_delay = 0;  // no RetryInfo
    uint64_t late = 0;                   // sent over 100 ms after their time: no thread was free
    uint64_t tokens_in_time = 0;         // of all answers, while requests came
    std::vector<double> latency_ms;      // of answered requests
    std::string first_error;
  };

  OpenLoop(const std::string& address, const ChaosOptions& options, uint32_t vocab)
      : options_(options), vocab_(vocab) {
    ClientOptions once;
    once.attempts_max = 1;
    for (size_t i = 0; i < kClients; ++i) {
      auto client = Client::Connect(address, once);
      if (client.ok()) clients_.push_back(*std::move(client));
    }
  }

  // `rate` requests a second for so long; returns when all have ended.
  Outcome Run(double rate, int64_t length_ms) {
    begin_ = clock_.Now();
    end_ = begin_ + Duration::Millis(length_ms);
    const auto requests = static_cast<uint64_t>(rate * static_cast<double>(length_ms) / 1e3);
    std::vector<std::thread> threads;
    for (const auto& client : clients_) {
      threads.emplace_back([&, client = client.get()] { Serve(client, rate, requests); });
    }
    for (std::thread& thread : threads) thread.join();
    MutexLock lock(mu_);
    return outcome_;
  }

 private:
  void Serve(Client* client, double rate, uint64_t requests) {
    for (uint64_t i = next_++; i < requests; i = next_++) {
      const MonotonicTime due =
          begin_ + Duration{static_cast<int64_t>(1e9 * static_cast<double>(i) / rate)};
      (void)pacer_.WaitUntil(due);  // nobody cancels
      One(client, i, due);
    }
  }

  void One(Client* client, uint64_t index, MonotonicTime due) {
    const bool late = clock_.Now() - due > Duration::Millis(100);
    uint64_t in_time = 0;
    const absl::Status status = client->Generate(
        LoadRequest(static_cast<uint32_t>(index), options_.prompt_tokens, options_.tokens, vocab_),
        [&](const octet::v1::GenerateResponse& event) {
          if (clock_.Now() < end_) in_time += static_cast<uint64_t>(event.chunk().token_ids_size());
        });
    const double latency_ms = static_cast<double>((clock_.Now() - due).ns) / 1e6;
    MutexLock lock(mu_);
    ++outcome_.sent;
    outcome_.late += late ? 1 : 0;
    outcome_.tokens_in_time += in_time;
    if (status.ok()) {
      ++outcome_.answered;
      outcome_.latency_ms.push_back(latency_ms);
    } else if (status.code() == absl::StatusCode::kResourceExhausted) {
      ++outcome_.refused;
      outcome_.refused_without_delay += GetRetryDelay(status).has_value() ? 0 : 1;
    } else {
      ++outcome_.failed;
      if (outcome_.first_error.empty()) outcome_.first_error = status.ToString();
    }
  }

  const ChaosOptions options_;
  const uint32_t vocab_;
  const SystemClock clock_{};
  Pacer pacer_{&clock_};
  std::vector<std::unique_ptr<Client>> clients_;
  std::atomic<uint64_t> next_{0};
  MonotonicTime begin_, end_;
  Mutex mu_;
  Outcome outcome_ OCTET_GUARDED_BY(mu_);
};

void Report(const OpenLoop::Outcome& o, double rate, double capacity, int64_t length_ms,
            ScenarioResult* result) {
  const double goodput =
      static_cast<double>(o.tokens_in_time) * 1e3 / static_cast<double>(length_ms);
  const Summary latency = Summarize(o.latency_ms);
  result->notes.push_back(absl::StrFormat(
      "capacity %.0f tokens/s; %.0f requests/s, ten times that, for %.0f s: goodput %.0f tokens/s "
      "= "
      "%.3f of capacity",
      capacity, rate, static_cast<double>(length_ms) / 1e3, goodput, goodput / capacity));
  result->notes.push_back(
      absl::StrFormat("%d sent, %d answered, %d refused (%d without a delay to retry after), %d "
                      "failed, %d sent late",
                      o.sent, o.answered, o.refused, o.refused_without_delay, o.failed, o.late));
  result->notes.push_back(
      absl::StrFormat("latency of answered requests p50 %.0f ms, p99 %.0f ms, max %.0f ms",
                      latency.median, latency.p99, latency.max));
  result->load.failed += o.failed + o.refused_without_delay;
  if (result->load.first_error.empty()) result->load.first_error = o.first_error;
}

}  // namespace

absl::StatusOr<ScenarioResult> Overload(const ChaosOptions& given) {
  ChaosOptions options = given;
  options.streams = std::max<size_t>(options.streams, 64);  // as many as a router decodes together
  const std::vector<int> cores = AllowedCores();
  if (cores.size() > 1) {
    const auto half = cores.begin() + static_cast<std::ptrdiff_t>(cores.size() / 2);
    options.cores.assign(cores.begin(), half);
    KeepThisThreadOn({half, cores.end()});
  }
  OCTET_ASSIGN_OR_RETURN(const auto chaos, ChaosCluster::Start("overload", options));
  const pid_t router = static_cast<pid_t>(chaos->Status().routers(0).pid());
  const double capacity = chaos->TokensPerSecond(options.outage_ms);
  const double calm_mib = ResidentMiB(router);
  const std::string address = chaos->address();
  ScenarioResult result = chaos->Finish();
  result.notes.push_back(options.cores.empty()
                             ? "the clients run on the cluster's only core"
                             : absl::StrCat("the cluster on cores ", FormatCpuList(options.cores),
                                            ", the clients on the others"));
  OCTET_ASSIGN_OR_RETURN(const auto probe, Client::Connect(address));
  OCTET_ASSIGN_OR_RETURN(const auto model, probe->GetModel());
  OpenLoop flood(address, options, model.vocab());
  const double rate = 10 * capacity / options.tokens;
  std::atomic<bool> over{false};
  double peak_mib = 0;
  std::thread watch([&] {
    PollUntil(
        [&] {
          peak_mib = std::max(peak_mib, ResidentMiB(router));
          return over.load();
        },
        INT32_MAX);
  });
  const OpenLoop::Outcome outcome = flood.Run(rate, options.outage_ms);
  over = true;
  watch.join();
  Report(outcome, rate, capacity, options.outage_ms, &result);
  result.notes.push_back(
      absl::StrFormat("router's memory %.0f MiB before, %.0f MiB at most", calm_mib, peak_mib));
  // Afterwards all is as before: nothing runs, nothing waits.
  const bool calm = PollUntil(
      [&] {
        const auto status = probe->Status();
        return status.ok() && status->routers(0).load().requests_running() == 0 &&
               status->routers(0).load().requests_waiting() == 0;
      },
      30'000);
  if (!calm) return absl::InternalError("requests are left after the flood");
  return result;
}

}  // namespace octet
