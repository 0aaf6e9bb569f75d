// A generation request as the engine sees it, after validation, and what comes back. Free of
// protobuf and gRPC.
#ifndef OCTET_ROUTER_GENERATION_H_
#define OCTET_ROUTER_GENERATION_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "core/clock.h"
#include "core/ids.h"
#include "core/model_config.h"

namespace octet {

// Resolved: every field has its value. Ranges as in proto/octet/v1/inference.proto.
struct SamplingSettings {
  float temperature = 1.0f;
  int32_t top_k = 0;
  float top_p = 1.0f;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;
  float frequency_penalty = 0.0f;
  float presence_penalty = 0.0f;
  std::vector<std::pair<TokenId, float>> logit_bias;  // ascending by id, unique
  uint64_t seed = 0;
};

struct StopSettings {
  uint32_t max_tokens = 0;  // 0: what is left of the context
  uint32_t min_tokens = 0;
  std::vector<std::string> stop_strings;
  std::vector<TokenId> stop_ids;
  bool ignore_eos = false;
};

struct GenerationRequest {
  std::string client_request_id;
  std::vector<TokenId> prompt;  // at least one token
  SamplingSettings sampling;
  StopSettings stop;
  bool logprobs = false;
  uint32_t top_logprobs = 0;
  bool prompt_logprobs = false;
  bool skip_special_tokens = true;
  uint32_t resume_index = 0;  // tokens before it are computed but not sent
  // Those tokens, where the client still has them: read instead of drawn, but for the last one.
  std::vector<TokenId> resume_tokens;  // empty, or resume_index of them
  // Keys and values of the prompt are shared only with requests of the same salt.
  std::string cache_salt;
  MonotonicTime deadline = kNever;

  // Its client was being answered, by a router that is gone. Who has no tokens to show for it has
  // no claim to be served before others.
  bool resumed() const { return !resume_tokens.empty(); }
};

struct TokenLogprob {
  float logprob = 0;
  std::vector<std::pair<TokenId, float>> top;  // best first
};

struct GenerationChunk {
  uint32_t index = 0;
  std::vector<TokenId> token_ids;
  std::string text;
  std::vector<TokenLogprob> logprobs;
  std::vector<TokenLogprob> prompt_logprobs;
};

enum class FinishReason : uint8_t { kStop, kLength };

struct GenerationUsage {
  uint32_t prompt_tokens = 0;
  uint32_t completion_tokens = 0;
  uint32_t cached_tokens = 0;
  uint32_t preemptions = 0;
  double queue_ms = 0;
  double prefill_ms = 0;
  double decode_ms = 0;
};

struct GenerationResult {
  FinishReason reason = FinishReason::kStop;
  std::string stop_match;
  GenerationUsage usage;
};

// Receives one request's output, on the engine's thread; must not block. OnChunk any number of
// times, then exactly one of OnFinished and OnError, then nothing.
class GenerationSink {
 public:
  virtual ~GenerationSink() = default;
  virtual void OnChunk(GenerationChunk chunk) = 0;
  virtual void OnFinished(GenerationResult result) = 0;
  virtual void OnError(absl::Status status) = 0;
};

}  // namespace octet

#endif  // OCTET_ROUTER_GENERATION_H_
