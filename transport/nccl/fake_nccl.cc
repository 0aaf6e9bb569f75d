#include "transport/nccl/fake_nccl.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace octet {
namespace {

// Times a communicator is asked before what was issued is on its stream.
constexpr int kLaunchPolls = 2;
// What fresh memory holds: nobody may count on zeros.
constexpr int kGarbage = 0xcd;

// An abstract name, so that nothing is left in the file system.
sockaddr_un AddressOf(const std::string& name) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::copy_n(name.data(), std::min(name.size(), sizeof(address.sun_path) - 2),
              address.sun_path + 1);
  return address;
}

OwnedFd NewSocket() {
  return OwnedFd(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
}

bool TryAgain() { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }

}  // namespace

struct FakeNccl::Comm {
  OwnedFd socket;
  std::string name;  // of the id that it waits to be called by; empty for the one that calls
  int rank = 0;
  bool greeted = false;  // has sent its rank
  bool ready = false;    // knows its peer's
  bool finalizing = false;
  NcclResult error = NcclResult::kOk;
  int launch_polls = 0;
  std::vector<Op> launching;
};

struct FakeNccl::Stream {
  std::deque<Op> ops;
};

struct FakeNccl::Mark {
  uint32_t value = 0;
};

FakeNccl::FakeNccl() = default;
FakeNccl::~FakeNccl() = default;

void FakeNccl::SetFaults(const FakeNcclFaults& faults) {
  MutexLock lock(mu_);
  faults_ = faults;
}

FakeNcclCounts FakeNccl::counts() {
  MutexLock lock(mu_);
  FakeNcclCounts counts = counts_;
  counts.comms = static_cast<int>(comms_.size());
  counts.streams = static_cast<int>(streams_.size());
  counts.marks = static_cast<int>(marks_.size());
  return counts;
}

void FakeNccl::Die() {
  MutexLock lock(mu_);
  DieLocked();
}

void FakeNccl::DieLocked() {
  dead_ = true;
  for (auto& [handle, comm] : comms_) comm->socket = OwnedFd();
  listeners_.clear();
}

void FakeNccl::Rule(bool kept) {
  if (!kept) ++counts_.violations;
}

void FakeNccl::OneThread() {
  if (caller_ == std::thread::id()) caller_ = std::this_thread::get_id();
  Rule(caller_ == std::this_thread::get_id());
}

// ---- NCCL ----

NcclResult FakeNccl::GetVersion(int* version) {
  MutexLock lock(mu_);
  *version = faults_.version;
  return NcclResult::kOk;
}

NcclResult FakeNccl::GetUniqueId(NcclUniqueId* id) {
  MutexLock lock(mu_);
  const std::string name = absl::StrCat("octet-fake-nccl-", getpid(), "-",
                                        reinterpret_cast<uintptr_t>(this), "-", ++ids_);
  *id = {};
  std::copy(name.begin(), name.end(), id->bytes);
  OwnedFd listener = NewSocket();
  const sockaddr_un address = AddressOf(name);
  if (bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      listen(listener.get(), 1) != 0) {
    return NcclResult::kSystemError;
  }
  listeners_[name] = std::move(listener);
  return NcclResult::kOk;
}

NcclResult FakeNccl::CommInitRank(NcclComm* comm, const NcclUniqueId& id, int rank) {
  MutexLock lock(mu_);
  OneThread();
  if (faults_.init_error != NcclResult::kOk) return faults_.init_error;
  auto made = std::make_unique<Comm>();
  made->rank = rank;
  const std::string name(id.bytes, strnlen(id.bytes, sizeof(id.bytes)));
  if (listeners_.count(name) != 0) {
    made->name = name;
  } else {
    made->socket = NewSocket();
    const sockaddr_un address = AddressOf(name);
    if (connect(made->socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) !=
        0) {
      made->error = NcclResult::kSystemError;
    }
  }
  *comm = made.get();
  comms_[made.get()] = std::move(made);
  return NcclResult::kInProgress;
}

