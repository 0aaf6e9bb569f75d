#include "router/request_check.h"

#include <cmath>
#include <string>

#include "absl/strings/str_cat.h"
#include "core/limits.h"
#include "core/status_macros.h"

namespace octet {

namespace {

template <typename T>
absl::Status Refuse(absl::string_view field, T value, absl::string_view allowed) {
  return absl::InvalidArgumentError(absl::StrCat(field, ": ", value, " is not ", allowed));
}

absl::Status CheckId(absl::string_view field, TokenId id, uint32_t vocab) {
  if (id >= 0 && static_cast<uint32_t>(id) < vocab) return absl::OkStatus();
  return Refuse(field, id, absl::StrCat("a token id of this model (0..", vocab - 1, ")"));
}

// Written so that NaN is outside every range.
absl::Status CheckRange(absl::string_view field, float value, float low, float high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return Refuse(field, value, absl::StrCat("in [", low, ", ", high, "]"));
}

absl::Status CheckSampling(const SamplingSettings& s, uint32_t vocab) {
  OCTET_RETURN_IF_ERROR(CheckRange("temperature", s.temperature, 0, 100));
  if (s.top_k < 0) return Refuse("top_k", s.top_k, "0 (off) or positive");
  if (!(s.top_p > 0 && s.top_p <= 1)) return Refuse("top_p", s.top_p, "in (0, 1]");
  if (!(s.min_p >= 0 && s.min_p < 1)) return Refuse("min_p", s.min_p, "in [0, 1)");
  if (!(s.repetition_penalty > 0 && s.repetition_penalty <= 10)) {
    return Refuse("repetition_penalty", s.repetition_penalty, "in (0, 10]");
  }
  OCTET_RETURN_IF_ERROR(CheckRange("frequency_penalty", s.frequency_penalty, -2, 2));
  OCTET_RETURN_IF_ERROR(CheckRange("presence_penalty", s.presence_penalty, -2, 2));
  if (s.logit_bias.size() > kLogitBiasMax) {
    return Refuse("logit_bias", absl::StrCat(s.logit_bias.size(), " entries"),
                  absl::StrCat("at most ", kLogitBiasMax));
  }
  for (const auto& [id, bias] : s.logit_bias) {
    OCTET_RETURN_IF_ERROR(CheckId("logit_bias", id, vocab));
    OCTET_RETURN_IF_ERROR(CheckRange("logit_bias", bias, -100, 100));
  }
  return absl::OkStatus();
}

absl::Status CheckStop(const StopSettings& s, uint32_t vocab) {
  if (s.stop_strings.size() > kStopStringsMax) {
    return Refuse("stop", absl::StrCat(s.stop_strings.size(), " strings"),
                  absl::StrCat("at most ", kStopStringsMax));
  }
  for (const std::string& stop : s.stop_strings) {
    if (stop.empty() || stop.size() > kStopStringBytesMax) {
      return Refuse("stop", absl::StrCat("a string of ", stop.size(), " bytes"),
                    absl::StrCat("1 to ", kStopStringBytesMax, " bytes long"));
    }
  }
  if (s.stop_ids.size() > kStopIdsMax) {
    return Refuse("stop_token_ids", absl::StrCat(s.stop_ids.size(), " ids"),
                  absl::StrCat("at most ", kStopIdsMax));
  }
  for (const TokenId id : s.stop_ids) OCTET_RETURN_IF_ERROR(CheckId("stop_token_ids", id, vocab));
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckRequest(const GenerationRequest& request, uint32_t vocab, uint32_t context_max) {
  if (request.prompt.empty()) return Refuse("prompt", "empty", "at least one token");
  if (request.prompt.size() >= context_max) {
    return absl::InvalidArgumentError(absl::StrCat(
        "prompt: ", request.prompt.size(), " tokens leave no room to generate in the context of ",
        context_max, " tokens; at most ", context_max - 1, " are allowed"));
  }
  for (const TokenId id : request.prompt) OCTET_RETURN_IF_ERROR(CheckId("prompt", id, vocab));
  OCTET_RETURN_IF_ERROR(CheckSampling(request.sampling, vocab));
  OCTET_RETURN_IF_ERROR(CheckStop(request.stop, vocab));
  if (request.top_logprobs > kTopLogprobsMax) {
    return Refuse("top_logprobs", request.top_logprobs, absl::StrCat("at most ", kTopLogprobsMax));
  }
  if (request.cache_salt.size() > kCacheSaltBytesMax) {
    return Refuse("cache_salt", absl::StrCat(request.cache_salt.size(), " bytes"),
                  absl::StrCat("at most ", kCacheSaltBytesMax));
  }
  return absl::OkStatus();
}

}  // namespace octet
