// octet router: attention, gate and clients' requests of one cluster.
#include <string>
#include <thread>

#include "cli/command.h"
#include "cli/cores.h"
#include "cli/model_settings.h"
#include "cli/ready_report.h"
#include "cli/role.h"
#include "cli/setting_table.h"
#include "core/clock.h"
#include "core/log.h"
#include "core/status_macros.h"
#include "router/api/router_server.h"
#include "transport/nccl/open_device.h"

namespace octet {
namespace {

absl::Status Run(const Settings& settings) {
  OCTET_RETURN_IF_ERROR(BindToNumaNode(settings));
  RoleStop stop;
  const ReadyReporter reporter(static_cast<int>(settings.Int("ready-fd")));
  RouterServerOptions options;
  options.listen = settings.String("listen");
  options.advertise = settings.String("advertise");
  options.coordinator = settings.String("coordinator");
  options.zone = settings.String("zone");
  options.host = HostName(settings);
  OCTET_ASSIGN_OR_RETURN(options.engine, EngineOptionsFrom(settings));
  options.engine.on_device_failed = EndOnDeviceFailure;
  OCTET_ASSIGN_OR_RETURN(options.transport, TransportKindFromName(settings.String("transport")));
  options.shm_directory = settings.String("shm-dir");
  if (options.transport == TransportKind::kNccl) {
    OCTET_ASSIGN_OR_RETURN(options.nccl,
                           OpenNcclDevice(static_cast<int>(settings.Int("nccl-device"))));
  }
  options.on_ready = [&reporter] { reporter.Ready(); };
  OCTET_ASSIGN_OR_RETURN(const auto package, OpenPackage(settings));
  const SystemClock clock{};
  OCTET_ASSIGN_OR_RETURN(const auto server, RouterServer::Start(options, package, &clock));
  LogInfo("listening on ", server->address(), ", model ", package->name(), ", ",
          options.engine.threads, " threads, ", CpuLevelName(options.engine.cpu_level));
  reporter.Listening(server->address());
  stop.Wait();
  LogInfo("draining");
  server->Drain(Duration::Millis(settings.Int("drain-timeout-ms")));
  server->Stop();
  LogInfo("stopped");
  return absl::OkStatus();
}

}  // namespace

Command RouterCommand() {
  Command command;
  command.name = "router";
  command.group = "Run a cluster";
  command.summary = "Run a router: attention, gate, clients";
  command.settings = Join({ModelSettings(), RoleSettings("127.0.0.1:7411"), MemberSettings(),
                           TransportSettings(), EngineSettings(), ComputeSettings(),
                           DeviceSettings(), PackSettings(), GeneralSettings()});
  command.run = Run;
  return command;
}

}  // namespace octet
