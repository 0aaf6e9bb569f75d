// octet config print: every setting of the cluster's roles, its value and where it comes from.
#include <algorithm>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "cli/command.h"
#include "cli/setting_table.h"
#include "cli/terminal.h"

namespace octet {
namespace {

std::vector<SettingSpec> SpecsOf(const std::vector<Command>& commands) {
  std::vector<SettingSpec> all;
  std::set<std::string> seen;
  for (const Command& command : commands) {
    for (const SettingSpec& spec : command.settings) {
      if (spec.positional > 0 || !seen.insert(spec.name).second) continue;
      all.push_back(spec);
    }
  }
  return all;
}

absl::Status Run(const Settings& settings) {
  if (settings.String("action") != "print") {
    return absl::InvalidArgumentError(absl::StrCat("action: \"", settings.String("action"),
                                                   "\" is not allowed; allowed is print"));
  }
  std::string text;
  for (const auto& entry : settings.all()) {
    if (entry.first.hidden || entry.first.positional > 0) continue;
    const auto& values = entry.second.values;
    std::string value = values.empty() ? "(not set)" : absl::StrJoin(values, ", ");
    std::string line = absl::StrCat(entry.first.name, ":");
    line.resize(std::max<size_t>(line.size() + 1, 24), ' ');
    line += value;
    line.resize(std::max<size_t>(line.size() + 1, 48), ' ');
    absl::StrAppend(&text, line, "# ", entry.second.origin, "\n");
  }
  PrintOut(text);
  return absl::OkStatus();
}

}  // namespace

Command ConfigCommand() {
  Command command;
  command.name = "config";
  command.group = "Help";
  command.summary = "config print: each setting, its value and its source";
  command.usage = "print";
  command.settings =
      Join({{Positional(StringSetting("action", "print", "What to do: print", "Action"), 1)},
            SpecsOf({UpCommand(), RouterCommand(), WorkerCommand(), CoordinatorCommand(),
                     GenerateCommand(), ChatCommand(), EvalCommand(), BenchCommand(),
                     StatusCommand()})});
  command.run = Run;
  return command;
}

}  // namespace octet
