#include "transport/nccl/nccl_link.h"

#include <grpcpp/alarm.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <deque>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/clock.h"
#include "core/limits.h"
#include "core/log.h"
#include "core/mutex.h"
#include "core/nccl_limits.h"
#include "core/status_macros.h"
#include "octet/v1/expert.grpc.pb.h"
#include "rpc/expert_codec.h"
#include "rpc/status_details.h"
#include "transport/nccl/nccl_message.h"
#include "transport/nccl/outgoing_rows.h"

namespace octet {
namespace {

using octet::v1::NcclFromRouter;
using octet::v1::NcclFromWorker;

constexpr Duration kReopenMin = Duration::Millis(kNcclReopenMsMin);
constexpr Duration kReopenMax = Duration::Millis(kNcclReopenMsMax);
constexpr size_t kReplyLane = static_cast<size_t>(NcclLane::kReply);
constexpr size_t kDispatchLane = static_cast<size_t>(NcclLane::kDispatch);

// A dispatch whose reply has not been delivered.
struct Pending {
  DispatchKey key;
  ExpertLink::ReplyFn done;
  WireFormat format;
  size_t reply_rows = 0;
  bool prefill = false;
  bool on_device = false;  // the reply's rows stay there
  std::shared_ptr<ReplyPool> pool;
  std::shared_ptr<Gathering> gathering;  // of rows on the device, else null

  // Its rows may go: what has not been gathered yet never is.
  void LetGo() const {
    if (gathering != nullptr) gathering->wanted = false;
  }
};

// A reply that is all here, and waits for Poll.
struct Arrived {
  octet::v1::DispatchReply head;
  absl::Status status;
  RowPool::Lease rows;    // null for a refusal
  size_t used_bytes = 0;  // of them
  bool unchecked = false;
  MonotonicTime at;
};

}  // namespace

// State that outlives the link as long as gRPC or the device's thread may still call back.
class NcclLink::Core : public std::enable_shared_from_this<NcclLink::Core> {
 public:
  Core(NcclLinkOptions options, NcclDeviceThread* device, std::shared_ptr<grpc::Channel> channel,
       int nccl_version)
      : options_(std::move(options)),
        device_(device),
        nccl_version_(nccl_version),
        channel_(std::move(channel)),
        stub_(octet::v1::ExpertNccl::NewStub(channel_)) {}

  void Open() OCTET_EXCLUDES(mu_);
  void Close() OCTET_EXCLUDES(mu_);
  void Send(const ExpertDispatch& dispatch, ReplyFn done) OCTET_EXCLUDES(mu_);
  void Cancel(const DispatchKey& key) OCTET_EXCLUDES(mu_);
  void Poll() OCTET_EXCLUDES(mu_);
  bool connected() const { return connected_; }

  // Called by the stream, on threads of gRPC.
  void OnWritten(Stream* stream) OCTET_EXCLUDES(mu_);
  void OnMessage(Stream* stream, NcclFromWorker& message) OCTET_EXCLUDES(mu_);
  void OnReadsEnded(Stream* stream) OCTET_EXCLUDES(mu_);
  void OnStreamDone(const grpc::Status& status) OCTET_EXCLUDES(mu_);

 private:
  using Message = std::unique_ptr<NcclFromRouter>;

  // Called by the pair of connection `serial`, on the device's thread.
  void OnPairReady(uint64_t serial) OCTET_EXCLUDES(mu_);
  void OnPairGone(uint64_t serial, const absl::Status& why) OCTET_EXCLUDES(mu_);
  void OnReceived(Arrived arrived) OCTET_EXCLUDES(mu_);

