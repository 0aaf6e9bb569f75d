// The one binary: octet COMMAND [flags].
#include <signal.h>

#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "cli/command.h"
#include "cli/ready_report.h"
#include "cli/terminal.h"
#include "core/log.h"
#include "rpc/channel.h"

namespace octet {
namespace {

std::string OverallHelp(const std::vector<Command>& commands) {
  std::string text =
      "octet: serves mixture-of-experts language models\n\nUsage: octet COMMAND "
      "[flags]     octet COMMAND --help\n";
  std::string group;
  for (const Command& command : commands) {
    if (command.group != group) absl::StrAppend(&text, "\n", group = command.group, ":\n");
    std::string name = command.name;
    name.resize(14, ' ');
    absl::StrAppend(&text, "  ", name, command.summary, "\n");
  }
  absl::StrAppend(&text,
                  "\nEvery flag is also an environment variable (--max-tokens: OCTET_MAX_TOKENS) "
                  "and a key of the\nYAML file given with --config; flags win over the "
                  "environment, that over the file.\n"
                  "Exit codes: 0 done, 1 failed, 2 bad usage, 3 unavailable, 4 bad model or "
                  "file, 130 interrupted.\n");
  return text;
}

LogLevel LogLevelFromName(const std::string& name) {
  if (name == "debug") return LogLevel::kDebug;
  if (name == "warning") return LogLevel::kWarning;
  if (name == "error") return LogLevel::kError;
  return LogLevel::kInfo;
}

int RunCommand(const Command& command, const std::vector<std::string>& args) {
  std::string help;
  auto settings = ParseCommandLine(command, args, &help);
  if (!help.empty()) {
    PrintOut(help);
    return kExitOk;
  }
  if (!settings.ok()) {
    PrintFailure(settings.status());
    return ExitCodeFor(settings.status());
  }
  if (settings->Has("log-level")) SetLogLevel(LogLevelFromName(settings->String("log-level")));
  SetLogRole(command.name);
  RouteGrpcLogs();
  const absl::Status status = command.run(*settings);
  if (!status.ok()) {
    PrintFailure(status);
    // A role that `octet up` started: it repeats the cause as its own last line.
    if (settings->Has("ready-fd")) {
      ReadyReporter(static_cast<int>(settings->Int("ready-fd"))).Failed(status);
    }
  }
  return ExitCodeFor(status);
}

int Main(int argc, char** argv) {
  // A client that goes away shows as a failed write, not as a signal.
  signal(SIGPIPE, SIG_IGN);
  const std::vector<Command> commands = AllCommands();
  const std::vector<std::string> args(argv + 1, argv + argc);
  if (args.empty() || args[0] == "--help" || args[0] == "-h" || args[0] == "help") {
    PrintOut(OverallHelp(commands));
    return args.empty() ? kExitUsage : kExitOk;
  }
  const std::string name = args[0] == "--version" ? "version" : args[0];
  std::vector<std::string> known;
  for (const Command& command : commands) {
    if (command.name == name) return RunCommand(command, {args.begin() + 1, args.end()});
    known.push_back(command.name);
  }
  PrintFailure(absl::InvalidArgumentError(absl::StrCat("unknown command \"", name.substr(0, 80),
                                                       "\"; did you mean \"",
                                                       NearestName(name, known), "\"?")));
  return kExitUsage;
}

}  // namespace
}  // namespace octet

int main(int argc, char** argv) { return octet::Main(argc, argv); }
