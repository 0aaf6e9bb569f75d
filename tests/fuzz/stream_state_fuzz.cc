// What routers send to a client, in any order and over any number of streams: the caller gets one
// `started`, tokens without gaps or repetition and at most one `finished`, or the stream is given
// up with an error.
// Links: octet_client
#include <google/protobuf/stubs/logging.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "client/stream_state.h"
#include "core/check.h"

namespace {

constexpr size_t kEventsMax = 64;

}  // namespace

// The story: [length, event] again and again; length 255 stands for a new stream.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // Text that is not UTF-8 is to be expected here, thousands of times.
  static auto* const logs = google::protobuf::SetLogHandler(nullptr);
  (void)logs;
  octet::StreamState state{octet::v1::GenerateRequest()};
  uint32_t started = 0, finished = 0, tokens = 0;
  state.BeginStream();
  for (size_t i = 0; i < kEventsMax && size > 0; ++i) {
    const size_t length = *data++;
    --size;
    if (length == 255) {
      const octet::v1::GenerateRequest next = state.NextRequest();
      OCTET_CHECK(next.resume_index() == tokens);
      OCTET_CHECK(next.resume_token_ids_size() == 0 ||
                  next.resume_token_ids_size() == static_cast<int>(tokens));
      state.BeginStream();
      continue;
    }
    const size_t bytes = std::min(length, size);
    octet::v1::GenerateResponse event;
    const bool parsed = event.ParseFromArray(data, static_cast<int>(bytes));
    data += bytes;
    size -= bytes;
    if (!parsed) continue;
    bool deliver = false;
    if (!state.Accept(event, &deliver).ok()) return 0;
    if (!deliver) continue;
    started += event.has_started() ? 1 : 0;
    finished += event.has_finished() ? 1 : 0;
    if (event.has_chunk()) {
      OCTET_CHECK(event.chunk().index() == tokens);
      tokens += static_cast<uint32_t>(event.chunk().token_ids_size());
    }
    OCTET_CHECK(started == 1 && finished <= 1);
    OCTET_CHECK(state.next_index() == tokens);
  }
  return 0;
}
