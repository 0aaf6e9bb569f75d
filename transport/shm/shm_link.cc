#include "transport/shm/shm_link.h"

#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/crc32c.h"
#include "core/log.h"
#include "core/mutex.h"
#include "core/status_macros.h"
#include "rpc/expert_codec.h"
#include "transport/doorbell.h"
#include "transport/shm/arena_allocator.h"
#include "transport/shm/control_socket.h"
#include "transport/shm/segment.h"

namespace octet {
namespace {

constexpr Duration kReopenMin = Duration::Millis(20);
constexpr Duration kReopenMax = Duration::Millis(1'000);

// A dispatch whose reply has not come. Without `done` it is cancelled, and only its place in the
// arena is still in use.
struct Pending {
  DispatchKey key;
  ExpertLink::ReplyFn done;
  WireFormat format;
  size_t reply_rows = 0;
  std::shared_ptr<ReplyPool> pool;
  uint64_t offset = 0;        // in the arena: what the allocator knows
  uint64_t reply_offset = 0;  // in the arena
};

// What the router shares with one worker process, and its own counters.
struct Connection {
  Connection(OwnedFd socket, SharedMemory shared, SharedMemory bell_page, uint64_t arena_bytes)
      : control(std::move(socket)),
        memory(std::move(shared)),
        doorbell(std::move(bell_page)),
        arena(arena_bytes) {}

  ShmSegment& segment() const { return *reinterpret_cast<ShmSegment*>(memory.data()); }
  uint8_t* place(uint64_t offset) const { return ArenaOf(memory.data()) + offset; }
  DoorbellWords* bell() const { return reinterpret_cast<DoorbellWords*>(doorbell.data()); }

  const OwnedFd control;
  const SharedMemory memory;
  const SharedMemory doorbell;  // the worker's
  ArenaAllocator arena;
  uint32_t request_head = 0;
  uint32_t reply_tail = 0;
  std::vector<Pending> pending;
};

// The dispatch's block at `to`: groups, indices, rows. Returns the checksum of the rows.
uint32_t WriteBlock(const ExpertDispatch& dispatch, const ShmBlock& layout, uint8_t* to) {
  const WorkerShare& share = *dispatch.share;
  const WireFormat& format = dispatch.rows.format;
  auto* groups = reinterpret_cast<ShmGroup*>(to);
  uint8_t* indices = to + layout.indices;
  for (size_t g = 0; g < share.groups.size(); ++g) {
    const std::vector<uint32_t>& rows = share.local_rows[g];
    groups[g] = {share.groups[g].expert.value(), static_cast<uint32_t>(rows.size())};
    std::memcpy(indices, rows.data(), rows.size() * sizeof(uint32_t));
    indices += rows.size() * sizeof(uint32_t);
  }
  uint8_t* out = to + layout.rows;
  const QuantizedRows& q = dispatch.rows.q;
  for (const uint32_t row : share.rows) {
    const size_t bytes = format.is_integer() ? q.padded_k : format.RowBytes();
    const void* from = format.is_integer() ? static_cast<const void*>(q.q + row * q.padded_k)
                                           : dispatch.rows.f32.row(row);
    std::memcpy(out, from, bytes);
    out += bytes;
  }
  const size_t scales = format.groups();
  for (size_t i = 0; format.is_integer() && i < share.rows.size(); ++i) {
    std::memcpy(out, q.scales + share.rows[i] * scales, scales * sizeof(float));
    out += scales * sizeof(float);
  }
  return Crc32c(to + layout.rows, static_cast<size_t>(out - (to + layout.rows)));
}

void CopyText(const std::string& from, char* to, size_t bytes) {
  const size_t count = std::min(from.size(), bytes);
  std::memcpy(to, from.data(), count);
  std::memset(to + count, 0, bytes - count);
}

}  // namespace

struct ShmLink::Impl {
  explicit Impl(ShmLinkOptions o) : options(std::move(o)) {}

  // ---- The link's own thread ----
  void Run();
  absl::StatusOr<std::unique_ptr<Connection>> Connect() const;
  // Until the worker's end of the socket closes or the link does.
  void Watch(int control) const;
  void Disconnect(const absl::Status& status) OCTET_EXCLUDES(mu);
  void Pause(Duration length) const;

  // ---- Any thread ----
  absl::Status TrySend(const ExpertDispatch& dispatch, ReplyFn* done) OCTET_REQUIRES(mu);
  void Drain() OCTET_REQUIRES(mu);
  void TakeReply(const ShmReply& entry) OCTET_REQUIRES(mu);
  void Deliver(Pending pending, const ShmReply& entry) OCTET_REQUIRES(mu);

