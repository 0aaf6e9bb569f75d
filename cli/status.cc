// octet status: who serves in a cluster and which experts each holds.
#include <unistd.h>

#include <deque>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
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

// Events that a watched status shows.
constexpr size_t kEventsShown = 8;

// One status after another.
class Watched {
 public:
  // The next one as it is to be printed.
  std::string Next(octet::v1::StatusResponse status) {
    if (last_.has_value()) {
      for (std::string& event : StatusEvents(*last_, status)) events_.push_back(std::move(event));
    }
    while (events_.size() > kEventsShown) events_.pop_front();
    std::string text = StatusToText(status, last_.has_value() ? &*last_ : nullptr);
    for (const std::string& event : events_) absl::StrAppend(&text, "  ", event, "\n");
    last_ = std::move(status);
    return text;
  }

 private:
  std::optional<octet::v1::StatusResponse> last_;
  std::deque<std::string> events_;
};

absl::Status Watch(Client* client, const Settings& settings) {
  Mutex mu;
  CondVar changed;
  bool stop = false;
  const StopSignals signals([&](int) {
    MutexLock lock(mu);
    stop = true;
    changed.NotifyAll();
  });
  const bool json = settings.Bool("json");
  // Drawn over the last one where somebody looks at it, else one after the other.
  const std::string clear = !json && isatty(STDOUT_FILENO) != 0 ? "\033[H\033[J" : "";
  Watched watched;
  while (true) {
    auto status = client->Status();
    if (!status.ok()) {
      PrintFailure(status.status());
    } else if (json) {
      PrintOut(StatusToJson(*status) + "\n");
    } else {
      PrintOut(clear + watched.Next(*std::move(status)));
    }
    MutexLock lock(mu);
    if (!stop) changed.WaitFor(mu, std::chrono::seconds(1));
    if (stop) return absl::OkStatus();
    if (!json && clear.empty()) PrintOut("\n");
  }
}

absl::Status Run(const Settings& settings) {
  ClientOptions options;
  options.timeout = Duration::Millis(settings.Int("timeout-ms"));
  OCTET_ASSIGN_OR_RETURN(const auto client, Client::Connect(settings.String("server"), options));
  if (settings.Bool("watch")) return Watch(client.get(), settings);
  OCTET_ASSIGN_OR_RETURN(const auto status, client->Status());
  PrintOut(settings.Bool("json") ? StatusToJson(status) + "\n" : StatusToText(status));
  return absl::OkStatus();
}

}  // namespace

Command StatusCommand() {
  Command command;
  command.name = "status";
  command.group = "Use a model";
  command.summary = "Show who serves in a cluster and which experts each holds";
  command.settings =
      Join({{BoolSetting("json", "Print one JSON object a line", "Output"),
             BoolSetting("watch", "Print it again every second, with what changed", "Output")},
            ClientSettings(),
            GeneralSettings()});
  command.run = Run;
  return command;
}

}  // namespace octet
