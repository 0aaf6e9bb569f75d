#include "expert_worker/shm_router.h"

#include <string.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/clock.h"
#include "core/crc32c.h"
#include "core/limits.h"
#include "core/shm_limits.h"
#include "core/status_macros.h"
#include "expert_worker/admission.h"
#include "transport/doorbell.h"
#include "transport/wire_rows.h"

namespace octet {
namespace {

// Bytes [offset, offset + bytes) lie in an arena of `arena` bytes.
bool Inside(uint64_t offset, uint64_t bytes, uint64_t arena) {
  return offset % kShmAlign == 0 && offset <= arena && bytes <= arena - offset;
}

}  // namespace

uint64_t ShmArenaBytes(const DispatchShape& shape) {
  uint64_t block = 0;
  for (const WireFormat& format : shape.formats) {
    block = std::max<uint64_t>(
        block, BlockOf(shape.experts, kDispatchRowsMax * kTopKMax, kDispatchRowsMax, format).bytes);
  }
  return std::min<uint64_t>(AlignShm(2 * block + 2 * kFrameBytesMax), kShmArenaBytesMax);
}

ShmRouter::ShmRouter(SharedMemory segment, uint64_t arena_bytes, SharedMemory doorbell,
                     const ExpertStore* store, const DispatchShape* shape, WorkerLoop* loop)
    : memory_(std::move(segment)),
      arena_bytes_(arena_bytes),
      doorbell_(std::move(doorbell)),
      store_(store),
      shape_(shape),
      loop_(loop) {}

bool ShmRouter::Read() {
  const uint32_t head = segment().request_head.value.load(std::memory_order_acquire);
  if (head == request_tail_) return true;
  if (head - request_tail_ > kShmRingEntries) return false;
  while (head != request_tail_) {
    std::unique_ptr<Call> call;
    {
      MutexLock lock(mu_);
      const uint32_t taken = segment().reply_tail.value.load(std::memory_order_acquire);
      const uint32_t untaken = reply_head_ - taken;
      if (untaken > kShmRingEntries) return false;
      if (running_.size() + untaken >= kStreamDispatchesMax) return true;
      if (!free_.empty()) {
        call = std::move(free_.back());
        free_.pop_back();
      }
    }
    if (call == nullptr) call = std::make_unique<Call>();
    memcpy(&call->request, &segment().requests[request_tail_ % kShmRingEntries],
           sizeof(call->request));
    ++request_tail_;
    Take(std::move(call));
  }
  return true;
}

void ShmRouter::Take(std::unique_ptr<Call> call) {
  Call* const raw = call.get();
  absl::Status status = Admit(*raw);
  MutexLock lock(mu_);
  if (status.ok()) {
    raw->job.abandoned = false;
    raw->job.done = [this, raw] { OnComputed(raw); };
    status = loop_->Submit(&raw->job);
  }
  if (status.ok()) {
    running_.push_back(std::move(call));
    return;
  }
  Answer(*raw, status);
  raw->job.groups.clear();
  free_.push_back(std::move(call));
}

absl::Status ShmRouter::Admit(Call& call) {
  const ShmRequest& r = call.request;
  DispatchView view;
  view.compute_digest =
      absl::string_view(r.compute_digest, strnlen(r.compute_digest, sizeof(r.compute_digest)));
  view.has_key = true;
  view.layer = r.key.layer;
  view.prefill = r.prefill != 0;
  view.row_count = r.row_count;
  view.checksum = r.checksum;
  if (r.key.layer >= shape_->formats.size() || r.row_count == 0 || r.row_count > kDispatchRowsMax) {
    // The place of the rows follows from these. Names what is wrong.
    return AdmitDispatch(view, *store_, *shape_, &call.job);
  }
  if (r.group_count == 0 || r.group_count > shape_->experts || r.index_count == 0 ||
      r.index_count > r.row_count * kTopKMax) {
    return absl::InvalidArgumentError(absl::StrCat(
        "dispatch.experts: ", r.group_count, " entries and ", r.index_count,
        " reply rows, allowed are 1 to ", shape_->experts, " and ", r.row_count * kTopKMax));
  }
  const WireFormat& format = shape_->formats[r.key.layer];
  const ShmBlock layout = BlockOf(r.group_count, r.index_count, r.row_count, format);
  if (!Inside(r.offset, layout.bytes, arena_bytes_) ||
      !Inside(r.reply_offset, ReplyBytes(r.index_count, format), arena_bytes_)) {
    return absl::InvalidArgumentError(absl::StrCat("dispatch: ", layout.bytes, " bytes at ",
                                                   r.offset, " or the reply at ", r.reply_offset,
                                                   " are not in the shared memory"));
  }
  uint8_t* const block = ArenaOf(memory_.data()) + r.offset;
  call.groups.resize(r.group_count);
  call.indices.resize(r.index_count);
  memcpy(call.groups.data(), block, layout.indices);
  memcpy(call.indices.data(), block + layout.indices, r.index_count * sizeof(uint32_t));
  call.views.clear();
  size_t next = 0;
  for (const ShmGroup& group : call.groups) {
    if (group.rows > call.indices.size() - next) break;
    call.views.push_back(
        {group.expert, absl::MakeConstSpan(call.indices).subspan(next, group.rows)});
    next += group.rows;
  }
  if (next != call.indices.size() || call.views.size() != call.groups.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("dispatch.experts: their rows are not the ", r.index_count, " of the reply"));
  }
  view.groups = call.views;
  view.rows =
      absl::MakeSpan(reinterpret_cast<char*>(block + layout.rows), r.row_count * format.RowBytes());
  call.job.reply = reinterpret_cast<float*>(ArenaOf(memory_.data()) + r.reply_offset);
  return AdmitDispatch(view, *store_, *shape_, &call.job);
}

