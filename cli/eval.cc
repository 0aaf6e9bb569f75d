// octet eval: how well a model predicts a text, and how its gates spread the tokens over the
// experts. Teacher-forced: each token's log-probability given the ones before it. A text longer
// than the context is read in windows that overlap by half, each token scored and counted once.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/backend.h"
#include "cli/command.h"
#include "cli/gate_report.h"
#include "cli/request_settings.h"
#include "cli/setting_table.h"
#include "cli/stop_signals.h"
#include "cli/terminal.h"
#include "core/limits.h"
#include "core/status_macros.h"
#include "kernels/math.h"

namespace octet {
namespace {

struct EvalInput {
  std::vector<TokenId> tokens;
  uint64_t bytes = 0;  // of the text behind the scored tokens
};

absl::StatusOr<EvalInput> ReadInput(const Settings& settings, Backend* backend) {
  if (settings.IsSet("text") == settings.IsSet("ids")) {
    return absl::InvalidArgumentError("text: give exactly one of --text FILE and --ids FILE");
  }
  EvalInput input;
  if (settings.IsSet("text")) {
    OCTET_ASSIGN_OR_RETURN(const std::string text,
                           ReadTextFile(settings.String("text"), kPromptBytesMax));
    octet::v1::TokenizeRequest request;
    request.set_text(text);
    OCTET_ASSIGN_OR_RETURN(const auto response, backend->Tokenize(request));
    input.tokens.assign(response.ids().begin(), response.ids().end());
    input.bytes = text.size();
  } else {
    const std::string& file = settings.String("ids");
    OCTET_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(file, kPromptBytesMax));
    OCTET_ASSIGN_OR_RETURN(input.tokens, ParseTokenIds(text, file));
    octet::v1::DetokenizeRequest request;
    for (size_t i = 1; i < input.tokens.size(); ++i) request.add_ids(input.tokens[i]);
    OCTET_ASSIGN_OR_RETURN(const auto response, backend->Detokenize(request));
    input.bytes = response.text().size();
  }
  if (input.tokens.size() < 2) {
    return absl::InvalidArgumentError(absl::StrCat(
        "text: ", input.tokens.size(), " tokens; allowed are at least 2, the first is not scored"));
  }
  return input;
}

// Log-probabilities of tokens[begin + 1 .. end).
absl::StatusOr<std::vector<float>> ScoreWindow(Backend* backend, const std::vector<TokenId>& tokens,
                                               size_t begin, size_t end,
                                               const CancelToken& cancel) {
  octet::v1::GenerateRequest request;
  for (size_t i = begin; i < end; ++i) request.mutable_token_ids()->add_ids(tokens[i]);
  request.mutable_sampling()->set_temperature(0);
  request.mutable_stop()->set_max_tokens(1);
  request.set_prompt_logprobs(true);
  std::vector<float> logprobs;
  OCTET_RETURN_IF_ERROR(backend->Generate(
      request,
      [&logprobs](const octet::v1::GenerateResponse& event) {
        for (const auto& logprob : event.chunk().prompt_logprobs()) {
          logprobs.push_back(logprob.logprob());
        }
      },
      cancel));
  if (logprobs.size() != end - begin - 1) {
    return absl::InternalError(
        absl::StrCat("the model scored ", logprobs.size(), " of ", end - begin - 1, " tokens"));
  }
  return logprobs;
}

// One for each token after the first.
absl::StatusOr<std::vector<float>> ScoreAll(Backend* backend, const std::vector<TokenId>& tokens,
                                            size_t window, const CancelToken& cancel) {
  ProgressBar bar;
  GateStatistics* gate = backend->gate_statistics();
  std::vector<float> scored;
  size_t begin = 0;
  size_t read = 0;  // tokens of the windows before
  while (scored.size() + 1 < tokens.size()) {
    bar.Update("evaluating", scored.size() + 1, tokens.size());
    const size_t end = std::min(tokens.size(), begin + window);
    if (gate != nullptr) gate->CountFrom(static_cast<uint32_t>(read - begin));
    OCTET_ASSIGN_OR_RETURN(const auto logprobs, ScoreWindow(backend, tokens, begin, end, cancel));
    // Position begin + 1 + i; what an earlier window has scored stays.
    const size_t skip = scored.size() - begin;
    scored.insert(scored.end(), logprobs.begin() + static_cast<ptrdiff_t>(skip), logprobs.end());
    read = end;
    begin = end > window / 2 ? end - window / 2 : 0;
  }
  bar.Update("evaluating", tokens.size(), tokens.size());
  return scored;
}

struct EvalResult {
  double perplexity = 0;
  double bits_per_byte = 0;
  bool has_bytes = false;                 // not without a tokenizer
  std::vector<GateLayerStatistics> gate;  // empty where not known
};

EvalResult MakeResult(const std::vector<float>& logprobs, const EvalInput& input,
                      const GateStatistics* gate) {
  double sum = 0;
  for (const float logprob : logprobs) sum += static_cast<double>(logprob);
  EvalResult result;
  result.perplexity = ExpD(-sum / static_cast<double>(logprobs.size()));
  result.has_bytes = input.bytes > 0;
  if (result.has_bytes) {
    result.bits_per_byte = -sum / LogD(2.0) / static_cast<double>(input.bytes);
  }
  if (gate != nullptr) result.gate = gate->Read();
  return result;
}

std::string ResultText(const EvalResult& result, size_t scored) {
  return absl::StrFormat(
      "tokens         %d\nperplexity     %.4f\nbits per byte  %s\n%s", scored, result.perplexity,
      result.has_bytes ? absl::StrFormat("%.4f", result.bits_per_byte) : "unknown",
      GateReportText(result.gate));
}

absl::Status Run(const Settings& settings) {
  const CancelToken cancel;
  const StopSignals signals([&cancel](int) { cancel.Cancel(); });
  OCTET_ASSIGN_OR_RETURN(const auto backend, OpenBackend(settings, /*gate_statistics=*/true));
  OCTET_ASSIGN_OR_RETURN(const auto model, backend->GetModel());
  OCTET_ASSIGN_OR_RETURN(const EvalInput input, ReadInput(settings, backend.get()));
  // One position of the context is for the token that a request must make.
  size_t window = model.context() - 1;
  if (settings.Int("window") > 0) {
    window = std::min(window, static_cast<size_t>(settings.Int("window")));
  }
  if (window < 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("window: ", window, " is not allowed; allowed is an integer from 2"));
  }
  OCTET_ASSIGN_OR_RETURN(const std::vector<float> logprobs,
                         ScoreAll(backend.get(), input.tokens, window, cancel));
  const EvalResult result = MakeResult(logprobs, input, backend->gate_statistics());
  if (!settings.Bool("json")) {
    PrintOut(ResultText(result, logprobs.size()));
    return absl::OkStatus();
  }
  using Json = nlohmann::ordered_json;
  Json json;
  json["tokens"] = input.tokens;
  json["logprobs"] = logprobs;  // of tokens[1], tokens[2], ...
  json["perplexity"] = result.perplexity;
  json["bits_per_byte"] = result.has_bytes ? Json(result.bits_per_byte) : Json();
  json["scored_tokens"] = logprobs.size();
  json["bytes"] = input.bytes;
  json["window"] = window;
  json["model"] = model.model();
  json["compute_digest"] = model.compute_digest();
  json["gate"] = result.gate.empty() ? Json() : Json::parse(GateReportJson(result.gate));
  PrintOut(json.dump() + "\n");
  return absl::OkStatus();
}

}  // namespace

Command EvalCommand() {
  Command command;
  command.name = "eval";
  command.group = "Examine a model";
  command.summary = "Perplexity and bits per byte of a text, load of experts";
  const std::string group = "Input";
  command.settings = Join(
      {{StringSetting("text", "", "File of text; \"-\": standard input", group),
        StringSetting("ids", "", "File of token ids, instead of --text", group),
        IntSetting("window", "0", 0, kContextMax, "Tokens read at once, at least 2; 0: the context",
                   group),
        BoolSetting("json",
                    "Print one JSON object: tokens, logprobs (natural, of each token after the "
                    "first), perplexity, bits_per_byte, gate (null where a server answers: it "
                    "tells nothing of its gates)",
                    group)},
       ModelSettings(),
       PackSettings(),
       ComputeSettings(),
       DeviceSettings(),
       EngineSettings(),
       ClientSettings(),
       GeneralSettings()});
  command.run = Run;
  return command;
}

}  // namespace octet