NcclResult FakeNccl::CommGetAsyncError(NcclComm comm, NcclResult* state) {
  MutexLock lock(mu_);
  OneThread();
  const auto found = comms_.find(comm);
  Rule(found != comms_.end());
  if (found == comms_.end()) return NcclResult::kInvalidArgument;
  Comm& c = *found->second;
  PumpComm(&c);
  Pump();
  if (!c.launching.empty() && !faults_.launches_hang && --c.launch_polls <= 0) {
    for (Op& op : c.launching) op.stream->ops.push_back(op);
    c.launching.clear();
    Pump();
  }
  if (faults_.async_error != NcclResult::kOk) c.error = faults_.async_error;
  if (c.error != NcclResult::kOk) {
    *state = c.error;
  } else {
    const bool waits = !c.ready || !c.launching.empty() || (c.finalizing && faults_.finalize_hangs);
    *state = waits ? NcclResult::kInProgress : NcclResult::kOk;
  }
  return NcclResult::kOk;
}

NcclResult FakeNccl::CommFinalize(NcclComm comm) {
  MutexLock lock(mu_);
  OneThread();
  Rule(comms_.count(comm) != 0 && comms_[comm]->ready && comms_[comm]->launching.empty());
  comms_[comm]->finalizing = true;
  return NcclResult::kInProgress;
}

NcclResult FakeNccl::CommDestroy(NcclComm comm) {
  MutexLock lock(mu_);
  OneThread();
  Rule(comms_.count(comm) != 0 && comms_[comm]->finalizing && !faults_.finalize_hangs);
  comms_.erase(comm);
  ++counts_.destroyed;
  return NcclResult::kOk;
}

NcclResult FakeNccl::CommAbort(NcclComm comm) {
  MutexLock lock(mu_);
  OneThread();
  const auto found = comms_.find(comm);
  Rule(found != comms_.end());
  if (found == comms_.end()) return NcclResult::kInvalidArgument;
  listeners_.erase(found->second->name);
  // Whatever ran is over; what was behind it on the stream goes on.
  for (auto& [handle, stream] : streams_) {
    std::erase_if(stream->ops, [&](const Op& op) { return op.comm == found->second.get(); });
  }
  comms_.erase(found);
  ++counts_.aborted;
  group_aborts_ = true;
  if (group_depth_ == 0) {
    group_aborts_ = false;
    ++counts_.abort_groups;
  }
  return NcclResult::kOk;
}

NcclResult FakeNccl::GroupStart() {
  MutexLock lock(mu_);
  OneThread();
  ++group_depth_;
  return NcclResult::kOk;
}

NcclResult FakeNccl::GroupEnd() {
  MutexLock lock(mu_);
  OneThread();
  Rule(group_depth_ > 0);
  if (--group_depth_ > 0) return NcclResult::kOk;
  if (group_aborts_) ++counts_.abort_groups;
  group_aborts_ = false;
  for (const Op& op : group_) {
    op.comm->launching.push_back(op);
    op.comm->launch_polls = kLaunchPolls;
  }
  const bool any = !group_.empty();
  group_.clear();
  return any ? NcclResult::kInProgress : NcclResult::kOk;
}

NcclResult FakeNccl::AddToGroup(Op op) {
  OneThread();
  const Comm& comm = *op.comm;
  const bool kept = comm.ready && comm.launching.empty() && !comm.finalizing &&
                    comm.error == NcclResult::kOk && group_depth_ == 1;
  Rule(kept);
  if (!kept) return NcclResult::kInvalidArgument;
  group_.push_back(op);
  return NcclResult::kOk;
}

NcclResult FakeNccl::Send(const void* from, size_t bytes, int peer, NcclComm comm,
                          NcclStream stream) {
  MutexLock lock(mu_);
  Rule(comms_.count(comm) != 0 && streams_.count(stream) != 0 && comms_[comm]->rank == 1 - peer);
  Op op;
  op.kind = Kind::kSend;
  op.from = static_cast<const uint8_t*>(from);
  op.bytes = bytes;
  op.header = static_cast<uint64_t>(static_cast<int64_t>(bytes) + faults_.send_more_bytes);
  op.comm = static_cast<Comm*>(comm);
  op.stream = static_cast<Stream*>(stream);
  return AddToGroup(op);
}

