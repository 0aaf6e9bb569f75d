// octet chat: a conversation on the terminal, rendered by the model's own template.
#include <unistd.h>

#include <iostream>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "cli/backend.h"
#include "cli/command.h"
#include "cli/request_settings.h"
#include "cli/setting_table.h"
#include "cli/terminal.h"
#include "core/status_macros.h"

namespace octet {
namespace {

constexpr char kCommands[] = "/reset forgets the conversation, /quit ends it\n";

void AddMessage(octet::v1::ChatPrompt* chat, const std::string& role, const std::string& content) {
  auto* message = chat->add_messages();
  message->set_role(role);
  message->set_content(content);
}

// One conversation with its history. Ctrl-C ends it.
class Conversation {
 public:
  Conversation(const Settings& settings, Backend* backend)
      : settings_(settings), backend_(backend), terminal_(isatty(STDIN_FILENO) == 1) {
    Reset();
  }

  absl::Status Loop() {
    if (terminal_) PrintErr(kCommands);
    std::string line;
    while (ReadLine(&line)) {
      if (line == "/quit") return absl::OkStatus();
      if (line == "/reset") {
        Reset();
        continue;
      }
      if (absl::StripAsciiWhitespace(line).empty()) continue;
      OCTET_RETURN_IF_ERROR(Answer(line));
    }
    return absl::OkStatus();
  }

 private:
  void Reset() {
    chat_.clear_messages();
    if (settings_.IsSet("system")) AddMessage(&chat_, "system", settings_.String("system"));
  }

  bool ReadLine(std::string* line) {
    if (terminal_) PrintErr("> ");
    return static_cast<bool>(std::getline(std::cin, *line));
  }

  absl::Status Answer(const std::string& question) {
    AddMessage(&chat_, "user", question);
    octet::v1::GenerateRequest request = RequestFrom(settings_);
    *request.mutable_chat() = chat_;
    std::string text;
    const absl::Status status = backend_->Generate(
        request,
        [&](const octet::v1::GenerateResponse& event) {
          text += event.chunk().text();
          PrintOut(event.chunk().text());
        },
        CancelToken());
    PrintOut("\n");
    if (status.ok()) {
      AddMessage(&chat_, "assistant", text);
      return absl::OkStatus();
    }
    chat_.mutable_messages()->RemoveLast();
    // A person can go on after a failure; a script can't.
    if (!terminal_) return status;
    PrintFailure(status);
    return absl::OkStatus();
  }

  const Settings& settings_;
  Backend* const backend_;
  const bool terminal_;
  octet::v1::ChatPrompt chat_;
};

absl::Status Run(const Settings& settings) {
  OCTET_ASSIGN_OR_RETURN(const auto backend, OpenBackend(settings));
  return Conversation(settings, backend.get()).Loop();
}

}  // namespace

Command ChatCommand() {
  Command command;
  command.name = "chat";
  command.group = "Use a model";
  command.summary = "Talk with a model, by a cluster or in this process";
  command.settings = Join({{StringSetting("system", "", "System message", "Prompt")},
                           SamplingSettingsGroup(),
                           ClientSettings(),
                           ModelSettings(),
                           PackSettings(),
                           ComputeSettings(),
                           DeviceSettings(),
                           EngineSettings(),
                           GeneralSettings()});
  for (SettingSpec& spec : command.settings) {
    if (spec.name == "max-tokens") spec.fallback = "512";
  }
  command.run = Run;
  return command;
}

}  // namespace octet
