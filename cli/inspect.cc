// octet inspect: what a model is and how it is packed.
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/str_cat.h"
#include "cli/command.h"
#include "cli/model_settings.h"
#include "cli/setting_table.h"
#include "cli/terminal.h"
#include "core/status_macros.h"

namespace octet {
namespace {

std::string Line(const std::string& label, const std::string& value) {
  std::string line = label;
  line.resize(18, ' ');
  return absl::StrCat(line, value, "\n");
}

std::string GateText(GateKind gate) {
  switch (gate) {
    case GateKind::kNone:
      return "none (dense)";
    case GateKind::kLinear:
      return "linear";
    case GateKind::kAttention:
      return "attention";
  }
  return "";
}

std::string Summary(const ModelPackage& package) {
  const ModelConfig& c = package.config();
  const WireFormat wire = package.wire_format(LayerId(0));
  return absl::StrCat(
      Line("model", package.name()), Line("architecture", c.architecture),
      Line("layers", absl::StrCat(c.layers)), Line("hidden", absl::StrCat(c.hidden)),
      Line("intermediate", absl::StrCat(c.intermediate)),
      Line("heads", absl::StrCat(c.heads, " (", c.kv_heads, " key-value) of ", c.head_dim)),
      Line("experts", absl::StrCat(c.experts, ", top ", c.top_k)), Line("gate", GateText(c.gate)),
      Line("vocabulary", absl::StrCat(c.vocab)), Line("context", absl::StrCat(c.context)),
      Line("sliding window", c.sliding_window == 0 ? "none" : absl::StrCat(c.sliding_window)),
      Line("expert bytes", absl::StrCat(package.expert_bytes())),
      Line("wire rows",
           wire.is_integer() ? absl::StrCat("int8, groups of ", wire.activation_group) : "f32"),
      Line("wire replies", wire.reply == ReplyDType::kF32 ? "f32" : "bf16"),
      Line("compute digest", package.compute_digest()),
      Line("model version", package.model_version()), Line("directory", package.directory()));
}

absl::Status Run(const Settings& settings) {
  OCTET_ASSIGN_OR_RETURN(const auto package, OpenPackage(settings));
  PrintOut(settings.Bool("json") ? absl::StrCat(package->manifest_json(), "\n")
                                 : Summary(*package));
  return absl::OkStatus();
}

}  // namespace

Command InspectCommand() {
  Command command;
  command.name = "inspect";
  command.group = "Examine a model";
  command.summary = "Show what a model is and how it is packed";
  command.usage = "M";
  command.settings = Join({ModelSettings(),
                           {BoolSetting("json", "Print the package's manifest", "Output")},
                           PackSettings(),
                           GeneralSettings()});
  command.settings[0] = Positional(command.settings[0], 1);
  command.run = Run;
  return command;
}

}  // namespace octet
