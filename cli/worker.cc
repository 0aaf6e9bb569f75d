// octet worker: holds experts and computes them for routers.
#include <unistd.h>

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "cli/command.h"
#include "cli/cores.h"
#include "cli/model_settings.h"
#include "cli/ready_report.h"
#include "cli/role.h"
#include "cli/setting_table.h"
#include "core/clock.h"
#include "core/limits.h"
#include "core/log.h"
#include "core/status_macros.h"
#include "core/worker_speed.h"
#include "expert_worker/cuda_worker.h"
#include "expert_worker/locked_experts.h"
#include "expert_worker/worker_model.h"
#include "expert_worker/worker_server.h"
#include "transport/nccl/open_device.h"

namespace octet {
namespace {

absl::Status Run(const Settings& settings) {
  OCTET_RETURN_IF_ERROR(BindToNumaNode(settings));
  RoleStop stop;
  const ReadyReporter reporter(static_cast<int>(settings.Int("ready-fd")));
  WorkerServerOptions options;
  options.listen = settings.String("listen");
  options.advertise = settings.String("advertise");
  options.coordinator = settings.String("coordinator");
  options.zone = settings.String("zone");
  options.host = HostName(settings);
  options.pid = static_cast<uint32_t>(getpid());
  options.incarnation = RandomId();
  options.memory_bytes = settings.Bytes("memory-bytes");
  options.speed = static_cast<uint32_t>(settings.Int("speed"));
  OCTET_ASSIGN_OR_RETURN(options.cores, CoresFrom(settings));
  options.threads = ThreadsFrom(settings, options.cores);
  options.spin = settings.String("spin") == "on";
  options.scrub_period = Duration::Millis(settings.Int("scrub-ms"));
  options.verify = settings.Bool("verify-experts");
  options.on_damaged = EndOnDamage;
  OCTET_ASSIGN_OR_RETURN(options.transport, TransportKindFromName(settings.String("transport")));
  options.shm_directory = settings.String("shm-dir");
  if (options.transport == TransportKind::kNccl) {
    OCTET_ASSIGN_OR_RETURN(options.nccl,
                           OpenNcclDevice(static_cast<int>(settings.Int("nccl-device"))));
  }
  OCTET_ASSIGN_OR_RETURN(options.cpu_level, CpuLevelFromName(settings.String("cpu-level")));
  options.on_serving = [&reporter](bool serving) {
    LogInfo(serving ? "serving" : "not serving");
    if (serving) reporter.Ready();
  };
  options.on_refused = [](const absl::Status& status) {
    LogError("the coordinator refuses this worker: ", status.message());
  };
  OCTET_ASSIGN_OR_RETURN(const auto package, OpenPackage(settings));
  const SystemClock clock{};
  WorkerModel model = PackageWorkerModel(package, options.threads);
  if (settings.Bool("lock-memory")) model = LockedWorkerModel(std::move(model));
  OCTET_ASSIGN_OR_RETURN(options.cuda,
                         OpenComputeDevice(settings.String("device"), model, options.memory_bytes));
  if (options.cuda != nullptr && options.verify) {
    return absl::InvalidArgumentError(
        "verify-experts: not for experts on a GPU; allowed with --device cpu");
  }
  if (options.cuda != nullptr) {
    model = CudaWorkerModel(std::move(model), options.cuda);
    // Without a bound the coordinator would take the device for endless.
    const uint64_t unused = options.cuda->FreeBytes();
    if (options.memory_bytes == 0 && unused > kCudaReserveBytes) {
      options.memory_bytes = unused - kCudaReserveBytes;
    }
    options.on_device_failed = EndOnDeviceFailure;
  }
  OCTET_ASSIGN_OR_RETURN(const auto server, WorkerServer::Start(options, std::move(model), &clock));
  LogInfo("listening on ", server->address(), ", model ", package->name(), ", ",
          options.cuda != nullptr
              ? options.cuda->Description()
              : absl::StrCat(options.threads, " threads, ", CpuLevelName(options.cpu_level)));
  reporter.Listening(server->address());
  stop.Wait();
  LogInfo("draining");
  if (!server->Drain(Duration::Millis(settings.Int("drain-timeout-ms")))) {
    LogWarning("not everything ended in time");
  }
  server->Stop();
  LogInfo("stopped");
  return absl::OkStatus();
}

}  // namespace

Command WorkerCommand() {
  Command command;
  command.name = "worker";
  command.group = "Run a cluster";
  command.summary = "Run an expert worker: holds experts, computes them";
  SettingSpec memory =
      StringSetting("memory-bytes", "0", "Budget for experts; 0: no bound", "Process");
  memory.type = SettingType::kBytes;
  memory.max = 1e18;
  command.settings =
      Join({ModelSettings(),
            RoleSettings("127.0.0.1:7412"),
            MemberSettings(),
            TransportSettings(),
            {memory,
             IntSetting("speed", std::to_string(kWorkerSpeedEqual), 1, kWorkerSpeedMax,
                        "Against other workers: one of twice the speed gets twice "
                        "the experts and rows",
                        "Process"),
             BoolSetting("lock-memory",
                         "Lock the weights of experts in memory, so that "
                         "none of their pages is evicted",
                         "Process")},
            IntegritySettings(),
            ComputeSettings(),
            DeviceSettings(),
            PackSettings(),
            GeneralSettings()});
  command.run = Run;
  return command;
}

}  // namespace octet