  const ShmLinkOptions options;
  OwnedFd stop;  // an eventfd
  std::atomic<bool> stopping{false};
  std::atomic<bool> connected{false};
  // Callbacks run under it, so that Cancel has nothing to wait for.
  Mutex mu;
  std::unique_ptr<Connection> connection OCTET_GUARDED_BY(mu);
  std::thread thread;
};

absl::StatusOr<std::shared_ptr<ShmDoorbell>> ShmDoorbell::Create() {
  OCTET_ASSIGN_OR_RETURN(SharedMemory memory,
                         SharedMemory::Create("octet-router", kDoorbellPageBytes));
  return std::shared_ptr<ShmDoorbell>(new ShmDoorbell(std::move(memory)));
}

void ShmLink::Impl::Run() {
  Duration pause = kReopenMin;
  while (!stopping) {
    auto made = Connect();
    if (made.ok()) {
      pause = kReopenMin;
      const int control = (*made)->control.get();
      {
        MutexLock lock(mu);
        connection = *std::move(made);
        connected = true;
      }
      Doorbell(options.doorbell->words()).RingNow();
      Watch(control);
      Disconnect(stopping
                     ? absl::CancelledError("the link was closed")
                     : absl::UnavailableError(absl::StrCat("lost the worker at ", options.socket)));
    } else {
      LogDebug("shared memory: ", made.status().ToString());
    }
    if (!stopping) Pause(pause);
    pause = std::min(Duration{pause.ns * 2}, kReopenMax);
  }
}

absl::StatusOr<std::unique_ptr<Connection>> ShmLink::Impl::Connect() const {
  OCTET_ASSIGN_OR_RETURN(OwnedFd control, ConnectControl(options.socket));
  const ShmHello hello{kShmMagic, kShmVersion, 0, options.router.value(), options.incarnation};
  OCTET_RETURN_IF_ERROR(
      SendControl(control.get(), &hello, sizeof(hello), {options.doorbell->memory().fd()}));
  ShmWelcome welcome{};
  OCTET_ASSIGN_OR_RETURN(std::vector<OwnedFd> files,
                         ReceiveControl(control.get(), &welcome, sizeof(welcome), 2,
                                        Duration::Millis(kShmHandshakeMs), stop.get()));
  if (welcome.magic != kShmMagic || welcome.version != kShmVersion ||
      welcome.arena_bytes > kShmArenaBytesMax || welcome.arena_bytes % kShmAlign != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.socket, ": not a worker of this version"));
  }
  OCTET_ASSIGN_OR_RETURN(SharedMemory memory,
                         SharedMemory::Map(std::move(files[0]), SegmentBytes(welcome.arena_bytes)));
  OCTET_ASSIGN_OR_RETURN(SharedMemory doorbell,
                         SharedMemory::Map(std::move(files[1]), kDoorbellPageBytes));
  return std::make_unique<Connection>(std::move(control), std::move(memory), std::move(doorbell),
                                      welcome.arena_bytes);
}

void ShmLink::Impl::Watch(int control) const {
  // The worker sends nothing more: whatever can be read is its end, or a fault.
  pollfd fds[] = {{control, POLLIN | POLLRDHUP, 0}, {stop.get(), POLLIN, 0}};
  while (!stopping && poll(fds, 2, -1) < 0 && errno == EINTR) {
  }
}

void ShmLink::Impl::Pause(Duration length) const {
  pollfd fd{stop.get(), POLLIN, 0};
  (void)poll(&fd, 1, static_cast<int>(length.ns / 1'000'000));
}

void ShmLink::Impl::Disconnect(const absl::Status& status) {
  {
    MutexLock lock(mu);
    Drain();  // what the worker had still answered
    connected = false;
    const std::unique_ptr<Connection> last = std::move(connection);
    for (Pending& pending : last->pending) {
      if (pending.done) pending.done(FailedReply(pending.key, status));
    }
  }
  Doorbell(options.doorbell->words()).RingNow();
}

absl::Status ShmLink::Impl::TrySend(const ExpertDispatch& dispatch, ReplyFn* done) {
  if (connection == nullptr) {
    return absl::UnavailableError(absl::StrCat("not connected to ", options.socket));
  }
  Connection& c = *connection;
  // Answers that nobody has taken yet are no reason to refuse.
  if (c.pending.size() >= kLinkQueuedDispatchesMax) Drain();
  if (c.pending.size() >= kLinkQueuedDispatchesMax) {
    return absl::ResourceExhaustedError(
        absl::StrCat(c.pending.size(), " dispatches to ", options.socket, " are unanswered"));
  }
  const WorkerShare& share = *dispatch.share;
  const WireFormat& format = dispatch.rows.format;
  size_t indices = 0;
  for (const std::vector<uint32_t>& rows : share.local_rows) indices += rows.size();
  const ShmBlock layout = BlockOf(share.groups.size(), indices, share.rows.size(), format);
  const size_t bytes = layout.bytes + ReplyBytes(indices, format);
  std::optional<uint64_t> offset = c.arena.Take(bytes);
  if (!offset.has_value()) {
    Drain();
    offset = c.arena.Take(bytes);
  }
  if (!offset.has_value()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the memory shared with ", options.socket, " is full"));
  }
  ShmRequest request{};
  request.key = ToShmKey(dispatch.key);
  request.epoch = dispatch.epoch.value();
  request.prefill = dispatch.prefill ? 1 : 0;
  request.row_count = static_cast<uint32_t>(share.rows.size());
  request.group_count = static_cast<uint32_t>(share.groups.size());
  request.index_count = static_cast<uint32_t>(indices);
  request.offset = *offset;
  request.reply_offset = *offset + layout.bytes;
  CopyText(*dispatch.compute_digest, request.compute_digest, sizeof(request.compute_digest));
  CopyText(*dispatch.model_version, request.model_version, sizeof(request.model_version));
  request.checksum = WriteBlock(dispatch, layout, c.place(*offset));
  c.pending.push_back({dispatch.key, std::move(*done), format, indices, dispatch.pool, *offset,
                       request.reply_offset});
  c.segment().requests[c.request_head % kShmRingEntries] = request;
  c.segment().request_head.value.store(++c.request_head, std::memory_order_release);
  Doorbell(c.bell()).Ring();
  return absl::OkStatus();
}

