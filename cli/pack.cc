// octet pack: turns a source into a packed directory.
#include <string>

#include "absl/strings/str_cat.h"
#include "cli/command.h"
#include "cli/model_settings.h"
#include "cli/setting_table.h"
#include "cli/terminal.h"
#include "core/status_macros.h"
#include "model/model_package.h"

namespace octet {
namespace {

absl::Status Run(const Settings& settings) {
  for (const char* name : {"source", "destination"}) {
    if (!settings.IsSet(name)) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ": not set; usage: octet pack SRC DST [flags]"));
    }
  }
  {
    ProgressBar bar;
    OCTET_RETURN_IF_ERROR(PackModel(settings.String("source"), settings.String("destination"),
                                    PackOptionsFrom(settings),
                                    [&bar](absl::string_view phase, uint64_t done, uint64_t total) {
                                      bar.Update(phase, done, total);
                                    }));
  }
  PrintOut(absl::StrCat("packed ", settings.String("source"), " into ",
                        settings.String("destination"), "\n"));
  return absl::OkStatus();
}

}  // namespace

Command PackCommand() {
  Command command;
  command.name = "pack";
  command.group = "Examine a model";
  command.summary = "Turn a Hugging Face directory or GGUF file into a packed directory";
  command.usage = "SRC DST";
  command.settings =
      Join({{Positional(StringSetting("source", "", "What to pack", "Paths"), 1),
             Positional(StringSetting("destination", "", "Directory to make", "Paths"), 2)},
            PackSettings(),
            GeneralSettings()});
  command.run = Run;
  return command;
}

}  // namespace octet
