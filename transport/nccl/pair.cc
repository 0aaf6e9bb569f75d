#include "transport/nccl/pair.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/check.h"
#include "core/log.h"
#include "core/status_macros.h"

namespace octet {
namespace {

Duration TimeFor(const NcclPairOptions& options, size_t bytes) {
  return {options.deadlines.transfer.ns +
          Duration::Millis(static_cast<int64_t>(bytes / kNcclBytesPerMsMin)).ns};
}

}  // namespace

absl::StatusOr<NcclWarmRows> TakeWarmRows(RowPool* pool,
                                          const std::array<size_t, kNcclLanes>& warm_bytes,
                                          RowPlace place) {
  NcclWarmRows warm;
  for (size_t i = 0; i < kNcclLanes; ++i) {
    OCTET_RETURN_IF_ERROR(pool->Reserve(warm_bytes[i], kNcclReservedBuffers, place));
    OCTET_ASSIGN_OR_RETURN(warm[i], pool->Take(warm_bytes[i], place));
  }
  return warm;
}

NcclPair::NcclPair(NcclApi* api, NcclPairOptions options, NcclWarmRows warm, NcclPairEvents events)
    : api_(api), options_(options), warm_(std::move(warm)), events_(std::move(events)) {
  const bool router = options_.rank == kNcclRouterRank;
  lanes_[static_cast<size_t>(NcclLane::kDispatch)].sends = router;
  lanes_[static_cast<size_t>(NcclLane::kReply)].sends = !router;
}

NcclPair::~NcclPair() { OCTET_CHECK(!started_ || state_ == NcclPairState::kGone); }

void NcclPair::Submit(NcclLane lane, NcclTransfer transfer) {
  OCTET_CHECK_LE(transfer.wire_bytes, transfer.memory->bytes);
  OCTET_CHECK_LE(transfer.used_bytes, transfer.wire_bytes);
  if (state_ == NcclPairState::kGone) {
    transfer.done(absl::UnavailableError(why_.message()), std::move(transfer.memory));
    return;
  }
  lanes_[static_cast<size_t>(lane)].waiting.push_back(std::move(transfer));
}

bool NcclPair::busy() const {
  if (state_ == NcclPairState::kGone) return false;
  return state_ != NcclPairState::kReady ||
         std::any_of(lanes_.begin(), lanes_.end(), [](const Lane& lane) { return !lane.idle(); });
}

bool NcclPair::Poll(MonotonicTime now) {
  switch (state_) {
    case NcclPairState::kConnecting:
      return Connect(now);
    case NcclPairState::kWarming:
    case NcclPairState::kReady: {
      bool moved = false;
      for (Lane& lane : lanes_) moved = MoveLane(lane, now) || moved;
      if (state_ == NcclPairState::kWarming && now > deadline_) {
        Fail(absl::UnavailableError("NCCL: the first transfer takes too long"));
      }
      return moved;
    }
    case NcclPairState::kClosing:
      return FinishClose(now);
    case NcclPairState::kBroken:
    case NcclPairState::kGone:
      return false;
  }
  return false;
}

void NcclPair::Fail(const absl::Status& why) {
  if (state_ == NcclPairState::kBroken || state_ == NcclPairState::kGone) return;
  state_ = NcclPairState::kBroken;
  why_ = why;
}

void NcclPair::Close(MonotonicTime now) {
  const absl::Status closed = absl::CancelledError("NCCL: the pair was closed");
  if (busy()) return Fail(closed);
  if (state_ != NcclPairState::kReady) return;
  state_ = NcclPairState::kClosing;
  why_ = closed;
  deadline_ = now + options_.deadlines.close;
  for (Lane& lane : lanes_) {
    const NcclResult result = api_->CommFinalize(lane.comm);
    if (result != NcclResult::kOk && result != NcclResult::kInProgress) {
      return Fail(Failed(result, "finalize"));
    }
  }
}

void NcclPair::Extend(Duration time) {
  if (deadline_ != kNever) deadline_ = deadline_ + time;
  for (Lane& lane : lanes_) {
    if (lane.launching.has_value()) lane.launching->deadline = lane.launching->deadline + time;
    for (Running& running : lane.running) running.deadline = running.deadline + time;
  }
}

// ---- Connecting ----

absl::Status NcclPair::Failed(NcclResult result, const char* what) {
  return absl::UnavailableError(absl::StrCat("NCCL: ", what, ": ", api_->ErrorText(result)));
}

absl::StatusOr<NcclResult> NcclPair::StateOf(const Lane& lane) {
  NcclResult state = NcclResult::kOk;
  const NcclResult asked = api_->CommGetAsyncError(lane.comm, &state);
  if (asked != NcclResult::kOk) return Failed(asked, "asking a communicator");
  if (state != NcclResult::kOk && state != NcclResult::kInProgress) {
    return Failed(state, "a communicator");
  }
  return state;
}

void NcclPair::Start(MonotonicTime now) {
  started_ = true;
  deadline_ = now + options_.deadlines.connect;
  for (size_t i = 0; i < kNcclLanes; ++i) {
    const absl::Status status = StartLane(i);
    if (!status.ok()) return Fail(absl::UnavailableError(status.message()));
  }
}

absl::Status NcclPair::StartLane(size_t index) {
  Lane& lane = lanes_[index];
  OCTET_ASSIGN_OR_RETURN(lane.stream, api_->CreateStream());
  OCTET_ASSIGN_OR_RETURN(lane.mark, api_->CreateMark());
  const NcclResult result = api_->CommInitRank(&lane.comm, options_.ids[index], options_.rank);
  if (result == NcclResult::kOk || result == NcclResult::kInProgress) return absl::OkStatus();
  return Failed(result, "making a communicator");
}

bool NcclPair::Connect(MonotonicTime now) {
  if (!started_) {
    Start(now);
    return true;
  }
  for (const Lane& lane : lanes_) {
    const auto state = StateOf(lane);
    if (!state.ok()) {
      Fail(state.status());
      return true;
    }
    if (*state == NcclResult::kInProgress) {
      if (now <= deadline_) return false;
      Fail(absl::UnavailableError("NCCL: the peer does not join the communicator"));
      return true;
    }
  }
  WarmUp();
  return true;
}

void NcclPair::WarmUp() {
  state_ = NcclPairState::kWarming;
  to_warm_ = static_cast<int>(kNcclLanes);
  for (size_t i = 0; i < kNcclLanes; ++i) {
    NcclTransfer first;
    first.memory = std::move(warm_[i]);
    first.wire_bytes = options_.warm_bytes[i];
    first.done = [this](const absl::Status& status, RowPool::Lease) {
      if (!status.ok() || --to_warm_ > 0 || state_ != NcclPairState::kWarming) return;
      state_ = NcclPairState::kReady;
      deadline_ = kNever;
      events_.ready();
    };
    // Before what has been submitted meanwhile.
    lanes_[i].waiting.push_front(std::move(first));
  }
}

// ---- Moving rows ----

bool NcclPair::MoveLane(Lane& lane, MonotonicTime now) {
  bool moved = false;
  while (!lane.running.empty() && api_->Reached(lane.mark, lane.running.front().mark)) {
    NcclTransfer transfer = std::move(lane.running.front().transfer);
    lane.running.pop_front();
    transfer.done(absl::OkStatus(), std::move(transfer.memory));
    moved = true;
  }
  const auto state = StateOf(lane);
  absl::Status status = state.status();
  if (status.ok() && *state == NcclResult::kOk) {
    // NCCL takes the next one only when the last is on its stream.
    if (lane.launching.has_value()) {
      status = AfterLaunch(lane);
      moved = true;
    }
    if (status.ok() && !lane.launching.has_value() && !lane.waiting.empty() &&
        lane.running.size() < kNcclStreamTransfersMax) {
      status = Issue(lane, now);
      moved = true;
    }
  }
  if (!status.ok()) {
    Fail(status);
    return true;
  }
  const Running* const oldest = !lane.running.empty()        ? &lane.running.front()
                                : lane.launching.has_value() ? &*lane.launching
                                                             : nullptr;
  if (oldest != nullptr && state_ == NcclPairState::kReady && now > oldest->deadline) {
    Fail(
        absl::UnavailableError(absl::StrCat("NCCL: ", lane.sends ? "sending " : "receiving ",
                                            oldest->transfer.wire_bytes, " bytes takes too long")));
    return true;
  }
  return moved;
}

absl::Status NcclPair::Issue(Lane& lane, MonotonicTime now) {
  Running next;
  next.transfer = std::move(lane.waiting.front());
  lane.waiting.pop_front();
  const NcclTransfer& transfer = next.transfer;
  const RowMemory memory = *transfer.memory;
  const size_t bytes = transfer.wire_bytes;
  const size_t used = transfer.used_bytes;
  next.deadline = now + TimeFor(options_, bytes);
  lane.launching = std::move(next);
  NcclTransfer& launching = lane.launching->transfer;
  if (launching.fill) {
    OCTET_RETURN_IF_ERROR(launching.fill(api_, lane.stream));
  } else if (lane.sends && memory.host != nullptr && used > 0) {
    OCTET_RETURN_IF_ERROR(api_->Copy(lane.stream, memory.device, memory.host, used));
  }
  const int peer = kNcclRouterRank + kNcclWorkerRank - options_.rank;
  NcclResult result = api_->GroupStart();
  if (result != NcclResult::kOk) return Failed(result, "starting a group");
  const NcclResult called = lane.sends
                                ? api_->Send(memory.device, bytes, peer, lane.comm, lane.stream)
                                : api_->Recv(memory.device, bytes, peer, lane.comm, lane.stream);
  result = api_->GroupEnd();
  if (called != NcclResult::kOk && called != NcclResult::kInProgress) {
    return Failed(called, lane.sends ? "send" : "receive");
  }
  if (result == NcclResult::kInProgress) return absl::OkStatus();
  if (result != NcclResult::kOk) return Failed(result, "ending a group");
  return AfterLaunch(lane);
}

absl::Status NcclPair::AfterLaunch(Lane& lane) {
  Running& now_running = lane.running.emplace_back(*std::move(lane.launching));
  lane.launching.reset();
  const NcclTransfer& transfer = now_running.transfer;
  const RowMemory memory = *transfer.memory;
  now_running.mark = ++lane.marks;
  if (!lane.sends && memory.host != nullptr && transfer.used_bytes > 0) {
    OCTET_RETURN_IF_ERROR(api_->Copy(lane.stream, memory.host, memory.device, transfer.used_bytes));
  }
  return api_->SetMark(lane.stream, lane.mark, now_running.mark);
}

// ---- The end ----

bool NcclPair::FinishClose(MonotonicTime now) {
  for (const Lane& lane : lanes_) {
    const auto state = StateOf(lane);
    if (!state.ok()) {
      Fail(state.status());
      return true;
    }
    if (*state == NcclResult::kInProgress) {
      if (now <= deadline_) return false;
      Fail(absl::CancelledError("NCCL: the pair was closed, and aborted where it stood"));
      return true;
    }
  }
  for (Lane& lane : lanes_) {
    (void)api_->CommDestroy(lane.comm);
    lane.comm = nullptr;
  }
  End();
  return true;
}

void NcclPair::AbortCommunicators() {
  for (Lane& lane : lanes_) {
    if (lane.comm != nullptr) (void)api_->CommAbort(lane.comm);
    lane.comm = nullptr;
  }
}

void NcclPair::End() {
  state_ = NcclPairState::kGone;
  for (Lane& lane : lanes_) {
    // Copies may still be on it, behind what was aborted.
    if (lane.stream != nullptr) (void)api_->Synchronize(lane.stream);
    if (lane.mark != nullptr) api_->DestroyMark(lane.mark);
    if (lane.stream != nullptr) api_->DestroyStream(lane.stream);
  }
  const absl::Status status = absl::UnavailableError(why_.message());
  for (Lane& lane : lanes_) {
    std::vector<NcclTransfer> failed;
    for (Running& running : lane.running) failed.push_back(std::move(running.transfer));
    if (lane.launching.has_value()) failed.push_back(std::move(lane.launching->transfer));
    for (NcclTransfer& transfer : lane.waiting) failed.push_back(std::move(transfer));
    lane.running.clear();
    lane.launching.reset();
    lane.waiting.clear();
    for (NcclTransfer& transfer : failed) transfer.done(status, std::move(transfer.memory));
  }
  events_.gone(why_);
}

void AbortPairs(NcclApi* api, const std::vector<NcclPair*>& pairs) {
  std::vector<NcclPair*> broken;
  for (NcclPair* pair : pairs) {
    if (pair->state() == NcclPairState::kBroken) broken.push_back(pair);
  }
  if (broken.empty()) return;
  // Together: what is on the device may wait for each other.
  (void)api->GroupStart();
  for (NcclPair* pair : broken) pair->AbortCommunicators();
  (void)api->GroupEnd();
  for (NcclPair* pair : broken) {
    LogDebug("NCCL: a pair was aborted: ", pair->why_.ToString());
    pair->End();
  }
}

}  // namespace octet
