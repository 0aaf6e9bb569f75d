// octet up: a whole cluster on this machine, each role a process of its own.
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "cli/command.h"
#include "cli/cores.h"
#include "cli/model_settings.h"
#include "cli/setting_table.h"
#include "cli/stop_signals.h"
#include "cli/supervisor.h"
#include "cli/terminal.h"
#include "client/client.h"
#include "core/cpu_list.h"
#include "core/limits.h"
#include "core/rebalance_limits.h"
#include "core/status_macros.h"

namespace octet {
namespace {

// A directory for the coordinator's state that is gone when its owner is.
class StateDirectory {
 public:
  static absl::StatusOr<StateDirectory> Make(const std::string& given) {
    if (!given.empty()) return StateDirectory(given, false);
    std::error_code error;
    const auto base = std::filesystem::temp_directory_path(error);
    std::string path = absl::StrCat(error ? "/tmp" : base.string(), "/octet-XXXXXX");
    if (mkdtemp(path.data()) == nullptr) {
      return absl::ResourceExhaustedError(absl::StrCat("cannot make a directory ", path));
    }
    return StateDirectory(path, true);
  }
  StateDirectory(StateDirectory&& other) noexcept
      : path_(std::move(other.path_)), temporary_(std::exchange(other.temporary_, false)) {}
  ~StateDirectory() {
    std::error_code ignored;
    if (temporary_) std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }

