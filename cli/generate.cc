// octet generate: one answer to one prompt. Standard output holds the text alone.
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "cli/backend.h"
#include "cli/command.h"
#include "cli/request_settings.h"
#include "cli/setting_table.h"
#include "cli/stop_signals.h"
#include "cli/terminal.h"
#include "core/limits.h"
#include "core/status_macros.h"

namespace octet {
namespace {

// Prompts shorter than this are read before anybody wonders.
constexpr uint32_t kLongPromptTokens = 256;

absl::Status SetPrompt(const Settings& settings, octet::v1::GenerateRequest* request) {
  const bool has_prompt = settings.IsSet("prompt");
  if (has_prompt == settings.IsSet("ids")) {
    return absl::InvalidArgumentError(has_prompt ? "prompt and ids: both set; allowed is one"
                                                 : "prompt: not set; give --prompt TEXT or --ids "
                                                   "FILE");
  }
  if (!has_prompt) {
    const std::string& file = settings.String("ids");
    OCTET_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(file, kPromptBytesMax));
    OCTET_ASSIGN_OR_RETURN(const auto ids, ParseTokenIds(text, file));
    // Set even where empty, so that the error is about tokens.
    auto* out = request->mutable_token_ids();
    for (const TokenId id : ids) out->add_ids(id);
    return absl::OkStatus();
  }
  if (!settings.Bool("chat")) {
    request->set_text(settings.String("prompt"));
    return absl::OkStatus();
  }
  if (settings.IsSet("system")) {
    auto* system = request->mutable_chat()->add_messages();
    system->set_role("system");
    system->set_content(settings.String("system"));
  }
  auto* user = request->mutable_chat()->add_messages();
  user->set_role("user");
  user->set_content(settings.String("prompt"));
  return absl::OkStatus();
}

// Collects what --json prints.
struct Answer {
  octet::v1::Started started;
  octet::v1::Finished finished;
  std::string text;
  std::vector<int32_t> token_ids;
  std::vector<octet::v1::TokenLogprob> logprobs;

  void Add(const octet::v1::GenerateResponse& event) {
    if (event.has_started()) started = event.started();
    if (event.has_finished()) finished = event.finished();
    if (!event.has_chunk()) return;
    text += event.chunk().text();
    for (const int32_t id : event.chunk().token_ids()) token_ids.push_back(id);
    for (const auto& logprob : event.chunk().logprobs()) logprobs.push_back(logprob);
  }

  std::string ToJson() const {
    nlohmann::ordered_json json;
    json["text"] = text;
    json["token_ids"] = token_ids;
    json["finish_reason"] =
        finished.reason() == octet::v1::FINISH_REASON_LENGTH ? "length" : "stop";
    if (!finished.stop_match().empty()) json["stop_match"] = finished.stop_match();
    const auto& usage = finished.usage();
    json["usage"] = {{"prompt_tokens", usage.prompt_tokens()},
                     {"completion_tokens", usage.completion_tokens()},
                     {"total_tokens", usage.prompt_tokens() + usage.completion_tokens()},
                     {"cached_tokens", usage.cached_tokens()},
                     {"preemptions", usage.preemptions()},
                     {"queue_ms", usage.queue_ms()},
                     {"prefill_ms", usage.prefill_ms()},
                     {"decode_ms", usage.decode_ms()}};
    if (!logprobs.empty()) {
      json["logprobs"] = nlohmann::ordered_json::array();
      for (const auto& logprob : logprobs) json["logprobs"].push_back(logprob.logprob());
    }
    json["request_id"] = started.request_id();
    json["seed"] = started.seed();
    json["model"] = started.model();
    json["compute_digest"] = started.compute_digest();
    // Text is UTF-8 already; what is not would otherwise throw.
    return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  }
};

// Shows that a long prompt is being read, from the start of a stream to its first token.
class PrefillProgress {
 public:
  void Observe(const octet::v1::GenerateResponse& event) {
    if (event.has_started() && event.started().prompt_tokens() >= kLongPromptTokens) {
      bar_.emplace();
      phase_ = absl::StrCat("reading ", event.started().prompt_tokens(), " tokens");
      bar_->Update(phase_, 0, 1);
    } else if (bar_.has_value()) {
      bar_->Update(phase_, 1, 1);
      bar_.reset();
    }
  }

 private:
  std::optional<ProgressBar> bar_;
  std::string phase_;
};

absl::Status Run(const Settings& settings) {
  const CancelToken cancel;
  const StopSignals signals([&cancel](int) { cancel.Cancel(); });
  octet::v1::GenerateRequest request = RequestFrom(settings);
  OCTET_RETURN_IF_ERROR(SetPrompt(settings, &request));
  if (settings.Bool("logprobs")) request.set_logprobs(true);
  OCTET_ASSIGN_OR_RETURN(const auto backend, OpenBackend(settings));
  const bool json = settings.Bool("json");
  Answer answer;
  PrefillProgress prefill;
  bool reader_gone = false;
  const absl::Status status = backend->Generate(
      request,
      [&](const octet::v1::GenerateResponse& event) {
        answer.Add(event);
        prefill.Observe(event);
        if (json || !event.has_chunk() || reader_gone) return;
        reader_gone = !PrintOut(event.chunk().text());
        if (reader_gone) cancel.Cancel();
      },
      cancel);
  if (reader_gone) return absl::OkStatus();
  if (!json && !answer.text.empty()) PrintOut("\n");
  OCTET_RETURN_IF_ERROR(status);
  if (json) PrintOut(answer.ToJson() + "\n");
  return absl::OkStatus();
}

}  // namespace

Command GenerateCommand() {
  Command command;
  command.name = "generate";
  command.group = "Use a model";
  command.summary = "Answer one prompt, by a cluster or in this process";
  const std::string group = "Prompt";
  command.settings =
      Join({{StringSetting("prompt", "", "Text to continue, as it is", group),
             StringSetting("ids", "", "File of token ids, instead of --prompt", group),
             BoolSetting("chat", "Put --prompt into the model's chat template", group),
             StringSetting("system", "", "System message, with --chat", group),
             BoolSetting("json", "Print one JSON object instead of the text", group),
             BoolSetting("logprobs", "Add log-probabilities to --json", group)},
            SamplingSettingsGroup(),
            ClientSettings(),
            ModelSettings(),
            PackSettings(),
            ComputeSettings(),
            DeviceSettings(),
            EngineSettings(),
            GeneralSettings()});
  command.run = Run;
  return command;
}

}  // namespace octet
