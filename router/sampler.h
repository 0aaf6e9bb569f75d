// From logits to the next token. The arithmetic is fixed in docs/numerics.md: equal inputs give the
// same token and the same log-probabilities on every machine.
#ifndef OCTET_ROUTER_SAMPLER_H_
#define OCTET_ROUTER_SAMPLER_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/types/span.h"
#include "core/ids.h"
#include "router/generation.h"

namespace octet {

struct SampleInput {
  absl::Span<const float> logits;    // [vocab], finite
  std::optional<TokenId> best;       // ArgMax(logits), where the caller knows it
  absl::Span<const TokenId> prompt;  // for repetition_penalty
  absl::Span<const TokenId> output;  // generated so far; its length is the token's position
  const SamplingSettings* settings = nullptr;
  // Ids that may not be drawn now (end of sequence and stop ids before min_tokens). Ignored where
  // nothing else would be left.
  absl::Span<const TokenId> forbidden;
  uint32_t choice = 0;  // which of several generations of one request
};

// The steps, in this order: logit_bias; repetition_penalty over prompt and output (a logit l > 0
// becomes l / p, else l * p, once per distinct token); frequency_penalty and presence_penalty over
// the output (l - count * frequency - presence); with temperature 0 the greatest logit, the lowest
// id on ties; else division by the temperature, top_k, top_p, min_p, and a draw keyed by (seed,
// choice, position). Candidates are ordered by logit, greatest first, then by id.
//
// Holds scratch only: a result is a function of the input. One thread.
class Sampler {
 public:
  explicit Sampler(size_t vocab);

  TokenId Sample(const SampleInput& input);

 private:
  struct Candidate {
    float logit;
    TokenId id;
  };

  absl::Span<const float> Adjust(const SampleInput& input);
  TokenId Draw(absl::Span<const float> logits, float greatest, const SamplingSettings& settings,
               double u);
  double TotalWeight(absl::Span<const float> logits, float greatest, float temperature);
  void Take(absl::Span<const float> logits, size_t count);
  // Makes candidates_[0..count) the `count` best, in order.
  void SortPrefix(absl::Span<const float> logits, size_t count);
  size_t MoreToSort() const;

  std::vector<float> adjusted_;   // [vocab]
  std::vector<uint32_t> counts_;  // [vocab], zero between calls
  std::vector<float> weights_;    // [vocab]
  std::vector<float> maxima_;     // of pieces of the logits, and the same to be reordered
  std::vector<float> bounds_;
  std::vector<Candidate> candidates_;  // the best so many of them, up to all
  std::vector<double> mass_;           // [vocab]: weight of the sorted candidates
  size_t sorted_ = 0;
};

// Log-probability of `token` and of the `top` best under softmax(logits), before any bias, penalty,
// temperature or filter. top <= kTopLogprobsMax.
TokenLogprob ComputeLogprob(absl::Span<const float> logits, TokenId token, size_t top);

}  // namespace octet

#endif  // OCTET_ROUTER_SAMPLER_H_
