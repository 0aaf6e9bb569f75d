// The subcommands of `octet`: what each is called, which settings it takes, what it runs.
#ifndef OCTET_CLI_COMMAND_H_
#define OCTET_CLI_COMMAND_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cli/settings.h"

namespace octet {

// Exit codes of the binary, also in `octet --help`.
inline constexpr int kExitOk = 0;
inline constexpr int kExitFailure = 1;      // anything without a code of its own
inline constexpr int kExitUsage = 2;        // a flag, setting or request that is not allowed
inline constexpr int kExitUnavailable = 3;  // no answer, port in use, out of time
inline constexpr int kExitBadModel = 4;     // model missing, damaged or not supported
inline constexpr int kExitInterrupted = 130;
inline constexpr int kExitDeviceFailed = 70;  // a role whose GPU failed for good
inline constexpr int kExitDamaged = 71;       // a worker whose weights changed in memory

struct Command {
  std::string name;
  std::string group;    // heading in `octet --help`
  std::string summary;  // one line
  std::string usage;    // positional arguments: "SRC DST"
  std::vector<SettingSpec> settings;
  std::function<absl::Status(const Settings&)> run;
};

// Every command, in the order of `octet --help`.
std::vector<Command> AllCommands();

// The commands, a file each (cli/<name>.cc).
Command UpCommand();
Command RouterCommand();
Command WorkerCommand();
Command CoordinatorCommand();
Command GenerateCommand();
Command ChatCommand();
Command EvalCommand();
Command BenchCommand();
Command StatusCommand();
Command InspectCommand();
Command PackCommand();
Command PlanCommand();
Command DoctorCommand();
Command ConfigCommand();
Command VersionCommand();

// Reads flags (argv after the command's name), environment and the --config file. INVALID_ARGUMENT
// for an unknown flag (with the nearest one) or a value out of range; NOT_FOUND for the file.
// *help is set where --help was asked for.
absl::StatusOr<Settings> ParseCommandLine(const Command& command,
                                          const std::vector<std::string>& args, std::string* help);

// Names of all settings of all commands: the keys a YAML file may have.
std::vector<std::string> AllSettingNames();

int ExitCodeFor(const absl::Status& status);

}  // namespace octet

#endif  // OCTET_CLI_COMMAND_H_
