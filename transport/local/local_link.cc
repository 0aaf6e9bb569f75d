#include "transport/local/local_link.h"

#include <utility>

#include "core/clock.h"

namespace octet {
void LocalLink::Send(const ExpertDispatch& dispatch, ReplyFn done) {
  const WorkerShare& share = *dispatch.share;
  const size_t hidden = dispatch.rows.format.hidden;
  ExpertReply reply;
  reply.key = dispatch.key;
  size_t reply_rows = 0;
  for (const ExpertGroup& group : share.groups) reply_rows += group.rows.size();
  const size_t floats = reply_rows * hidden;
  reply.rows = dispatch.pool ? dispatch.pool->Take(floats) : std::vector<float>(floats);

  ExpertInput input;
  input.f32 = dispatch.rows.f32;
  input.q = dispatch.rows.q;
  const MonotonicTime start = SystemClock().Now();
  size_t row = 0;
  for (const ExpertGroup& group : share.groups) {
    const TensorF32 out(reply.rows.data() + row * hidden, group.rows.size(), hidden);
    reply.status = fn_(dispatch.key.layer, group.expert, input, group.rows, out);
    if (!reply.status.ok()) break;
    row += group.rows.size();
  }
  if (!reply.status.ok()) {
    reply.rows.clear();
  } else {
    RoundReply(dispatch.rows.format, reply.rows.data(), floats);
  }
  reply.compute_ns = static_cast<uint64_t>((SystemClock().Now() - start).ns);
  done(std::move(reply));
}

}  // namespace octet