 private:
  StateDirectory(std::string path, bool temporary)
      : path_(std::move(path)), temporary_(temporary) {}
  std::string path_;
  bool temporary_;
};

// Nobody said what it is to be. Flags that follow the defaults' override them.
bool IsDefault(const Settings& settings, const char* name) {
  return settings.Source(name) == SettingSource::kDefault;
}

// `role` with every setting of it that `up` knows too, but those that differ between roles.
std::vector<std::string> RoleArgs(const Command& role, const Settings& settings) {
  std::vector<std::string> args = {role.name};
  for (const SettingSpec& spec : role.settings) {
    static constexpr const char* kOwn[] = {"listen", "advertise", "config",
                                           "model",  "threads",   "ready-fd"};
    const bool own = std::any_of(std::begin(kOwn), std::end(kOwn),
                                 [&](const char* name) { return spec.name == name; });
    if (own || !settings.Has(spec.name) || !settings.IsSet(spec.name)) continue;
    args.push_back(absl::StrCat("--", spec.name, "=", settings.String(spec.name)));
  }
  return args;
}

// A worker computes an expert on as many cores as it may, since few experts are asked at a time:
// all cores up to this, and beyond it a fair share of them.
constexpr int64_t kWorkerThreadsShared = 8;

// How long all workers have served before the next one is killed: longer than repair takes.
constexpr Duration kChaosSettle = Duration::Millis(2'000);

int64_t WorkerThreads(const Settings& settings, int64_t cores) {
  const int64_t asked = settings.Int("worker-threads");
  if (asked > 0) return asked;
  const int64_t share = cores / settings.Int("workers");
  return std::min(cores, std::max(share, kWorkerThreadsShared));
}

// Each worker starts where the one before it ends, so that they do not all take the first cores.
void ShareCores(std::vector<int> cores, size_t worker_threads,
                std::vector<std::vector<std::string>>* worker_args) {
  for (std::vector<std::string>& args : *worker_args) {
    for (std::string& arg : args) {
      if (absl::StartsWith(arg, "--cores=")) arg = absl::StrCat("--cores=", FormatCpuList(cores));
    }
    std::rotate(cores.begin(),
                cores.begin() + static_cast<ptrdiff_t>(worker_threads % cores.size()), cores.end());
  }
}

ClusterPlan MakePlan(const Settings& settings, const std::string& package,
                     const std::string& state_directory, const std::vector<int>& cores) {
  ClusterPlan plan;
  const int64_t workers = settings.Int("workers");
  // The router waits while workers compute, and they while it does: it may use all cores, they
  // share them.
  const int router_threads = ThreadsFrom(settings, cores);
  const int64_t worker_threads = WorkerThreads(settings, CoreCount(cores));
  // Where threads outnumber cores, one that waits awake keeps another from its work.
  const bool crowded = workers * worker_threads + router_threads > CoreCount(cores);
  const std::string spin = absl::StrCat("--spin=", crowded ? "off" : "on");
  plan.coordinator_args = RoleArgs(CoordinatorCommand(), settings);
  if (settings.Bool("chaos")) {
    // With one replica each kill would only show how long repair takes.
    if (IsDefault(settings, "replication")) plan.coordinator_args.push_back("--replication=2");
    plan.chaos.emplace(Duration::Millis(settings.Int("chaos-ms")), kChaosSettle,
                       static_cast<uint64_t>(settings.Int("chaos-seed")));
  }
  plan.coordinator_args.push_back("--listen=127.0.0.1:0");
  plan.coordinator_args.push_back(absl::StrCat("--state-dir=", state_directory));
  plan.coordinator_args.push_back(absl::StrCat("--expected-workers=", workers));
  std::vector<std::string> worker = RoleArgs(WorkerCommand(), settings);
  worker.push_back("--listen=127.0.0.1:0");
  worker.push_back(absl::StrCat("--model=", package));
  worker.push_back(absl::StrCat("--threads=", worker_threads));
  if (IsDefault(settings, "spin")) worker.push_back(spin);
  plan.worker_args.assign(static_cast<size_t>(workers), worker);
  if (!cores.empty()) ShareCores(cores, static_cast<size_t>(worker_threads), &plan.worker_args);
  std::vector<std::string> router = RoleArgs(RouterCommand(), settings);
  router.push_back(absl::StrCat("--model=", package));
  router.push_back(absl::StrCat("--threads=", router_threads));
  if (IsDefault(settings, "spin")) router.push_back(spin);
  plan.router_args.assign(static_cast<size_t>(settings.Int("routers")), router);
  const std::string listen = settings.String("listen");
  for (size_t i = 0; i < plan.router_args.size(); ++i) {
    // Further routers take free ports of the same host.
    const std::string host = listen.substr(0, listen.rfind(':'));
    plan.router_args[i].push_back(absl::StrCat("--listen=", i == 0 ? listen : host + ":0"));
  }
  plan.start_timeout = Duration::Millis(settings.Int("start-timeout-ms"));
  plan.stop_timeout = Duration::Millis(settings.Int("drain-timeout-ms") + 5'000);
  return plan;
}

absl::Status Run(const Settings& settings) {
  OCTET_RETURN_IF_ERROR(BindToNumaNode(settings));  // the roles inherit it
  OCTET_ASSIGN_OR_RETURN(const std::vector<int> cores, CoresFrom(settings));
  // Packed once, here, so that the processes only map files.
  std::string package;
  {
    OCTET_ASSIGN_OR_RETURN(const auto opened, OpenPackage(settings));
    package = opened->directory();
  }
  OCTET_ASSIGN_OR_RETURN(const StateDirectory state,
                         StateDirectory::Make(settings.String("state-dir")));
  const SystemClock clock{};
  Supervisor supervisor(MakePlan(settings, package, state.path(), cores), &clock,
                        [](const std::string& line) { PrintOut(line + "\n"); });
  return supervisor.Run();
}

}  // namespace

Command UpCommand() {
  Command command;
  command.name = "up";
  command.group = "Run a cluster";
  command.summary = "Start a router, a coordinator and workers on this machine";
  const std::string group = "Cluster";
  command.settings = Join(
      {ModelSettings(),
       {IntSetting("workers", "4", 1, kWorkersMax, "Expert workers", group),
        IntSetting("routers", "1", 1, kClientRoutersMax,
                   "Routers; the first listens where --listen says, the others on free ports",
                   group),
        IntSetting("replication", "1", 1, 8, "Workers that hold each expert", group),
        IntSetting("extra-replicas", "0", 0, kExtraReplicasMax,
                   "Further copies in all, for the experts that are asked most of late", group),
        IntSetting("worker-threads", "0", 0, 1024,
                   "Threads of a worker; 0: one a core, or a share of more than 8", group),
        BoolSetting("chaos",
                    "Kill a worker every few seconds, to watch that no stream breaks; "
                    "--replication is 2 unless it is set",
                    group),
        IntSetting("chaos-ms", "5000", 500, 1e9, "Mean time between two such kills", group),
        IntSetting("chaos-seed", "1", 0, INT64_MAX, "Of the choice of victims", group),
        StringSetting("state-dir", "",
                      "Where the coordinator keeps its state; default: gone "
                      "at the end",
                      group),
        IntSetting("start-timeout-ms", "120000", 1, 1e9, "Time for the cluster to be ready",
                   group)},
       RoleSettings("127.0.0.1:7411"),
       TransportSettings(),
       EngineSettings(),
       ComputeSettings(),
       IntegritySettings(),
       DeviceSettings(),
       PackSettings(),
       GeneralSettings()});
  for (SettingSpec& spec : command.settings) {
    // The processes share one terminal.
    if (spec.name == "log-level") spec.fallback = "warning";
  }
  command.run = Run;
  return command;
}

}  // namespace octet
