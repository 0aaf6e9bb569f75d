// octet status: who serves in a cluster and which experts each holds.
#include <string>

#include "cli/command.h"
#include "cli/setting_table.h"
#include "cli/status_json.h"
#include "cli/stop_signals.h"
#include "cli/terminal.h"
#include "client/client.h"
#include "core/mutex.h"
#include "core/status_macros.h"

namespace octet {
namespace {

absl::Status PrintStatus(Client* client, bool json) {
  OCTET_ASSIGN_OR_RETURN(const auto status, client->Status());
  PrintOut(json ? StatusToJson(status) + "\n" : StatusToText(status));
  return absl::OkStatus();
}

absl::Status Watch(Client* client, const Settings& settings) {
  Mutex mu;
  CondVar changed;
  bool stop = false;
  const StopSignals signals([&](int) {
    MutexLock lock(mu);
    stop = true;
    changed.NotifyAll();
  });
  while (true) {
    const absl::Status status = PrintStatus(client, settings.Bool("json"));
    if (!status.ok()) PrintFailure(status);
    MutexLock lock(mu);
    if (!stop) changed.WaitFor(mu, std::chrono::seconds(1));
    if (stop) return absl::OkStatus();
    if (!settings.Bool("json")) PrintOut("\n");
  }
}

absl::Status Run(const Settings& settings) {
  ClientOptions options;
  options.timeout = Duration::Millis(settings.Int("timeout-ms"));
  OCTET_ASSIGN_OR_RETURN(const auto client, Client::Connect(settings.String("server"), options));
  if (settings.Bool("watch")) return Watch(client.get(), settings);
  return PrintStatus(client.get(), settings.Bool("json"));
}

}  // namespace

Command StatusCommand() {
  Command command;
  command.name = "status";
  command.group = "Use a model";
  command.summary = "Show who serves in a cluster and which experts each holds";
  command.settings = Join({{BoolSetting("json", "Print one JSON object a line", "Output"),
                            BoolSetting("watch", "Print it again every second", "Output")},
                           ClientSettings(),
                           GeneralSettings()});
  command.run = Run;
  return command;
}

}  // namespace octet
