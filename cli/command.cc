#include "cli/command.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/limits.h"
#include "core/status_macros.h"

namespace octet {
namespace {

absl::StatusOr<std::string> ReadConfigFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(absl::StrCat("config: cannot read ", path));
  std::string text(kConfigBytesMax + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  return text;
}

RawSettings ReadEnvironment(const std::vector<SettingSpec>& specs) {
  RawSettings raw;
  for (const SettingSpec& spec : specs) {
    const char* value = std::getenv(SettingEnvironmentName(spec.name).c_str());
    if (value != nullptr) raw[spec.name] = {value};
  }
  return raw;
}

// The flags of one command as CLI11 collects them.
class FlagParser {
 public:
  explicit FlagParser(const Command& command)
      : command_(command),
        app_(command.summary, absl::StrCat("octet ", command.name, command.usage.empty() ? "" : " ",
                                           command.usage)) {
    app_.allow_extras();
    app_.set_help_flag("-h,--help", "Print this and exit");
    app_.get_formatter()->column_width(34);
    for (const SettingSpec& spec : command.settings) Add(spec);
  }

  absl::StatusOr<RawSettings> Parse(std::vector<std::string> args, std::string* help) {
    std::reverse(args.begin(), args.end());  // CLI11 takes them from the end
    try {
      app_.parse(args);
    } catch (const CLI::CallForHelp&) {
      *help = app_.help();
      return RawSettings();
    } catch (const CLI::Error& e) {
      return absl::InvalidArgumentError(
          absl::StrCat(e.what(), "; see octet ", command_.name, " --help"));
    }
    OCTET_RETURN_IF_ERROR(CheckExtras());
    RawSettings raw;
    for (const auto& entry : values_) {
      if (options_[entry.first]->count() > 0) raw[entry.first] = *entry.second;
    }
    return raw;
  }

 private:
  void Add(const SettingSpec& spec) {
    auto& values = values_[spec.name];
    values = std::make_unique<std::vector<std::string>>();
    std::string names = absl::StrCat("--", spec.name);
    if (spec.positional > 0) names = absl::StrCat(spec.name, ",", names);
    CLI::Option* option = nullptr;
    std::string help = spec.help;
    if (!spec.fallback.empty() && spec.type != SettingType::kBool) {
      absl::StrAppend(&help, " [", spec.fallback, "]");
    }
    if (spec.type == SettingType::kBool) {
      option = app_.add_flag(names, *values, help);
    } else {
      option = app_.add_option(names, *values, help);
      option->expected(1)->allow_extra_args(false);
      option->type_name(TypeName(spec));
    }
    option->multi_option_policy(spec.type == SettingType::kList ? CLI::MultiOptionPolicy::TakeAll
                                                                : CLI::MultiOptionPolicy::TakeLast);
    option->group(spec.hidden ? "" : spec.group);
    options_[spec.name] = option;
  }

  static std::string TypeName(const SettingSpec& spec) {
    switch (spec.type) {
      case SettingType::kInt:
      case SettingType::kUint64:
        return "N";
      case SettingType::kFloat:
        return "X";
      case SettingType::kBytes:
        return "BYTES";
      case SettingType::kChoice:
        return spec.choices;
      default:
        return "TEXT";
    }
  }

  absl::Status CheckExtras() const {
    std::vector<std::string> known = {"--help"};
    for (const SettingSpec& spec : command_.settings) {
      if (!spec.hidden) known.push_back(absl::StrCat("--", spec.name));
    }
    for (const std::string& extra : app_.remaining()) {
      if (absl::StartsWith(extra, "-")) {
        const std::string flag = extra.substr(0, extra.find('='));
        return absl::InvalidArgumentError(absl::StrCat(
            "unknown flag ", flag.substr(0, 80), "; did you mean ", NearestName(flag, known), "?"));
      }
      return absl::InvalidArgumentError(absl::StrCat("unexpected argument \"", extra.substr(0, 80),
                                                     "\"; see octet ", command_.name, " --help"));
    }
    return absl::OkStatus();
  }

  const Command& command_;
  CLI::App app_;
  std::map<std::string, std::unique_ptr<std::vector<std::string>>> values_;
  std::map<std::string, CLI::Option*> options_;
};

}  // namespace

std::vector<Command> AllCommands() {
  return {UpCommand(),    RouterCommand(), WorkerCommand(), CoordinatorCommand(), GenerateCommand(),
          ChatCommand(),  StatusCommand(), PackCommand(),   InspectCommand(),     EvalCommand(),
          BenchCommand(), PlanCommand(),   DoctorCommand(), ConfigCommand(),      VersionCommand()};
}

std::vector<std::string> AllSettingNames() {
  std::set<std::string> names;
  for (const Command& command : AllCommands()) {
    for (const SettingSpec& spec : command.settings) {
      if (!spec.hidden && spec.name != "config") names.insert(spec.name);
    }
  }
  return {names.begin(), names.end()};
}

absl::StatusOr<Settings> ParseCommandLine(const Command& command,
                                          const std::vector<std::string>& args, std::string* help) {
  FlagParser parser(command);
  OCTET_ASSIGN_OR_RETURN(const RawSettings flags, parser.Parse(args, help));
  if (!help->empty()) return Settings();
  const RawSettings environment = ReadEnvironment(command.settings);
  std::string file;
  if (environment.count("config") > 0) file = environment.at("config").front();
  if (flags.count("config") > 0) file = flags.at("config").front();
  RawSettings yaml;
  if (!file.empty()) {
    OCTET_ASSIGN_OR_RETURN(const std::string text, ReadConfigFile(file));
    OCTET_ASSIGN_OR_RETURN(yaml, ParseYamlSettings(text, file, AllSettingNames()));
  }
  return Settings::Resolve(command.settings, flags, environment, yaml, file);
}

int ExitCodeFor(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return kExitOk;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kAlreadyExists:
      return kExitUsage;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
      return kExitUnavailable;
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kDataLoss:
    case absl::StatusCode::kUnimplemented:
      return kExitBadModel;
    case absl::StatusCode::kCancelled:
      return kExitInterrupted;
    default:
      return kExitFailure;
  }
}

}  // namespace octet