NcclResult FakeNccl::Recv(void* to, size_t bytes, int peer, NcclComm comm, NcclStream stream) {
  MutexLock lock(mu_);
  Rule(comms_.count(comm) != 0 && streams_.count(stream) != 0 && comms_[comm]->rank == 1 - peer);
  Op op;
  op.kind = Kind::kRecv;
  op.to = static_cast<uint8_t*>(to);
  op.bytes = bytes;
  op.comm = static_cast<Comm*>(comm);
  op.stream = static_cast<Stream*>(stream);
  return AddToGroup(op);
}

std::string FakeNccl::ErrorText(NcclResult result) {
  return absl::StrCat("fake error ", static_cast<int>(result));
}

// ---- What moves by itself ----

void FakeNccl::PumpComm(Comm* comm) {
  if (dead_ || comm->ready || faults_.init_hangs || comm->error != NcclResult::kOk) return;
  if (!comm->name.empty() && !comm->socket.open()) {
    const int peer =
        accept4(listeners_[comm->name].get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (peer < 0) return;
    comm->socket = OwnedFd(peer);
    listeners_.erase(comm->name);
  }
  const char mine = static_cast<char>('0' + comm->rank);
  if (!comm->greeted) comm->greeted = send(comm->socket.get(), &mine, 1, MSG_NOSIGNAL) == 1;
  char theirs = 0;
  const ssize_t got = recv(comm->socket.get(), &theirs, 1, 0);
  if (got == 0) OnPeerGone(comm);
  if (got != 1) return;
  comm->ready = theirs == static_cast<char>('0' + 1 - comm->rank);
  if (!comm->ready) comm->error = NcclResult::kInvalidUsage;
}

void FakeNccl::Pump() {
  for (auto& [handle, stream] : streams_) {
    while (!stream->ops.empty() && Advance(&stream->ops.front())) stream->ops.pop_front();
  }
}

bool FakeNccl::Advance(Op* op) {
  switch (op->kind) {
    case Kind::kCopy:
      std::memmove(op->to, op->from, op->bytes);
      return true;
    case Kind::kGather:
      for (size_t i = 0; i < op->count; ++i) {
        std::memcpy(op->to + i * op->bytes, op->from + op->rows[i] * op->bytes, op->bytes);
      }
      return true;
    case Kind::kMark:
      op->mark->value = op->value;
      return true;
    case Kind::kSend:
    case Kind::kRecv:
      break;
  }
  if (dead_ || faults_.transfers_hang || op->comm->error != NcclResult::kOk) return false;
  const bool ended = op->kind == Kind::kSend ? AdvanceSend(op) : AdvanceRecv(op);
  if (ended) ++counts_.transfers;
  return ended;
}

size_t FakeNccl::Push(Comm* comm, const void* from, size_t bytes) {
  const ssize_t put = send(comm->socket.get(), from, bytes, MSG_NOSIGNAL);
  if (put < 0 && !TryAgain()) OnPeerGone(comm);
  return put > 0 ? static_cast<size_t>(put) : 0;
}

size_t FakeNccl::Pull(Comm* comm, void* to, size_t bytes) {
  const ssize_t got = recv(comm->socket.get(), to, bytes, 0);
  if (got == 0 || (got < 0 && !TryAgain())) OnPeerGone(comm);
  return got > 0 ? static_cast<size_t>(got) : 0;
}

bool FakeNccl::AdvanceSend(Op* op) {
  if (op->header_moved < sizeof(op->header)) {
    op->header_moved +=
        Push(op->comm, reinterpret_cast<const char*>(&op->header) + op->header_moved,
             sizeof(op->header) - op->header_moved);
    if (op->header_moved < sizeof(op->header)) return false;
  }
  while (op->moved < op->bytes) {
    size_t next = op->bytes - op->moved;
    if (faults_.die_after_bytes >= 0) {
      const int64_t left = faults_.die_after_bytes - sent_bytes_;
      if (left <= 0) {
        DieLocked();
        return false;
      }
      next = std::min(next, static_cast<size_t>(left));
    }
    const size_t put = Push(op->comm, op->from + op->moved, next);
    if (put == 0) return false;
    op->moved += put;
    sent_bytes_ += static_cast<int64_t>(put);
  }
  return true;
}

bool FakeNccl::AdvanceRecv(Op* op) {
  if (op->header_moved < sizeof(op->header)) {
    op->header_moved += Pull(op->comm, reinterpret_cast<char*>(&op->header) + op->header_moved,
                             sizeof(op->header) - op->header_moved);
    if (op->header_moved < sizeof(op->header)) return false;
  }
  // The real one waits for bytes that never come, or writes over what it should not.
  if (op->header != op->bytes) return false;
  while (op->moved < op->bytes) {
    const size_t got = Pull(op->comm, op->to + op->moved, op->bytes - op->moved);
    if (got == 0) return false;
    op->moved += got;
  }
  return true;
}

void FakeNccl::OnPeerGone(Comm* comm) {
  if (!faults_.deaths_are_silent && !dead_) comm->error = NcclResult::kRemoteError;
}

// ---- The device ----

absl::Status FakeNccl::UseDevice(int device) {
  return device == 0 ? absl::OkStatus() : absl::NotFoundError("fake device: only 0 exists");
}

absl::StatusOr<void*> FakeNccl::NewMemory(size_t bytes) {
  MutexLock lock(mu_);
  ++counts_.allocations;
  void* const memory = ::operator new(bytes);
  std::memset(memory, kGarbage, bytes);
  return memory;
}

void FakeNccl::FreeMemory(void* memory) {
  MutexLock lock(mu_);
  --counts_.allocations;
  ::operator delete(memory);
}

absl::StatusOr<void*> FakeNccl::Allocate(size_t bytes) { return NewMemory(bytes); }
void FakeNccl::Release(void* memory) { FreeMemory(memory); }
absl::StatusOr<void*> FakeNccl::AllocateHost(size_t bytes) { return NewMemory(bytes); }
void FakeNccl::ReleaseHost(void* host_memory) { FreeMemory(host_memory); }

absl::StatusOr<NcclStream> FakeNccl::CreateStream() {
  MutexLock lock(mu_);
  auto stream = std::make_unique<Stream>();
  Stream* const raw = stream.get();
  streams_[raw] = std::move(stream);
  return static_cast<NcclStream>(raw);
}

void FakeNccl::DestroyStream(NcclStream stream) {
  MutexLock lock(mu_);
  Rule(streams_.count(stream) != 0 && streams_[stream]->ops.empty());
  streams_.erase(stream);
}

absl::Status FakeNccl::Copy(NcclStream stream, void* to, const void* from, size_t bytes) {
  MutexLock lock(mu_);
  Op op;
  op.to = static_cast<uint8_t*>(to);
  op.from = static_cast<const uint8_t*>(from);
  op.bytes = bytes;
  streams_[stream]->ops.push_back(op);
  return absl::OkStatus();
}

absl::Status FakeNccl::GatherRows(NcclStream stream, const void* from, size_t row_bytes,
                                  const uint32_t* rows, size_t count, void* to) {
  MutexLock lock(mu_);
  Rule(row_bytes % 4 == 0);
  Op op;
  op.kind = Kind::kGather;
  op.to = static_cast<uint8_t*>(to);
  op.from = static_cast<const uint8_t*>(from);
  op.bytes = row_bytes;
  op.rows = rows;
  op.count = count;
  streams_[stream]->ops.push_back(op);
  return absl::OkStatus();
}

absl::Status FakeNccl::Synchronize(NcclStream stream) {
  MutexLock lock(mu_);
  Pump();
  // The real one would never return.
  Rule(streams_[stream]->ops.empty());
  return absl::OkStatus();
}

absl::StatusOr<NcclMark> FakeNccl::CreateMark() {
  MutexLock lock(mu_);
  auto mark = std::make_unique<Mark>();
  Mark* const raw = mark.get();
  marks_[raw] = std::move(mark);
  return static_cast<NcclMark>(raw);
}

void FakeNccl::DestroyMark(NcclMark mark) {
  MutexLock lock(mu_);
  Rule(marks_.count(mark) != 0);
  marks_.erase(mark);
}

absl::Status FakeNccl::SetMark(NcclStream stream, NcclMark mark, uint32_t value) {
  MutexLock lock(mu_);
  Op op;
  op.kind = Kind::kMark;
  op.mark = static_cast<Mark*>(mark);
  op.value = value;
  streams_[stream]->ops.push_back(op);
  return absl::OkStatus();
}

bool FakeNccl::Reached(NcclMark mark, uint32_t value) {
  MutexLock lock(mu_);
  Pump();
  return static_cast<Mark*>(mark)->value >= value;
}

}  // namespace octet