void ShmRouter::OnComputed(Call* call) {
  MutexLock lock(mu_);
  // An abandoned job has groups that were skipped: its status says nothing about them.
  Answer(*call,
         call->job.abandoned ? absl::UnavailableError("the worker stops") : call->job.status);
  call->job.groups.clear();  // lets go of the weights
  const auto it = std::find_if(running_.begin(), running_.end(),
                               [&](const std::unique_ptr<Call>& c) { return c.get() == call; });
  free_.push_back(std::move(*it));
  running_.erase(it);
  changed_.NotifyAll();
}

void ShmRouter::Answer(const Call& call, const absl::Status& status) {
  ShmReply reply{};
  reply.key = call.request.key;
  reply.error = DispatchErrorFromStatus(status);
  if (status.ok()) {
    const ExpertJob& job = call.job;
    const size_t floats = call.request.index_count * job.format.hidden;
    RoundReply(job.format, job.reply, floats);
    reply.checksum = Crc32c(job.reply, floats * sizeof(float));
    reply.compute_ns = job.compute_ns;
    reply.queue_ns = job.queue_ns;
  } else {
    const size_t text = std::min(status.message().size(), sizeof(reply.message) - 1);
    memcpy(reply.message, status.message().data(), text);
  }
  reply.published_ns = static_cast<uint64_t>(SystemClock().Now().ns);
  segment().replies[reply_head_ % kShmRingEntries] = reply;
  segment().reply_head.value.store(++reply_head_, std::memory_order_release);
  Doorbell bell(reinterpret_cast<DoorbellWords*>(doorbell_.data()));
  status.ok() ? bell.Ring() : bell.RingNow();
}

void ShmRouter::Abandon() {
  MutexLock lock(mu_);
  for (const auto& call : running_) call->job.abandoned = true;
}

bool ShmRouter::idle() {
  MutexLock lock(mu_);
  return running_.empty();
}

void ShmRouter::WaitIdle() {
  MutexLock lock(mu_);
  while (!running_.empty()) changed_.Wait(mu_);
}

}  // namespace octet
