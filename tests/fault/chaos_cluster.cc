#include "tests/fault/chaos_cluster.h"

#include <signal.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "cli/status_json.h"
#include "core/cpu_list.h"
#include "core/status_macros.h"

namespace octet {
namespace {

constexpr int64_t kReadyMs = 60'000;
constexpr int64_t kPatienceMs = 60'000;
constexpr int64_t kWatchedMs = 1'000;
// A fault that adds so much is worth a note.
constexpr double kLongGapMs = 100;

std::vector<std::string> UpFlags(const ChaosOptions& options, const std::string& state) {
  std::vector<std::string> flags = {"--workers",     absl::StrCat(options.workers),
                                    "--replication", absl::StrCat(options.replication),
                                    "--transport",   options.transport,
                                    "--state-dir",   state,
                                    "--log-level",   "warning",
                                    "--routers",     absl::StrCat(options.routers)};
  flags.insert(flags.end(), options.up_flags.begin(), options.up_flags.end());
  return flags;
}

// Of the calls for the status, which has to be fresh or nothing.
ClientOptions StatusOptions() {
  ClientOptions options;
  options.attempts_max = 1;
  options.timeout = Duration::Millis(2'000);
  return options;
}

}  // namespace

SupervisorStopped::SupervisorStopped(LocalCluster* cluster) : cluster_(cluster) {
  kill(cluster_->process()->pid(), SIGSTOP);
}

SupervisorStopped::~SupervisorStopped() { kill(cluster_->process()->pid(), SIGCONT); }

bool Replicated(const octet::v1::StatusResponse& status, uint32_t replication) {
  return status.placement().experts_size() > 0 && LeastReplicas(status) >= replication;
}

absl::StatusOr<std::unique_ptr<ChaosCluster>> ChaosCluster::Start(const std::string& scenario,
                                                                  const ChaosOptions& options) {
  std::unique_ptr<ChaosCluster> chaos(new ChaosCluster(scenario, options));
  const std::vector<int> own = AllowedCores();
  KeepThisThreadOn(options.cores);
  chaos->cluster_ =
      std::make_unique<LocalCluster>(options.model, UpFlags(options, chaos->state_.path()));
  if (!options.cores.empty()) KeepThisThreadOn(own);
  if (!chaos->cluster_->WaitReady(kReadyMs)) {
    return absl::UnavailableError(
        absl::StrCat("the cluster did not start: ", chaos->cluster_->Log()));
  }
  chaos->address_ = chaos->cluster_->address();
  OCTET_RETURN_IF_ERROR(chaos->StartStreams());
  return chaos;
}

absl::StatusOr<std::unique_ptr<ChaosCluster>> ChaosCluster::Attach(const std::string& scenario,
                                                                   const ChaosOptions& options,
                                                                   const std::string& address) {
  std::unique_ptr<ChaosCluster> chaos(new ChaosCluster(scenario, options));
  chaos->address_ = address;
  OCTET_RETURN_IF_ERROR(chaos->StartStreams());
  return chaos;
}

absl::Status ChaosCluster::StartStreams() {
  OCTET_ASSIGN_OR_RETURN(status_, Client::Connect(address_, StatusOptions()));
  OCTET_RETURN_IF_ERROR(WaitWhole(options_.workers, options_.replication));
  StreamLoadOptions load;
  load.streams = options_.streams;
  load.tokens = options_.tokens;
  load.prompt_tokens = options_.prompt_tokens;
  load.fresh = options_.fresh;
  load.client.attempts_max = 30;
  load.other_versions = options_.other_versions;
  OCTET_ASSIGN_OR_RETURN(load_, StreamLoad::Start(address_, load));
  result_.reference_digest = load_->ReferenceDigest();
  load_->Run();
  // The first answers fill caches and estimates.
  const uint64_t answers = options_.streams * uint64_t{options_.tokens};
  OCTET_RETURN_IF_ERROR(WaitTokens(answers));
  quiet_.begin = clock_.Now();
  OCTET_RETURN_IF_ERROR(
      WaitTokens(options_.undisturbed_tokens > 0 ? options_.undisturbed_tokens : 10 * answers));
  quiet_.end = clock_.Now();
  return absl::OkStatus();
}

octet::v1::StatusResponse ChaosCluster::Status() const {
  const auto status = status_->Status();
  return status.ok() ? *status : octet::v1::StatusResponse();
}

absl::StatusOr<pid_t> ChaosCluster::AnyWorker() {
  std::vector<pid_t> ready;
  const octet::v1::StatusResponse status = Status();
  for (const auto& worker : status.workers()) {
    if (worker.state() == "ready") ready.push_back(static_cast<pid_t>(worker.pid()));
  }
  if (ready.empty()) return absl::NotFoundError("no worker is ready");
  return ready[random_() % ready.size()];
}

absl::Status ChaosCluster::WaitTokens(uint64_t count) {
  const uint64_t goal = load_->tokens() + count;
  uint64_t seen = load_->tokens();
  MonotonicTime progress = clock_.Now();
  const bool came = PollUntil(
      [&] {
        if (load_->tokens() != seen) progress = clock_.Now();
        seen = load_->tokens();
        return seen >= goal || clock_.Now() - progress > Duration::Millis(kPatienceMs);
      },
      INT32_MAX);
  if (came && seen >= goal) return absl::OkStatus();
  return absl::DeadlineExceededError("the streams stand still");
}

absl::Status ChaosCluster::WaitSomeTokens() {
  const uint64_t answer = options_.streams * uint64_t{options_.tokens};
  return WaitTokens(answer / 4 + random_() % answer);
}

absl::Status ChaosCluster::WaitStatus(
    const std::string& what,
    const std::function<bool(const octet::v1::StatusResponse&)>& condition) {
  const bool seen = PollUntil(
      [&] {
        const auto status = status_->Status();
        return status.ok() && condition(*status);
      },
      kPatienceMs);
  if (seen) return absl::OkStatus();
  return absl::DeadlineExceededError(
      absl::StrCat("not seen in a minute: ", what, "\n", Status().DebugString()));
}

absl::Status ChaosCluster::WaitWhole(uint32_t workers, uint32_t replication) {
  return WaitStatus(absl::StrCat(workers, " workers with ", replication, " replicas"),
                    [&](const auto& status) {
                      return status.ready() && ReadyWorkers(status) == workers &&
                             status.rollout().empty() && Replicated(status, replication);
                    });
}

double ChaosCluster::TokensPerSecond(int64_t length_ms) {
  const uint64_t before = tokens();
  const MonotonicTime begin = clock_.Now();
  PollUntil([&] { return clock_.Now() - begin > Duration::Millis(length_ms); }, INT32_MAX);
  return static_cast<double>(tokens() - before) * 1e9 /
         static_cast<double>((clock_.Now() - begin).ns);
}

MonotonicTime ChaosCluster::MarkFault() {
  const MonotonicTime now = clock_.Now();
  faults_.push_back({now, now + Duration::Millis(kWatchedMs)});
  return now;
}

void ChaosCluster::MarkRepaired(MonotonicTime fault) {
  result_.repair_ms.push_back(static_cast<double>((clock_.Now() - fault).ns) / 1e6);
}

ScenarioResult ChaosCluster::Finish() {
  result_.load = load_->Stop();
  const std::vector<StreamGaps> gaps = std::move(result_.load.gaps);
  result_.load.gaps.clear();
  result_.faults = static_cast<uint32_t>(faults_.size());
  result_.usual = Summarize(GapsWithin(gaps, quiet_));
  result_.quiet =
      Summarize(LongestGaps(gaps, Windows(quiet_.begin, quiet_.end, Duration::Millis(kWatchedMs))));
  const std::vector<double> disturbed = LongestGaps(gaps, faults_);
  result_.disturbed = Summarize(disturbed);
  result_.added = Summarize(Added(disturbed, result_.usual.median));
  for (size_t i = 0; i < faults_.size(); ++i) {
    const double longest = Summarize(LongestGaps(gaps, {faults_[i]})).max;
    if (longest < kLongGapMs) continue;
    Note(absl::StrCat("fault ", i + 1, ": a gap of ", longest, " ms"));
  }
  return std::move(result_);
}

}  // namespace octet
