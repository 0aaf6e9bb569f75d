#include "client/stream_state.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "rpc/status_details.h"

namespace octet {

octet::v1::GenerateRequest StreamState::NextRequest() const {
  octet::v1::GenerateRequest next = request_;
  if (!started_.has_value()) return next;
  next.set_request_id(started_->request_id());
  next.mutable_sampling()->set_seed(started_->seed());
  // The limit as resolved: a router with a longer context must not go on past it.
  next.mutable_stop()->set_max_tokens(started_->stop().max_tokens());
  next.set_compute_digest(started_->compute_digest());
  next.set_resume_index(next_index_);
  // The tokens that came spare the router drawing them again. One that was asked to begin later
  // has not sent them all.
  next.clear_resume_token_ids();
  if (tokens_.size() == next_index_) {
    next.mutable_resume_token_ids()->Assign(tokens_.begin(), tokens_.end());
  }
  // The prompt's log-probabilities come with the first chunk, which has been here.
  if (next_index_ > request_.resume_index()) next.clear_prompt_logprobs();
  return next;
}

absl::Status StreamState::Accept(octet::v1::GenerateResponse& event, bool* deliver) {
  *deliver = false;
  if (finished_) return absl::DataLossError("the router sent an event after the last one");
  if (event.has_started()) return AcceptStarted(event.started(), deliver);
  if (!stream_started_) {
    return absl::DataLossError("the router sent a stream that does not begin with `started`");
  }
  if (event.has_chunk()) return AcceptChunk(*event.mutable_chunk(), deliver);
  if (!event.has_finished()) return absl::OkStatus();  // of a newer protocol
  finished_ = true;
  *deliver = true;
  return absl::OkStatus();
}

absl::Status StreamState::AcceptStarted(const octet::v1::Started& started, bool* deliver) {
  if (stream_started_) return absl::DataLossError("the router sent `started` twice");
  stream_started_ = true;
  if (!started_.has_value()) {
    started_ = started;
    next_index_ = request_.resume_index();
    tokens_.assign(request_.resume_token_ids().begin(), request_.resume_token_ids().end());
    *deliver = true;
    return absl::OkStatus();
  }
  if (started.compute_digest() != started_->compute_digest()) {
    return OtherVersionError(started_->compute_digest(), started.compute_digest());
  }
  if (started.seed() != started_->seed() || started.prompt_tokens() != started_->prompt_tokens()) {
    return absl::AbortedError("the stream broke and the router did not resume the same request");
  }
  return absl::OkStatus();
}

absl::Status StreamState::AcceptChunk(octet::v1::Chunk& chunk, bool* deliver) {
  if (chunk.index() != next_index_) {
    return absl::DataLossError(absl::StrCat("the router sent token ", chunk.index(),
                                            " where token ", next_index_, " was due"));
  }
  next_index_ += static_cast<uint32_t>(chunk.token_ids_size());
  tokens_.insert(tokens_.end(), chunk.token_ids().begin(), chunk.token_ids().end());
  // A stream that broke during the prefill begins again with the prompt's first log-probability.
  const int scores = chunk.prompt_logprobs_size();
  const int had = std::clamp(prompt_logprobs_had_ - prompt_logprobs_seen_, 0, scores);
  chunk.mutable_prompt_logprobs()->DeleteSubrange(0, had);
  prompt_logprobs_seen_ += scores;
  prompt_logprobs_had_ = std::max(prompt_logprobs_had_, prompt_logprobs_seen_);
  *deliver = chunk.token_ids_size() > 0 || chunk.prompt_logprobs_size() > 0 || scores == 0;
  return absl::OkStatus();
}

}  // namespace octet
