// octet version.
#include "absl/strings/str_cat.h"
#include "cli/command.h"
#include "cli/terminal.h"
#include "kernels/exec_context.h"

namespace octet {

Command VersionCommand() {
  Command command;
  command.name = "version";
  command.group = "Help";
  command.summary = "Print the version and what this build and CPU can do";
  command.run = [](const Settings&) {
    PrintOut(absl::StrCat("octet ", OCTET_VERSION, "\ncpu level: ", CpuLevelName(DetectCpuLevel()),
                          "\n"));
    return absl::OkStatus();
  };
  return command;
}

}  // namespace octet