  absl::Status CheckSend() const OCTET_REQUIRES(mu_);
  void WriteNext() OCTET_REQUIRES(mu_);
  // Of OnMessage. Take memory without the lock: an allocation may wait for what is on the device,
  // and the device's thread, which ends that, for the lock.
  absl::Status TakeWelcome(Stream* stream, const octet::v1::NcclWelcome& welcome)
      OCTET_EXCLUDES(mu_);
  absl::Status TakeReply(Stream* stream, NcclFromWorker& message) OCTET_EXCLUDES(mu_);
  absl::StatusOr<RowPlace> PlanReply(uint64_t transfer_bytes, Arrived* arrived) OCTET_REQUIRES(mu_);
  void AddArrived(Arrived arrived) OCTET_REQUIRES(mu_);
  void Drain() OCTET_REQUIRES(mu_);
  void Deliver(Arrived arrived) OCTET_REQUIRES(mu_);
  // Ends the present connection, unless it has ended already, and fails what is in flight.
  void Break(const absl::Status& why) OCTET_REQUIRES(mu_);
  void FailPending(const absl::Status& why) OCTET_REQUIRES(mu_);
  void OpenLater() OCTET_REQUIRES(mu_);
  void RingNow() const {
    if (options_.doorbell != nullptr) Doorbell(options_.doorbell.get()).RingNow();
  }

  const NcclLinkOptions options_;  // without its device
  // The link's. Not used after Close: the last to hold the core may be that thread itself.
  NcclDeviceThread* const device_;
  const int nccl_version_;

  // Callbacks run under it, so that Cancel has nothing to wait for.
  mutable Mutex mu_;
  CondVar changed_;
  std::shared_ptr<grpc::Channel> channel_ OCTET_GUARDED_BY(mu_);
  std::unique_ptr<octet::v1::ExpertNccl::Stub> stub_ OCTET_GUARDED_BY(mu_);
  uint64_t serial_ OCTET_GUARDED_BY(mu_) = 0;       // of the present connection
  int streams_ OCTET_GUARDED_BY(mu_) = 0;           // that gRPC has not let go of
  Stream* stream_ OCTET_GUARDED_BY(mu_) = nullptr;  // null while none takes writes; owns itself
  std::shared_ptr<NcclPair> pair_ OCTET_GUARDED_BY(mu_);  // null before it is made and when gone
  std::array<NcclSizes, kNcclLanes> sizes_ OCTET_GUARDED_BY(mu_){};
  // Changes under mu_. Read without it: who asks may hold a lock that callbacks, which run under
  // mu_, take too.
  std::atomic<bool> connected_{false};
  bool broken_ OCTET_GUARDED_BY(mu_) = false;
  bool closed_ OCTET_GUARDED_BY(mu_) = false;
  Duration pause_ OCTET_GUARDED_BY(mu_) = kReopenMin;
  std::unique_ptr<grpc::Alarm> alarm_ OCTET_GUARDED_BY(mu_);
  std::vector<Pending> pending_ OCTET_GUARDED_BY(mu_);
  std::deque<Arrived> arrived_ OCTET_GUARDED_BY(mu_);
  std::deque<Message> queue_ OCTET_GUARDED_BY(mu_);
  Message writing_ OCTET_GUARDED_BY(mu_);
  std::vector<Message> free_ OCTET_GUARDED_BY(mu_);  // messages with memory to use again
};

class NcclLink::Stream final : public grpc::ClientBidiReactor<NcclFromRouter, NcclFromWorker> {
 public:
  explicit Stream(std::shared_ptr<Core> core) : core_(std::move(core)) {
    // The channel paces its own attempts to connect; the stream waits for it.
    context_.set_wait_for_ready(true);
  }

  void Start(octet::v1::ExpertNccl::Stub* stub) {
    stub->async()->Control(&context_, this);
    // Writes start outside of reactions, until the first failed read.
    AddHold();
    StartRead(&message_);
    StartCall();
  }
  void TryCancel() { context_.TryCancel(); }

  void OnWriteDone(bool ok) override {
    if (ok) core_->OnWritten(this);
  }
  void OnReadDone(bool ok) override {
    if (!ok) {
      core_->OnReadsEnded(this);
      context_.TryCancel();
      RemoveHold();
      return;
    }
    core_->OnMessage(this, message_);
    StartRead(&message_);
  }
  void OnDone(const grpc::Status& status) override {
    const std::shared_ptr<Core> core = core_;
    delete this;
    core->OnStreamDone(status);
  }

