#include "router/request_output.h"

#include <algorithm>
#include <utility>

namespace octet {

RequestOutput::RequestOutput(const Tokenizer* tokenizer, const StopSettings& stop,
                             const std::vector<TokenId>& eos_ids, bool skip_special_tokens,
                             uint32_t resume_index, uint32_t tokens_max)
    : tokens_min_(stop.min_tokens),
      tokens_max_(tokens_max),
      resume_index_(resume_index),
      ending_ids_(stop.stop_ids),
      decoder_(tokenizer, skip_special_tokens),
      matcher_(stop.stop_strings) {
  if (!stop.ignore_eos) ending_ids_.insert(ending_ids_.end(), eos_ids.begin(), eos_ids.end());
  std::sort(ending_ids_.begin(), ending_ids_.end());
  ending_ids_.erase(std::unique(ending_ids_.begin(), ending_ids_.end()), ending_ids_.end());
}

absl::Span<const TokenId> RequestOutput::forbidden() const {
  if (tokens_ >= tokens_min_) return {};
  return ending_ids_;
}

std::string RequestOutput::stop_match() const {
  return matcher_.match() == nullptr ? "" : *matcher_.match();
}

// The text that `token` completes. `ends`: it is an ending id, which has no text of its own.
std::string RequestOutput::TextOf(TokenId token, bool ends) {
  const std::string decoded = ends ? decoder_.Flush() : decoder_.Append(token);
  return tokens_ < tokens_min_ ? matcher_.AppendUnmatched(decoded) : matcher_.Append(decoded);
}

RequestOutput::Step RequestOutput::OnToken(TokenId token, std::optional<TokenLogprob> logprob) {
  const uint32_t index = tokens_++;
  // An ending id before min_tokens comes only where nothing else could be drawn.
  const bool ends = std::binary_search(ending_ids_.begin(), ending_ids_.end(), token);
  std::string text = TextOf(token, ends);
  Step step;
  if (ends || matcher_.match() != nullptr) {
    step.finish = FinishReason::kStop;
  } else if (tokens_ >= tokens_max_) {
    step.finish = FinishReason::kLength;
    text += matcher_.Append(decoder_.Flush());
    if (matcher_.match() != nullptr) step.finish = FinishReason::kStop;
  }
  if (step.finish.has_value() && matcher_.match() == nullptr) text += matcher_.Flush();
  if (index < resume_index_) return step;
  step.chunk.emplace();
  step.chunk->index = index;
  step.chunk->token_ids.push_back(token);
  step.chunk->text = std::move(text);
  if (logprob.has_value()) step.chunk->logprobs.push_back(*std::move(logprob));
  return step;
}

}  // namespace octet
