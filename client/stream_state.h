// What a client knows of one generation across its streams: what to ask for next, and which events
// are new. Pure.
#ifndef OCTET_CLIENT_STREAM_STATE_H_
#define OCTET_CLIENT_STREAM_STATE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "octet/v1/inference.pb.h"

namespace octet {

// Owned and used by one thread.
class StreamState {
 public:
  explicit StreamState(octet::v1::GenerateRequest request) : request_(std::move(request)) {}

  // The request for the next stream: the original one, or after `started` the same generation from
  // the first token that has not come.
  octet::v1::GenerateRequest NextRequest() const;

  // Takes one event of the present stream and cuts from it what the caller's caller has had; true
  // in *deliver where something is left. OtherVersionError: another model resumed; ABORTED:
  // another seed or request; DATA_LOSS: a gap, or an event out of order.
  absl::Status Accept(octet::v1::GenerateResponse& event, bool* deliver);

  // A new stream begins.
  void BeginStream() {
    stream_started_ = false;
    prompt_logprobs_seen_ = 0;
  }
  bool started() const { return started_.has_value(); }
  bool finished() const { return finished_; }
  uint32_t next_index() const { return next_index_; }

 private:
  absl::Status AcceptStarted(const octet::v1::Started& started, bool* deliver);
  absl::Status AcceptChunk(octet::v1::Chunk& chunk, bool* deliver);

  const octet::v1::GenerateRequest request_;
  std::optional<octet::v1::Started> started_;
  bool stream_started_ = false;  // the present stream has sent `started`
  bool finished_ = false;
  uint32_t next_index_ = 0;
  std::vector<int32_t> tokens_;   // that came, and those that the caller had
  int prompt_logprobs_had_ = 0;   // handed on, over all streams
  int prompt_logprobs_seen_ = 0;  // of the present stream
};

}  // namespace octet

#endif  // OCTET_CLIENT_STREAM_STATE_H_