 private:
  const std::shared_ptr<Core> core_;
  grpc::ClientContext context_;
  NcclFromWorker message_;
};

// ---- Connecting ----

void NcclLink::Core::Open() {
  MutexLock lock(mu_);
  if (closed_) return;
  ++serial_;
  ++streams_;
  broken_ = false;
  writing_.reset();
  stream_ = new Stream(shared_from_this());
  stream_->Start(stub_.get());
  auto message = std::make_unique<NcclFromRouter>();
  octet::v1::NcclHello* const hello = message->mutable_hello();
  hello->set_version(kNcclProtocolVersion);
  hello->set_router(options_.router.value());
  hello->set_incarnation(options_.incarnation);
  hello->set_nccl_version(static_cast<uint32_t>(nccl_version_));
  queue_.push_back(std::move(message));
  WriteNext();
}

absl::Status NcclLink::Core::TakeWelcome(Stream* stream, const octet::v1::NcclWelcome& welcome) {
  OCTET_ASSIGN_OR_RETURN(const NcclTerms terms, DecodeWelcome(welcome));
  NcclPairOptions options;
  options.rank = kNcclRouterRank;
  options.ids = terms.ids;
  options.deadlines = device_->deadlines();
  for (size_t i = 0; i < kNcclLanes; ++i) options.warm_bytes[i] = terms.sizes[i].bucket;
  // Where rows are is known only with the first dispatch, when others' rows may be on the device.
  RowPool* const pool = device_->pool();
  OCTET_ASSIGN_OR_RETURN(NcclWarmRows warm, TakeWarmRows(pool, options.warm_bytes));
  for (const size_t bytes : options.warm_bytes) {
    OCTET_RETURN_IF_ERROR(pool->Reserve(bytes, kNcclReservedBuffers, RowPlace::kDevice));
  }
  OCTET_RETURN_IF_ERROR(pool->Reserve(kNcclBucketRows * sizeof(uint32_t), kNcclReservedBuffers));
  MutexLock lock(mu_);
  if (stream != stream_ || closed_) return absl::OkStatus();
  if (pair_ != nullptr) return absl::DataLossError("the worker says welcome twice");
  sizes_ = terms.sizes;
  NcclPairEvents events;
  events.ready = [core = shared_from_this(), serial = serial_] { core->OnPairReady(serial); };
  events.gone = [core = shared_from_this(), serial = serial_](const absl::Status& why) {
    core->OnPairGone(serial, why);
  };
  pair_ = std::make_shared<NcclPair>(device_->api(), options, std::move(warm), std::move(events));
  device_->Add(pair_);
  return absl::OkStatus();
}

void NcclLink::Core::OnPairReady(uint64_t serial) {
  {
    MutexLock lock(mu_);
    if (serial != serial_ || broken_ || closed_) return;
    connected_ = true;
    pause_ = kReopenMin;
  }
  RingNow();
}

void NcclLink::Core::OnPairGone(uint64_t serial, const absl::Status& why) {
  MutexLock lock(mu_);
  LogDebug("the pair with ", options_.address, " has gone: ", why.ToString());
  if (serial == serial_ && !closed_) Break(why);
  pair_.reset();
  changed_.NotifyAll();
  OpenLater();
}

void NcclLink::Core::OnStreamDone(const grpc::Status& status) {
  MutexLock lock(mu_);
  LogDebug("NCCL control stream to ", options_.address,
           " ended: ", FromGrpcStatus(status).ToString());
  --streams_;
  writing_.reset();
  changed_.NotifyAll();
  OpenLater();
}

void NcclLink::Core::OpenLater() {
  // A connection has ended when its stream and its pair have.
  if (closed_ || streams_ > 0 || pair_ != nullptr) return;
  const auto deadline = std::chrono::system_clock::now() + std::chrono::nanoseconds(pause_.ns);
  pause_ = std::min(Duration{pause_.ns * 2}, kReopenMax);
  alarm_ = std::make_unique<grpc::Alarm>();
  alarm_->Set(deadline, [core = weak_from_this()](bool expired) {
    const std::shared_ptr<Core> self = core.lock();
    if (self != nullptr && expired) self->Open();
  });
}

void NcclLink::Core::OnReadsEnded(Stream* stream) {
  MutexLock lock(mu_);
  if (stream != stream_) return;
  if (closed_) {
    stream_ = nullptr;
    return;
  }
  Break(absl::UnavailableError(absl::StrCat("lost the connection to ", options_.address)));
}

void NcclLink::Core::Break(const absl::Status& why) {
  if (broken_) return;
  broken_ = true;
  connected_ = false;
  queue_.clear();
  if (stream_ != nullptr) stream_->TryCancel();
  stream_ = nullptr;
  if (pair_ != nullptr) device_->Fail(pair_, why);
  Drain();  // what the worker had still answered
  FailPending(absl::UnavailableError(why.message()));
  RingNow();
}

void NcclLink::Core::FailPending(const absl::Status& why) {
  for (Pending& pending : std::exchange(pending_, {})) {
    pending.LetGo();
    pending.done(FailedReply(pending.key, why));
  }
}

void NcclLink::Core::Close() {
  // The channel must not end on a thread of gRPC's: its end joins those threads.
  std::unique_ptr<octet::v1::ExpertNccl::Stub> stub;
  std::shared_ptr<grpc::Channel> channel;
  MutexLock lock(mu_);
  closed_ = true;
  connected_ = false;
  queue_.clear();
  arrived_.clear();
  FailPending(absl::CancelledError("the link was closed"));
  if (alarm_ != nullptr) alarm_->Cancel();
  if (pair_ != nullptr && !broken_) device_->Close(pair_);
  while (pair_ != nullptr) changed_.Wait(mu_);
  // Ends the stream so that the worker, too, closes its side of the pair in good order.
  if (stream_ != nullptr && writing_ == nullptr) {
    stream_->StartWritesDone();
    changed_.WaitFor(mu_, std::chrono::milliseconds(kNcclCloseMs));
  }
  if (stream_ != nullptr) stream_->TryCancel();
  while (streams_ > 0) changed_.Wait(mu_);
  stub = std::move(stub_);
  channel = std::move(channel_);
}

// ---- Dispatches ----

absl::Status NcclLink::Core::CheckSend() const {
  if (!connected_) {
    return absl::UnavailableError(absl::StrCat("not connected to ", options_.address));
  }
  if (pending_.size() >= kLinkQueuedDispatchesMax) {
    return absl::ResourceExhaustedError(
        absl::StrCat(pending_.size(), " dispatches to ", options_.address, " are unanswered"));
  }
  return absl::OkStatus();
}

void NcclLink::Core::Send(const ExpertDispatch& dispatch, ReplyFn done) {
  const size_t row_bytes = DispatchRowBytes(dispatch);
  Message message;
  NcclSizes sizes;
  absl::Status refusal;
  uint64_t serial = 0;
  {
    MutexLock lock(mu_);
    refusal = CheckSend();
    sizes = sizes_[kDispatchLane];
    serial = serial_;
    if (refusal.ok() && !free_.empty()) {
      message = std::move(free_.back());
      free_.pop_back();
    }
  }
  const uint64_t transfer_bytes = sizes.TransferBytes(row_bytes, dispatch.prefill);
  if (refusal.ok() && !sizes.Allows(transfer_bytes)) {
    refusal = absl::ResourceExhaustedError(absl::StrCat(
        row_bytes, " bytes of rows, ", options_.address, " takes at most ", sizes.max));
  }
  if (!refusal.ok()) return done(FailedReply(dispatch.key, refusal));
  absl::StatusOr<OutgoingRows> rows = TakeOutgoingRows(dispatch, transfer_bytes, device_);
  if (!rows.ok()) return done(FailedReply(dispatch.key, rows.status()));
  if (message == nullptr) message = std::make_unique<NcclFromRouter>();
  octet::v1::Dispatch* const head = message->mutable_dispatch();
  EncodeDispatchHead(dispatch, head);
  head->clear_checksum();
  if (rows->checksum.has_value()) head->set_checksum(*rows->checksum);
  message->set_unchecked(!rows->checksum.has_value());
  message->set_transfer_bytes(transfer_bytes);
  Pending pending;
  pending.key = dispatch.key;
  pending.done = std::move(done);
  pending.format = dispatch.rows.format;
  pending.reply_rows = ReplyRows(message->dispatch());
  pending.prefill = dispatch.prefill;
  pending.on_device = rows->gathering != nullptr && pending.format.reply == ReplyDType::kF32;
  pending.gathering = std::move(rows->gathering);
  pending.pool = dispatch.pool;
  {
    MutexLock lock(mu_);
    if (connected_ && serial == serial_) {
      pending_.push_back(std::move(pending));
      // Announced and sent in one order.
      queue_.push_back(std::move(message));
      device_->Submit(pair_, NcclLane::kDispatch, std::move(rows->transfer));
      WriteNext();
      return;
    }
  }
  pending.done(FailedReply(dispatch.key, absl::UnavailableError(absl::StrCat(
                                             "lost the connection to ", options_.address))));
}

void NcclLink::Core::WriteNext() {
  if (queue_.empty() || stream_ == nullptr || writing_ != nullptr) return;
  writing_ = std::move(queue_.front());
  queue_.pop_front();
  stream_->StartWrite(writing_.get());
}

void NcclLink::Core::OnWritten(Stream* stream) {
  MutexLock lock(mu_);
  if (stream != stream_) return;
  if (writing_->has_dispatch()) free_.push_back(std::move(writing_));
  writing_.reset();
  WriteNext();
}

void NcclLink::Core::Cancel(const DispatchKey& key) {
  MutexLock lock(mu_);
  // What is on its way moves on: the worker has been told to expect it.
  const auto it = std::find_if(pending_.begin(), pending_.end(),
                               [&](const Pending& p) { return p.key == key; });
  if (it == pending_.end()) return;
  it->LetGo();
  pending_.erase(it);
}

// ---- Replies ----

void NcclLink::Core::OnMessage(Stream* stream, NcclFromWorker& message) {
  absl::Status status = absl::DataLossError("the worker says neither welcome nor a reply");
  if (message.has_welcome()) {
    status = TakeWelcome(stream, message.welcome());
  } else if (message.has_reply()) {
    status = TakeReply(stream, message);
  }
  if (status.ok()) return;
  MutexLock lock(mu_);
  if (stream != stream_ || closed_) return;
  LogError("NCCL: ", options_.address, ": ", status.ToString());
  Break(status);
}

absl::StatusOr<RowPlace> NcclLink::Core::PlanReply(uint64_t transfer_bytes, Arrived* arrived) {
  const NcclSizes& sizes = sizes_[kReplyLane];
  if (!sizes.Allows(transfer_bytes)) {
    return absl::DataLossError(
        absl::StrCat("reply.transfer_bytes: ", transfer_bytes, ", allowed are 1 to ", sizes.max));
  }
  const DispatchKey key = DispatchKeyFromProto(arrived->head.key());
  const auto it = std::find_if(pending_.begin(), pending_.end(),
                               [&](const Pending& p) { return p.key == key; });
  // The rows come, whoever still wants them: they must be received in their turn.
  if (it == pending_.end()) return RowPlace::kDevice;
  const size_t bytes = it->reply_rows * it->format.ReplyRowBytes();
  if (transfer_bytes == sizes.TransferBytes(bytes, it->prefill)) {
    arrived->used_bytes = bytes;
  } else {
    arrived->status = absl::DataLossError(
        absl::StrCat("reply.transfer_bytes: ", transfer_bytes, ", for ", bytes, " bytes of rows"));
  }
  return it->on_device ? RowPlace::kDevice : RowPlace::kDeviceAndHost;
}

absl::Status NcclLink::Core::TakeReply(Stream* stream, NcclFromWorker& message) {
  Arrived arrived;
  arrived.head = std::move(*message.mutable_reply());
  arrived.unchecked = message.unchecked();
  NcclTransfer transfer;
  transfer.wire_bytes = message.transfer_bytes();
  RowPlace place = RowPlace::kDevice;
  {
    MutexLock lock(mu_);
    if (stream != stream_ || closed_) return absl::OkStatus();
    if (pair_ == nullptr) return absl::DataLossError("the worker answers before it says welcome");
    if (arrived.head.error() != octet::v1::DISPATCH_OK) {
      AddArrived(std::move(arrived));
      return absl::OkStatus();
    }
    OCTET_ASSIGN_OR_RETURN(place, PlanReply(transfer.wire_bytes, &arrived));
  }
  OCTET_ASSIGN_OR_RETURN(transfer.memory, device_->pool()->Take(transfer.wire_bytes, place));
  transfer.used_bytes = arrived.used_bytes;
  MutexLock lock(mu_);
  if (stream != stream_ || closed_) return absl::OkStatus();
  transfer.done = [core = shared_from_this(), a = std::move(arrived)](const absl::Status& status,
                                                                      RowPool::Lease rows) mutable {
    if (!status.ok()) return;
    a.rows = std::move(rows);
    core->OnReceived(std::move(a));
  };
  device_->Submit(pair_, NcclLane::kReply, std::move(transfer));
  return absl::OkStatus();
}

void NcclLink::Core::OnReceived(Arrived arrived) {
  MutexLock lock(mu_);
  AddArrived(std::move(arrived));
}

void NcclLink::Core::AddArrived(Arrived arrived) {
  arrived.at = SystemClock().Now();
  arrived_.push_back(std::move(arrived));
  if (options_.doorbell != nullptr) Doorbell(options_.doorbell.get()).Ring();
}

void NcclLink::Core::Poll() {
  MutexLock lock(mu_);
  Drain();
}

void NcclLink::Core::Drain() {
  while (!arrived_.empty()) {
    Arrived arrived = std::move(arrived_.front());
    arrived_.pop_front();
    Deliver(std::move(arrived));
  }
}

void NcclLink::Core::Deliver(Arrived arrived) {
  const DispatchKey key = DispatchKeyFromProto(arrived.head.key());
  const auto it = std::find_if(pending_.begin(), pending_.end(),
                               [&](const Pending& p) { return p.key == key; });
  if (it == pending_.end()) return;  // late, or never ours
  const Pending pending = std::move(*it);
  pending_.erase(it);
  ExpertReply reply;
  reply.key = key;
  reply.compute_ns = arrived.head.compute_ns();
  reply.queue_ns = arrived.head.queue_ns();
  reply.ready = arrived.at;
  reply.status = StatusFromDispatchError(arrived.head.error(), arrived.head.message());
  if (reply.status.ok()) reply.status = arrived.status;
  // A worker may have named the key before there was such a dispatch.
  if (reply.status.ok() &&
      arrived.used_bytes != pending.reply_rows * pending.format.ReplyRowBytes()) {
    reply.status = absl::DataLossError("reply: came before its dispatch");
  }
  const size_t floats = pending.reply_rows * pending.format.hidden;
  if (reply.status.ok() && pending.on_device) {
    const std::shared_ptr<RowMemory> memory(std::move(arrived.rows));
    reply.device = {memory, static_cast<const float*>(memory->device), floats};
  } else if (reply.status.ok()) {
    reply.rows = pending.pool != nullptr ? pending.pool->Take(floats) : std::vector<float>(floats);
    std::optional<uint32_t> checksum;
    if (!arrived.unchecked) checksum = arrived.head.checksum();
    reply.status = DecodeReplyRows(arrived.rows->host, pending.reply_rows, pending.format, checksum,
                                   reply.rows.data());
    if (!reply.status.ok()) reply.rows.clear();
  }
  pending.done(std::move(reply));
}

// ---- The link ----

absl::StatusOr<std::shared_ptr<NcclLink>> NcclLink::Create(NcclLinkOptions options) {
  int version = 0;
  if (options.device->api()->GetVersion(&version) != NcclResult::kOk) {
    return absl::FailedPreconditionError("NCCL does not tell its version");
  }
  OCTET_ASSIGN_OR_RETURN(std::shared_ptr<grpc::Channel> channel,
                         CreateChannel(options.address, options.channel));
  std::shared_ptr<NcclDeviceThread> device = std::move(options.device);
  auto core = std::make_shared<Core>(std::move(options), device.get(), std::move(channel), version);
  core->Open();
  return std::shared_ptr<NcclLink>(new NcclLink(std::move(device), std::move(core)));
}

NcclLink::NcclLink(std::shared_ptr<NcclDeviceThread> device, std::shared_ptr<Core> core)
    : device_(std::move(device)), core_(std::move(core)) {}
NcclLink::~NcclLink() { core_->Close(); }
void NcclLink::Send(const ExpertDispatch& dispatch, ReplyFn done) {
  core_->Send(dispatch, std::move(done));
}
void NcclLink::Cancel(const DispatchKey& key) { core_->Cancel(key); }
bool NcclLink::connected() const { return core_->connected(); }
void NcclLink::Poll() { core_->Poll(); }

}  // namespace octet
