#include "router/api/inference_codec.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/limits.h"
#include "core/status_macros.h"
#include "rpc/status_details.h"

namespace octet {
namespace {

template <typename T>
absl::Status FieldError(absl::string_view field, const T& value, absl::string_view allowed) {
  return InvalidFieldError(field, absl::StrCat(value, " is not allowed; allowed is ", allowed));
}

// Written so that NaN fails.
absl::Status CheckClosed(absl::string_view field, float value, float min, float max,
                         absl::string_view allowed) {
  if (value >= min && value <= max) return absl::OkStatus();
  return FieldError(field, value, allowed);
}

absl::Status CheckTokenId(const std::string& field, TokenId id, const ServedModel& model) {
  const uint32_t vocab = model.identity().config.vocab;
  if (id >= 0 && static_cast<uint32_t>(id) < vocab) return absl::OkStatus();
  return FieldError(field, id, absl::StrCat("a token id from 0 to ", vocab - 1));
}

absl::Status ResolveLogitBias(const octet::v1::SamplingParams& in, const ServedModel& model,
                              SamplingSettings* out) {
  if (in.logit_bias_size() > static_cast<int>(kLogitBiasMax)) {
    return FieldError("sampling.logit_bias", absl::StrCat(in.logit_bias_size(), " entries"),
                      absl::StrCat("at most ", kLogitBiasMax));
  }
  for (const auto& entry : in.logit_bias()) {
    OCTET_RETURN_IF_ERROR(CheckTokenId("sampling.logit_bias", entry.first, model));
    OCTET_RETURN_IF_ERROR(CheckClosed(absl::StrCat("sampling.logit_bias[", entry.first, "]"),
                                      entry.second, -100, 100, "a number from -100 to 100"));
    out->logit_bias.emplace_back(entry.first, entry.second);
  }
  std::sort(out->logit_bias.begin(), out->logit_bias.end());
  return absl::OkStatus();
}

absl::Status ResolveSampling(const octet::v1::SamplingParams& in, const ServedModel& model,
                             uint64_t drawn_seed, SamplingSettings* out) {
  const SamplingSettings defaults;
  out->temperature = in.has_temperature() ? in.temperature() : defaults.temperature;
  OCTET_RETURN_IF_ERROR(CheckClosed("sampling.temperature", out->temperature, 0, 100,
                                    "a number from 0 (greedy) to 100"));
  out->top_k = in.has_top_k() ? in.top_k() : defaults.top_k;
  if (out->top_k < 0 || out->top_k > static_cast<int32_t>(kVocabMax)) {
    return FieldError("sampling.top_k", out->top_k,
                      absl::StrCat("an integer from 0 (off) to ", kVocabMax));
  }
  out->top_p = in.has_top_p() ? in.top_p() : defaults.top_p;
  if (!(out->top_p > 0 && out->top_p <= 1)) {
    return FieldError("sampling.top_p", out->top_p, "a number above 0, at most 1");
  }
  out->min_p = in.has_min_p() ? in.min_p() : defaults.min_p;
  if (!(out->min_p >= 0 && out->min_p < 1)) {
    return FieldError("sampling.min_p", out->min_p, "a number from 0, below 1");
  }
  out->repetition_penalty =
      in.has_repetition_penalty() ? in.repetition_penalty() : defaults.repetition_penalty;
  if (!(out->repetition_penalty > 0 && out->repetition_penalty <= 10)) {
    return FieldError("sampling.repetition_penalty", out->repetition_penalty,
                      "a number above 0, at most 10");
  }
  out->frequency_penalty =
      in.has_frequency_penalty() ? in.frequency_penalty() : defaults.frequency_penalty;
  OCTET_RETURN_IF_ERROR(CheckClosed("sampling.frequency_penalty", out->frequency_penalty, -2, 2,
                                    "a number from -2 to 2"));
  out->presence_penalty =
      in.has_presence_penalty() ? in.presence_penalty() : defaults.presence_penalty;
  OCTET_RETURN_IF_ERROR(CheckClosed("sampling.presence_penalty", out->presence_penalty, -2, 2,
                                    "a number from -2 to 2"));
  out->seed = in.has_seed() ? in.seed() : drawn_seed;
  return ResolveLogitBias(in, model, out);
}

absl::Status CheckStopStrings(const octet::v1::StopParams& in) {
  if (in.stop_size() > static_cast<int>(kStopStringsMax)) {
    return FieldError("stop.stop", absl::StrCat(in.stop_size(), " strings"),
                      absl::StrCat("at most ", kStopStringsMax));
  }
  for (int i = 0; i < in.stop_size(); ++i) {
    const size_t bytes = in.stop(i).size();
    if (bytes == 0 || bytes > kStopStringBytesMax) {
      return FieldError(absl::StrCat("stop.stop[", i, "]"), absl::StrCat("a length of ", bytes),
                        absl::StrCat("1 to ", kStopStringBytesMax, " bytes"));
    }
  }
  return absl::OkStatus();
}

// `left`: tokens that the context leaves after the prompt, at least one.
absl::Status ResolveStop(const octet::v1::StopParams& in, const ServedModel& model, uint32_t left,
                         StopSettings* out) {
  if (in.has_max_tokens() && in.max_tokens() == 0) {
    return FieldError("stop.max_tokens", 0, "an integer from 1");
  }
  out->max_tokens = in.has_max_tokens() ? std::min(in.max_tokens(), left) : left;
  out->min_tokens = in.has_min_tokens() ? in.min_tokens() : 0;
  if (out->min_tokens > out->max_tokens) {
    return FieldError("stop.min_tokens", out->min_tokens,
                      absl::StrCat("an integer from 0 to max_tokens, here ", out->max_tokens));
  }
  OCTET_RETURN_IF_ERROR(CheckStopStrings(in));
  out->stop_strings.assign(in.stop().begin(), in.stop().end());
  if (in.stop_token_ids_size() > static_cast<int>(kStopIdsMax)) {
    return FieldError("stop.stop_token_ids", absl::StrCat(in.stop_token_ids_size(), " ids"),
                      absl::StrCat("at most ", kStopIdsMax));
  }
  for (int i = 0; i < in.stop_token_ids_size(); ++i) {
    OCTET_RETURN_IF_ERROR(
        CheckTokenId(absl::StrCat("stop.stop_token_ids[", i, "]"), in.stop_token_ids(i), model));
  }
  out->stop_ids.assign(in.stop_token_ids().begin(), in.stop_token_ids().end());
  out->ignore_eos = in.ignore_eos();
  return absl::OkStatus();
}

absl::Status CheckBytes(absl::string_view field, size_t bytes) {
  if (bytes <= kPromptBytesMax) return absl::OkStatus();
  return FieldError(field, absl::StrCat("a length of ", bytes),
                    absl::StrCat("at most ", kPromptBytesMax, " bytes"));
}

absl::StatusOr<std::vector<TokenId>> EncodeChatPrompt(const octet::v1::ChatPrompt& chat,
                                                      const ServedModel& model) {
  if (chat.messages_size() == 0 || chat.messages_size() > static_cast<int>(kChatMessagesMax)) {
    return FieldError("chat.messages", absl::StrCat(chat.messages_size(), " messages"),
                      absl::StrCat("1 to ", kChatMessagesMax));
  }
  size_t bytes = 0;
  std::vector<ChatMessage> messages;
  for (int i = 0; i < chat.messages_size(); ++i) {
    const auto& message = chat.messages(i);
    if (message.role().empty()) {
      return FieldError(absl::StrCat("chat.messages[", i, "].role"), "an empty role",
                        "\"system\", \"user\", \"assistant\" or what the template knows");
    }
    bytes += message.role().size() + message.content().size();
    messages.push_back({message.role(), message.content()});
  }
  OCTET_RETURN_IF_ERROR(CheckBytes("chat.messages", bytes));
  return model.EncodeChat(messages);
}

absl::StatusOr<std::vector<TokenId>> ResolvePrompt(const octet::v1::GenerateRequest& request,
                                                   const ServedModel& model) {
  switch (request.prompt_case()) {
    case octet::v1::GenerateRequest::kText:
      OCTET_RETURN_IF_ERROR(CheckBytes("text", request.text().size()));
      return model.EncodeText(request.text(), /*add_bos=*/true);
    case octet::v1::GenerateRequest::kChat:
      return EncodeChatPrompt(request.chat(), model);
    case octet::v1::GenerateRequest::kTokenIds: {
      const auto& ids = request.token_ids().ids();
      for (int i = 0; i < ids.size(); ++i) {
        OCTET_RETURN_IF_ERROR(
            CheckTokenId(absl::StrCat("token_ids.ids[", i, "]"), ids.Get(i), model));
      }
      return std::vector<TokenId>(ids.begin(), ids.end());
    }
    case octet::v1::GenerateRequest::PROMPT_NOT_SET:
      break;
  }
  return InvalidFieldError("prompt", "not set; allowed is one of text, token_ids, chat");
}

absl::Status CheckPromptLength(size_t tokens, const ServedModel& model) {
  if (tokens == 0) return InvalidFieldError("prompt", "gives no tokens; allowed is at least one");
  const uint32_t context = model.identity().context;
  if (tokens < context) return absl::OkStatus();
  absl::Status status = FieldError(
      "prompt", absl::StrCat(tokens, " tokens"),
      absl::StrCat("at most ", context - 1, " (the context of ", context, " less one to make)"));
  SetErrorDetail(&status, "CONTEXT_LENGTH_EXCEEDED", {{"context", absl::StrCat(context)}});
  return status;
}

void LogprobToProto(const TokenLogprob& in, octet::v1::TokenLogprob* out) {
  out->set_logprob(in.logprob);
  for (const auto& alternative : in.top) {
    auto* top = out->add_top();
    top->set_token_id(alternative.first);
    top->set_logprob(alternative.second);
  }
}

absl::Status ResolveResumeTokens(const octet::v1::GenerateRequest& request,
                                 const ServedModel& model, GenerationRequest* out) {
  const auto count = static_cast<uint32_t>(request.resume_token_ids_size());
  if (count == 0) return absl::OkStatus();
  if (count != out->resume_index) {
    return FieldError("resume_token_ids", absl::StrCat(count, " ids"),
                      absl::StrCat("none, or resume_index of them, here ", out->resume_index));
  }
  for (const int32_t id : request.resume_token_ids()) {
    OCTET_RETURN_IF_ERROR(CheckTokenId("resume_token_ids", id, model));
    out->resume_tokens.push_back(id);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<GenerationRequest> ResolveGenerateRequest(const octet::v1::GenerateRequest& request,
                                                         const ServedModel& model,
                                                         const RequestDraws& draws) {
  if (request.has_compute_digest() && request.compute_digest() != model.identity().compute_digest) {
    return OtherVersionError(request.compute_digest(), model.identity().compute_digest);
  }
  GenerationRequest out;
  out.client_request_id = request.has_request_id() ? request.request_id() : draws.request_id;
  const size_t id_bytes = out.client_request_id.size();
  if (id_bytes == 0 || id_bytes > kRequestIdBytesMax) {
    return FieldError("request_id", absl::StrCat("a length of ", id_bytes),
                      absl::StrCat("1 to ", kRequestIdBytesMax, " bytes"));
  }
  OCTET_RETURN_IF_ERROR(ResolveSampling(request.sampling(), model, draws.seed, &out.sampling));
  out.top_logprobs = request.top_logprobs();
  if (out.top_logprobs > kTopLogprobsMax) {
    return FieldError("top_logprobs", out.top_logprobs,
                      absl::StrCat("an integer from 0 to ", kTopLogprobsMax));
  }
  out.logprobs = request.logprobs() || out.top_logprobs > 0;
  out.prompt_logprobs = request.prompt_logprobs();
  out.cache_salt = request.cache_salt();
  if (out.cache_salt.size() > kCacheSaltBytesMax) {
    return FieldError("cache_salt", absl::StrCat("a length of ", out.cache_salt.size()),
                      absl::StrCat("at most ", kCacheSaltBytesMax, " bytes"));
  }
  out.skip_special_tokens =
      request.has_skip_special_tokens() ? request.skip_special_tokens() : true;
  OCTET_ASSIGN_OR_RETURN(out.prompt, ResolvePrompt(request, model));
  OCTET_RETURN_IF_ERROR(CheckPromptLength(out.prompt.size(), model));
  const uint32_t left = model.identity().context - static_cast<uint32_t>(out.prompt.size());
  OCTET_RETURN_IF_ERROR(ResolveStop(request.stop(), model, left, &out.stop));
  out.resume_index = request.resume_index();
  if (out.resume_index > out.stop.max_tokens) {
    return FieldError("resume_index", out.resume_index,
                      absl::StrCat("an integer from 0 to max_tokens, here ", out.stop.max_tokens));
  }
  OCTET_RETURN_IF_ERROR(ResolveResumeTokens(request, model, &out));
  return out;
}

octet::v1::GenerateResponse StartedToProto(const GenerationRequest& request,
                                           const ServedModel& model) {
  octet::v1::GenerateResponse response;
  auto* started = response.mutable_started();
  started->set_request_id(request.client_request_id);
  started->set_seed(request.sampling.seed);
  started->set_compute_digest(model.identity().compute_digest);
  started->set_model(model.identity().name);
  started->set_prompt_tokens(static_cast<uint32_t>(request.prompt.size()));
  auto* sampling = started->mutable_sampling();
  sampling->set_temperature(request.sampling.temperature);
  sampling->set_top_k(request.sampling.top_k);
  sampling->set_top_p(request.sampling.top_p);
  sampling->set_min_p(request.sampling.min_p);
  sampling->set_repetition_penalty(request.sampling.repetition_penalty);
  sampling->set_frequency_penalty(request.sampling.frequency_penalty);
  sampling->set_presence_penalty(request.sampling.presence_penalty);
  sampling->set_seed(request.sampling.seed);
  for (const auto& bias : request.sampling.logit_bias) {
    (*sampling->mutable_logit_bias())[bias.first] = bias.second;
  }
  auto* stop = started->mutable_stop();
  stop->set_max_tokens(request.stop.max_tokens);
  stop->set_min_tokens(request.stop.min_tokens);
  stop->set_ignore_eos(request.stop.ignore_eos);
  for (const std::string& text : request.stop.stop_strings) stop->add_stop(text);
  for (const TokenId id : request.stop.stop_ids) stop->add_stop_token_ids(id);
  return response;
}

octet::v1::GenerateResponse ChunkToProto(const GenerationChunk& chunk) {
  octet::v1::GenerateResponse response;
  auto* out = response.mutable_chunk();
  out->set_index(chunk.index);
  out->set_text(chunk.text);
  for (const TokenId id : chunk.token_ids) out->add_token_ids(id);
  for (const TokenLogprob& logprob : chunk.logprobs) LogprobToProto(logprob, out->add_logprobs());
  for (const TokenLogprob& logprob : chunk.prompt_logprobs) {
    LogprobToProto(logprob, out->add_prompt_logprobs());
  }
  return response;
}

octet::v1::GenerateResponse FinishedToProto(const GenerationResult& result) {
  octet::v1::GenerateResponse response;
  auto* out = response.mutable_finished();
  out->set_reason(result.reason == FinishReason::kStop ? octet::v1::FINISH_REASON_STOP
                                                       : octet::v1::FINISH_REASON_LENGTH);
  out->set_stop_match(result.stop_match);
  auto* usage = out->mutable_usage();
  usage->set_prompt_tokens(result.usage.prompt_tokens);
  usage->set_completion_tokens(result.usage.completion_tokens);
  usage->set_cached_tokens(result.usage.cached_tokens);
  usage->set_preemptions(result.usage.preemptions);
  usage->set_queue_ms(result.usage.queue_ms);
  usage->set_prefill_ms(result.usage.prefill_ms);
  usage->set_decode_ms(result.usage.decode_ms);
  return response;
}

absl::StatusOr<octet::v1::TokenizeResponse> HandleTokenize(
    const octet::v1::TokenizeRequest& request, const ServedModel& model) {
  std::vector<TokenId> ids;
  if (request.input_case() == octet::v1::TokenizeRequest::kChat) {
    OCTET_ASSIGN_OR_RETURN(ids, EncodeChatPrompt(request.chat(), model));
  } else if (request.input_case() == octet::v1::TokenizeRequest::kText) {
    OCTET_RETURN_IF_ERROR(CheckBytes("text", request.text().size()));
    const bool add_bos = request.has_add_special() ? request.add_special() : true;
    OCTET_ASSIGN_OR_RETURN(ids, model.EncodeText(request.text(), add_bos));
  } else {
    return InvalidFieldError("input", "not set; allowed is one of text, chat");
  }
  octet::v1::TokenizeResponse response;
  for (const TokenId id : ids) {
    response.add_ids(id);
    // A piece may be a part of a character, which a proto3 string cannot carry.
    response.add_pieces(model.tokenizer().Decode({&id, 1}, /*skip_special=*/false));
  }
  return response;
}

absl::StatusOr<octet::v1::DetokenizeResponse> HandleDetokenize(
    const octet::v1::DetokenizeRequest& request, const ServedModel& model) {
  for (int i = 0; i < request.ids_size(); ++i) {
    OCTET_RETURN_IF_ERROR(CheckTokenId(absl::StrCat("ids[", i, "]"), request.ids(i), model));
  }
  const std::vector<TokenId> ids(request.ids().begin(), request.ids().end());
  const bool skip = request.has_skip_special_tokens() ? request.skip_special_tokens() : true;
  octet::v1::DetokenizeResponse response;
  response.set_text(model.tokenizer().Decode(ids, skip));
  return response;
}

octet::v1::GetModelResponse HandleGetModel(const ServedModel& model) {
  const ModelIdentity& identity = model.identity();
  octet::v1::GetModelResponse out;
  out.set_model(identity.name);
  out.set_compute_digest(identity.compute_digest);
  out.set_architecture(identity.config.architecture);
  out.set_layers(identity.config.layers);
  out.set_hidden(identity.config.hidden);
  out.set_experts(identity.config.experts);
  out.set_top_k(identity.config.top_k);
  out.set_vocab(identity.config.vocab);
  out.set_context(identity.context);
  switch (identity.config.gate) {
    case GateKind::kNone:
      out.set_gate("none");
      break;
    case GateKind::kLinear:
      out.set_gate("linear");
      break;
    case GateKind::kAttention:
      out.set_gate("attention");
      break;
  }
  out.set_chat_template(model.tokenizer().chat_template());
  for (const TokenId id : identity.config.eos_ids) out.add_eos_ids(id);
  return out;
}

}  // namespace octet
