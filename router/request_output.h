// What a request's tokens become on their way out: text, stop conditions, chunks.
#ifndef OCTET_ROUTER_REQUEST_OUTPUT_H_
#define OCTET_ROUTER_REQUEST_OUTPUT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "core/ids.h"
#include "model/tokenizer/tokenizer.h"
#include "router/generation.h"
#include "router/stop_matcher.h"

namespace octet {

// A pure function of the request's stop settings and the tokens so far. An end-of-sequence or stop
// id is counted and sent as a token but gives no text. Tokens before resume_index are computed with
// and not sent, text that they complete included; so the text of a resumed stream goes on exactly
// where the chunks before it ended. Owned and used by one thread.
class RequestOutput {
 public:
  struct Step {
    std::optional<GenerationChunk> chunk;  // empty before resume_index
    std::optional<FinishReason> finish;
  };

  // `tokenizer` outlives it. `tokens_max` is at least one.
  RequestOutput(const Tokenizer* tokenizer, const StopSettings& stop,
                const std::vector<TokenId>& eos_ids, bool skip_special_tokens,
                uint32_t resume_index, uint32_t tokens_max);

  // Ids that must not be drawn for the next token.
  absl::Span<const TokenId> forbidden() const;
  // Takes the next token. `logprob` goes into the chunk where it is set.
  Step OnToken(TokenId token, std::optional<TokenLogprob> logprob);

  uint32_t tokens() const { return tokens_; }
  // The stop string that ended the text, else empty.
  std::string stop_match() const;

 private:
  std::string TextOf(TokenId token, bool ends);

  const uint32_t tokens_min_;
  const uint32_t tokens_max_;
  const uint32_t resume_index_;
  std::vector<TokenId> ending_ids_;  // ascending, unique
  StreamDecoder decoder_;
  StopMatcher matcher_;
  uint32_t tokens_ = 0;
};

}  // namespace octet

#endif  // OCTET_ROUTER_REQUEST_OUTPUT_H_
