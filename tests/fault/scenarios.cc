#include "tests/fault/scenarios.h"

#include <signal.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/status_macros.h"
#include "tests/fault/chaos_cluster.h"

namespace octet {
namespace {

using Fault = std::function<absl::Status(ChaosCluster&)>;

// Rounds of one fault, each at some random moment of the streams.
absl::StatusOr<ScenarioResult> Rounds(const std::string& name, const ChaosOptions& options,
                                      const Fault& fault) {
  OCTET_ASSIGN_OR_RETURN(const auto chaos, ChaosCluster::Start(name, options));
  for (uint32_t round = 0; round < options.rounds; ++round) {
    OCTET_RETURN_IF_ERROR(chaos->WaitSomeTokens());
    OCTET_RETURN_IF_ERROR(fault(*chaos));
  }
  OCTET_RETURN_IF_ERROR(chaos->WaitSomeTokens());
  return chaos->Finish();
}

// Until a second has passed since `fault`, which is how long its effect is watched.
absl::Status PassSecond(ChaosCluster& chaos, MonotonicTime fault) {
  PollUntil([&] { return chaos.clock().Now() - fault > Duration::Millis(1'000); }, 10'000);
  return absl::OkStatus();
}

bool Has(const octet::v1::StatusResponse& status, pid_t worker) {
  return std::any_of(status.workers().begin(), status.workers().end(), [&](const auto& w) {
    return static_cast<pid_t>(w.pid()) == worker && w.state() == "ready";
  });
}

// Kills a worker that nobody restarts, and waits until the others hold its experts.
absl::StatusOr<MonotonicTime> KillForGood(ChaosCluster& chaos, const ChaosOptions& options) {
  OCTET_ASSIGN_OR_RETURN(const pid_t victim, chaos.AnyWorker());
  const MonotonicTime fault = chaos.MarkFault();
  kill(victim, SIGKILL);
  OCTET_RETURN_IF_ERROR(chaos.WaitWhole(options.workers - 1, options.replication));
  return fault;
}

// A group of processes that together may use `quota_us` of every `period_us`.
class CpuQuota {
 public:
  // Null where the machine has no CPU controller that we may use.
  static std::unique_ptr<CpuQuota> Make(const std::string& name, int64_t quota_us) {
    std::error_code error;
    std::string directory = absl::StrCat("/sys/fs/cgroup/cpu/", name);
    bool second_version = false;
    if (!std::filesystem::exists("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", error)) {
      directory = absl::StrCat("/sys/fs/cgroup/", name);
      second_version = true;
    }
    std::filesystem::create_directory(directory, error);
    std::unique_ptr<CpuQuota> quota(new CpuQuota(directory));
    bool set;
    if (second_version) {
      set = Write(directory + "/cpu.max", absl::StrCat(quota_us, " ", kPeriodUs));
    } else {
      set = Write(directory + "/cpu.cfs_period_us", absl::StrCat(kPeriodUs)) &&
            Write(directory + "/cpu.cfs_quota_us", absl::StrCat(quota_us));
    }
    return set ? std::move(quota) : nullptr;
  }
  ~CpuQuota() {
    std::error_code ignored;
    PollUntil([&] { return std::filesystem::remove(directory_, ignored); }, 2'000);
  }
  bool Add(pid_t process) const {
    return Write(directory_ + "/cgroup.procs", absl::StrCat(process));
  }

 private:
  static constexpr int64_t kPeriodUs = 10'000;
  explicit CpuQuota(std::string directory) : directory_(std::move(directory)) {}
  static bool Write(const std::string& file, const std::string& text) {
    std::ofstream out(file);
    out << text;
    out.close();
    return !out.fail();
  }
  const std::string directory_;
};

}  // namespace

absl::StatusOr<ScenarioResult> KillWorkers(const ChaosOptions& options) {
  return Rounds("kill", options, [&](ChaosCluster& chaos) -> absl::Status {
    OCTET_ASSIGN_OR_RETURN(const pid_t victim, chaos.AnyWorker());
    const MonotonicTime fault = chaos.MarkFault();
    kill(victim, SIGKILL);
    OCTET_RETURN_IF_ERROR(chaos.WaitStatus(
        "the dead worker is out", [&](const auto& status) { return !Has(status, victim); }));
    OCTET_RETURN_IF_ERROR(chaos.WaitStatus("two replicas", [&](const auto& status) {
      return Replicated(status, options.replication);
    }));
    chaos.MarkRepaired(fault);
    OCTET_RETURN_IF_ERROR(chaos.WaitWhole(options.workers, options.replication));
    return PassSecond(chaos, fault);
  });
}

absl::StatusOr<ScenarioResult> StopWorkers(const ChaosOptions& options) {
  return Rounds("stop", options, [&](ChaosCluster& chaos) -> absl::Status {
    OCTET_ASSIGN_OR_RETURN(const pid_t victim, chaos.AnyWorker());
    const MonotonicTime fault = chaos.MarkFault();
    kill(victim, SIGSTOP);
    absl::Status repaired = chaos.WaitStatus("the stopped worker is replaced", [&](const auto& s) {
      return !Has(s, victim) && s.rollout().empty() && Replicated(s, options.replication);
    });
    if (repaired.ok()) {
      chaos.MarkRepaired(fault);
      repaired = PassSecond(chaos, fault);
    }
    chaos.MarkFault();
    kill(victim, SIGCONT);
    OCTET_RETURN_IF_ERROR(repaired);
    return chaos.WaitWhole(options.workers, options.replication);
  });
}

absl::StatusOr<ScenarioResult> RejoinWorkers(const ChaosOptions& options) {
  return Rounds("rejoin", options, [&](ChaosCluster& chaos) -> absl::Status {
    OCTET_ASSIGN_OR_RETURN(const pid_t victim, chaos.AnyWorker());
    std::optional<SupervisorStopped> stopped(chaos.processes());
    const MonotonicTime death = chaos.clock().Now();
    kill(victim, SIGKILL);
    OCTET_RETURN_IF_ERROR(chaos.WaitWhole(options.workers - 1, options.replication));
    OCTET_RETURN_IF_ERROR(PassSecond(chaos, death));
    const MonotonicTime back = chaos.MarkFault();
    stopped.reset();
    OCTET_RETURN_IF_ERROR(chaos.WaitWhole(options.workers, options.replication));
    chaos.MarkRepaired(back);
    chaos.MarkFault();  // the second after the new placement came into force
    return PassSecond(chaos, chaos.clock().Now());
  });
}

absl::StatusOr<ScenarioResult> KillRouters(const ChaosOptions& given) {
  ChaosOptions options = given;
  options.routers = std::max(options.routers, 2u);
  const auto serving = [](const octet::v1::StatusResponse& status) {
    std::vector<pid_t> pids;
    for (const auto& router : status.routers()) {
      if (router.state() == "ready") pids.push_back(static_cast<pid_t>(router.pid()));
    }
    return pids;
  };
  return Rounds("router", options, [&](ChaosCluster& chaos) -> absl::Status {
    const std::vector<pid_t> routers = serving(chaos.Status());
    if (routers.empty()) return absl::InternalError("no router is ready");
    const pid_t victim = routers[chaos.random()() % routers.size()];
    const MonotonicTime fault = chaos.MarkFault();
    kill(victim, SIGKILL);
    OCTET_RETURN_IF_ERROR(chaos.WaitStatus("all routers serve again", [&](const auto& status) {
      const std::vector<pid_t> now = serving(status);
      return now.size() == options.routers &&
             std::find(now.begin(), now.end(), victim) == now.end();
    }));
    chaos.MarkRepaired(fault);
    return PassSecond(chaos, fault);
  });
}

absl::StatusOr<ScenarioResult> KillLastReplica(const ChaosOptions& given) {
  ChaosOptions options = given;
  options.replication = 1;
  OCTET_ASSIGN_OR_RETURN(const auto chaos, ChaosCluster::Start("last_replica", options));
  for (uint32_t round = 0; round < options.rounds; ++round) {
    OCTET_RETURN_IF_ERROR(chaos->WaitSomeTokens());
    {
      const SupervisorStopped stopped(chaos->processes());
      OCTET_ASSIGN_OR_RETURN(const MonotonicTime fault, KillForGood(*chaos, options));
      chaos->MarkRepaired(fault);
      OCTET_RETURN_IF_ERROR(chaos->WaitSomeTokens());  // all streams went on
    }
    OCTET_RETURN_IF_ERROR(chaos->WaitWhole(options.workers, options.replication));
  }
  const octet::v1::StatusResponse status = chaos->Status();
  const std::string address = chaos->address();
  const SupervisorStopped stopped(chaos->processes());
  ScenarioResult result = chaos->Finish();
  for (const auto& worker : status.workers()) kill(static_cast<pid_t>(worker.pid()), SIGKILL);
  ClientOptions impatient;
  impatient.attempts_max = 1;
  impatient.timeout = Duration::Millis(3'000);
  OCTET_ASSIGN_OR_RETURN(const auto client, Client::Connect(address, impatient));
  const absl::Status ended = client->Generate(LoadRequest(0, 24, 10, 64), [](const auto&) {});
  result.notes.push_back(absl::StrCat("no worker left: ", absl::StatusCodeToString(ended.code())));
  return result;
}

absl::StatusOr<ScenarioResult> LoseCoordinator(const ChaosOptions& options) {
  return Rounds("coordinator", options, [&](ChaosCluster& chaos) -> absl::Status {
    const octet::v1::StatusResponse before = chaos.Status();
    OCTET_ASSIGN_OR_RETURN(const pid_t victim, chaos.AnyWorker());
    {
      const SupervisorStopped stopped(chaos.processes());
      chaos.MarkFault();
      kill(chaos.processes()->Pids("coordinator").back(), SIGKILL);
      std::error_code error;
      for (const auto& file : std::filesystem::directory_iterator(chaos.state_directory(), error)) {
        std::filesystem::remove_all(file, error);
      }
      (void)chaos.TokensPerSecond(options.outage_ms);  // the streams go on meanwhile
      const MonotonicTime fault = chaos.MarkFault();
      kill(victim, SIGKILL);
      OCTET_RETURN_IF_ERROR(PassSecond(chaos, fault));
      OCTET_RETURN_IF_ERROR(chaos.WaitSomeTokens());
    }
    OCTET_RETURN_IF_ERROR(chaos.WaitWhole(options.workers, options.replication));
    const octet::v1::StatusResponse after = chaos.Status();
    chaos.Note(absl::StrCat("epoch ", before.epoch(), " before, ", after.epoch(), " after"));
    if (after.epoch() >= before.epoch()) return absl::OkStatus();
    return absl::InternalError("the epoch went back");
  });
}

absl::StatusOr<ScenarioResult> MeasureThroughput(const ChaosOptions& options) {
  std::vector<std::unique_ptr<CpuQuota>> quotas;
  // Enough for twice a worker's share, too little for its neighbours' together.
  constexpr int64_t kQuotaUs = 4'000;
  const auto limit = [&](ChaosCluster& chaos) {
    const octet::v1::StatusResponse status = chaos.Status();
    for (int i = 0; i < status.workers_size(); ++i) {
      if (status.workers(i).state() != "ready") continue;
      auto quota = CpuQuota::Make(absl::StrCat("octet-chaos-", status.workers(i).pid()), kQuotaUs);
      if (quota == nullptr || !quota->Add(static_cast<pid_t>(status.workers(i).pid()))) {
        chaos.Note("not run under quotas: no CPU controller of cgroups");
        return;
      }
      quotas.push_back(std::move(quota));
    }
  };
  std::vector<double> ratios;
  auto result = Rounds("throughput", options, [&](ChaosCluster& chaos) -> absl::Status {
    limit(chaos);
    OCTET_RETURN_IF_ERROR(chaos.WaitSomeTokens());
    const double before = chaos.TokensPerSecond(options.outage_ms);
    std::optional<SupervisorStopped> stopped(chaos.processes());
    OCTET_ASSIGN_OR_RETURN(const MonotonicTime fault, KillForGood(chaos, options));
    chaos.MarkRepaired(fault);
    OCTET_RETURN_IF_ERROR(PassSecond(chaos, fault));
    const double during = chaos.TokensPerSecond(options.outage_ms);
    stopped.reset();
    ratios.push_back(during / before);
    chaos.Note(absl::StrFormat("%.0f tokens/s before, %.0f with one worker less: %.3f", before,
                               during, during / before));
    return chaos.WaitWhole(options.workers, options.replication);
  });
  if (result.ok()) {
    result->notes.push_back(absl::StrFormat("median %.3f", Percentile(ratios, 50)));
  }
  return result;
}

}  // namespace octet
