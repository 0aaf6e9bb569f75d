// octet coordinator: who lives and who holds which expert.
#include <filesystem>
#include <string>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "cli/command.h"
#include "cli/ready_report.h"
#include "cli/role.h"
#include "cli/setting_table.h"
#include "coordinator/server.h"
#include "core/clock.h"
#include "core/limits.h"
#include "core/log.h"
#include "core/rebalance_limits.h"
#include "core/status_macros.h"
#include "core/version_limits.h"

namespace octet {
namespace {

absl::StatusOr<std::string> StorePath(const std::string& directory) {
  if (directory.empty()) return std::string();
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) {
    return absl::InvalidArgumentError(
        absl::StrCat("state-dir: cannot make ", directory, ": ", error.message()));
  }
  return (std::filesystem::path(directory) / "coordinator.sqlite").string();
}

absl::Status Run(const Settings& settings) {
  RoleStop stop;
  const ReadyReporter reporter(static_cast<int>(settings.Int("ready-fd")));
  CoordinatorOptions options;
  options.listen = settings.String("listen");
  OCTET_ASSIGN_OR_RETURN(options.store_path, StorePath(settings.String("state-dir")));
  options.settings.replication = static_cast<uint32_t>(settings.Int("replication"));
  options.settings.versions_max = static_cast<uint32_t>(settings.Int("versions-max"));
  options.settings.extra_replicas = static_cast<uint32_t>(settings.Int("extra-replicas"));
  options.settings.expected_workers = static_cast<uint32_t>(settings.Int("expected-workers"));
  options.settings.lease = Duration::Millis(settings.Int("lease-ms"));
  options.settings.heartbeat = Duration::Millis(settings.Int("heartbeat-ms"));
  const SystemClock clock{};
  OCTET_ASSIGN_OR_RETURN(const auto server, CoordinatorServer::Start(options, &clock));
  LogInfo("listening on ", server->address(), ", replication ", options.settings.replication);
  reporter.Listening(server->address());
  reporter.Ready();
  stop.Wait();
  server->Stop();
  LogInfo("stopped");
  return absl::OkStatus();
}

}  // namespace

Command CoordinatorCommand() {
  Command command;
  command.name = "coordinator";
  command.group = "Run a cluster";
  command.summary = "Run a coordinator: membership and placement";
  const std::string group = "Placement";
  command.settings = Join(
      {RoleSettings("127.0.0.1:7410"),
       {IntSetting("replication", "1", 1, 8, "Workers that hold each expert", group),
        IntSetting("extra-replicas", "0", 0, kExtraReplicasMax,
                   "Further copies in all, for the experts that are asked most of late", group),
        IntSetting("expected-workers", "0", 0, kWorkersMax,
                   "The first placement waits for so many; 0: for those that come at once", group),
        IntSetting("versions-max", absl::StrCat(kVersionsDefault), 1, kVersionsMax,
                   "Model versions served side by side; a member of a further one is refused",
                   group),
        StringSetting("state-dir", "",
                      "Directory of the SQLite store; without one a restart relies on what "
                      "members remember",
                      group),
        IntSetting("lease-ms", absl::StrCat(kLeaseMs), 100, 1e6,
                   "A member that is silent for so long is lost", group),
        IntSetting("heartbeat-ms", absl::StrCat(kHeartbeatMs), 10, 1e6, "Time between heartbeats",
                   group)},
       GeneralSettings()});
  command.run = Run;
  return command;
}

}  // namespace octet