void ShmLink::Impl::Drain() {
  if (connection == nullptr) return;
  Connection& c = *connection;
  const uint32_t head = c.segment().reply_head.value.load(std::memory_order_acquire);
  if (head - c.reply_tail > c.pending.size()) {
    LogError("shared memory: the worker at ", options.socket, " answered more than it was asked");
    shutdown(c.control.get(), SHUT_RDWR);  // the link's thread sees it and starts anew
    return;
  }
  while (c.reply_tail != head) {
    ShmReply entry;
    std::memcpy(&entry, &c.segment().replies[c.reply_tail % kShmRingEntries], sizeof(entry));
    c.segment().reply_tail.value.store(++c.reply_tail, std::memory_order_release);
    TakeReply(entry);
  }
}

void ShmLink::Impl::TakeReply(const ShmReply& entry) {
  Connection& c = *connection;
  const DispatchKey key = FromShmKey(entry.key);
  const auto it = std::find_if(c.pending.begin(), c.pending.end(),
                               [&](const Pending& p) { return p.key == key; });
  if (it == c.pending.end()) return;
  Pending pending = std::move(*it);
  c.pending.erase(it);
  const uint64_t offset = pending.offset;
  if (pending.done) Deliver(std::move(pending), entry);
  c.arena.Give(offset);
}

void ShmLink::Impl::Deliver(Pending pending, const ShmReply& entry) {
  ExpertReply reply;
  reply.key = pending.key;
  reply.compute_ns = entry.compute_ns;
  reply.queue_ns = entry.queue_ns;
  reply.ready = {static_cast<int64_t>(entry.published_ns)};
  reply.status = StatusFromDispatchError(
      static_cast<octet::v1::DispatchError>(entry.error),
      std::string(entry.message, strnlen(entry.message, sizeof(entry.message))));
  if (reply.status.ok()) {
    const size_t floats = pending.reply_rows * pending.format.hidden;
    reply.rows = pending.pool != nullptr ? pending.pool->Take(floats) : std::vector<float>(floats);
    std::memcpy(reply.rows.data(), connection->place(pending.reply_offset), floats * sizeof(float));
    // Of the copy: the worker could still write to the original.
    if (Crc32c(reply.rows.data(), floats * sizeof(float)) != entry.checksum) {
      reply.status = absl::DataLossError("reply.checksum: does not fit the rows");
      reply.rows.clear();
    }
  }
  pending.done(std::move(reply));
}

absl::StatusOr<std::shared_ptr<ShmLink>> ShmLink::Create(ShmLinkOptions options) {
  auto impl = std::make_unique<Impl>(std::move(options));
  impl->stop = OwnedFd(eventfd(0, EFD_CLOEXEC));
  if (!impl->stop.open()) return absl::ResourceExhaustedError("no more files can be opened");
  auto link = std::shared_ptr<ShmLink>(new ShmLink(std::move(impl)));
  link->impl_->thread = std::thread([impl = link->impl_.get()] { impl->Run(); });
  return link;
}

ShmLink::ShmLink(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

ShmLink::~ShmLink() {
  impl_->stopping = true;
  eventfd_write(impl_->stop.get(), 1);
  impl_->thread.join();
}

void ShmLink::Send(const ExpertDispatch& dispatch, ReplyFn done) {
  absl::Status status;
  {
    MutexLock lock(impl_->mu);
    status = impl_->TrySend(dispatch, &done);
  }
  if (!status.ok()) done(FailedReply(dispatch.key, status));
}

void ShmLink::Cancel(const DispatchKey& key) {
  MutexLock lock(impl_->mu);
  if (impl_->connection == nullptr) return;
  for (Pending& pending : impl_->connection->pending) {
    if (pending.key == key) pending.done = nullptr;
  }
}

bool ShmLink::connected() const { return impl_->connected; }

void ShmLink::Poll() {
  MutexLock lock(impl_->mu);
  impl_->Drain();
}

}  // namespace octet
