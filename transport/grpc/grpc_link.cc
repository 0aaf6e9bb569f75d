#include "transport/grpc/grpc_link.h"

#include <grpcpp/alarm.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/clock.h"
#include "core/log.h"
#include "core/mutex.h"
#include "core/status_macros.h"
#include "octet/v1/expert.grpc.pb.h"
#include "rpc/expert_codec.h"
#include "rpc/status_details.h"
#include "transport/grpc/dispatch_message.h"

namespace octet {
namespace {

constexpr Duration kReopenMin = Duration::Millis(20);
constexpr Duration kReopenMax = Duration::Millis(1'000);

// A dispatch whose reply has not come.
struct Pending {
  DispatchKey key;
  ExpertLink::ReplyFn done;
  WireFormat format;
  size_t reply_rows = 0;
  std::shared_ptr<ReplyPool> pool;
};

}  // namespace

// State that outlives the link as long as gRPC may still call back.
class GrpcLink::Core : public std::enable_shared_from_this<GrpcLink::Core> {
 public:
  Core(std::string address, std::shared_ptr<grpc::Channel> channel)
      : address_(std::move(address)),
        channel_(std::move(channel)),
        stub_(octet::v1::ExpertWorker::NewStub(channel_)) {}

  void Open() OCTET_EXCLUDES(mu_);
  void Close() OCTET_EXCLUDES(mu_);
  void Send(const ExpertDispatch& dispatch, ReplyFn done) OCTET_EXCLUDES(mu_);
  void Cancel(const DispatchKey& key) OCTET_EXCLUDES(mu_);
  bool connected() const OCTET_EXCLUDES(mu_) {
    MutexLock lock(mu_);
    return connected_;
  }

  const std::string& address() const { return address_; }

  // Called by the stream, on threads of gRPC.
  void OnConnected(Stream* stream) OCTET_EXCLUDES(mu_);
  void OnWritten(Stream* stream) OCTET_EXCLUDES(mu_);
  void OnReply(const octet::v1::DispatchReply& message) OCTET_EXCLUDES(mu_);
  // No more writes may start. Fails what is in flight.
  void OnBroken(Stream* stream) OCTET_EXCLUDES(mu_);
  void OnStreamDone(const grpc::Status& status) OCTET_EXCLUDES(mu_);

 private:
  using Message = std::unique_ptr<octet::v1::Dispatch>;

  void FailAll(const absl::Status& status) OCTET_EXCLUDES(mu_);
  void WriteNext() OCTET_REQUIRES(mu_);

  const std::string address_;

  mutable Mutex mu_;
  CondVar delivered_;
  CondVar stream_done_;
  std::shared_ptr<grpc::Channel> channel_ OCTET_GUARDED_BY(mu_);
  std::unique_ptr<octet::v1::ExpertWorker::Stub> stub_ OCTET_GUARDED_BY(mu_);
  int streams_ OCTET_GUARDED_BY(mu_) = 0;           // that gRPC has not let go of
  Stream* stream_ OCTET_GUARDED_BY(mu_) = nullptr;  // null while none takes writes; owns itself
  bool connected_ OCTET_GUARDED_BY(mu_) = false;
  bool closed_ OCTET_GUARDED_BY(mu_) = false;
  Duration pause_ OCTET_GUARDED_BY(mu_) = kReopenMin;
  std::unique_ptr<grpc::Alarm> alarm_ OCTET_GUARDED_BY(mu_);
  std::vector<Pending> pending_ OCTET_GUARDED_BY(mu_);
  std::vector<DispatchKey> delivering_ OCTET_GUARDED_BY(mu_);
  std::deque<Message> queue_ OCTET_GUARDED_BY(mu_);
  Message writing_ OCTET_GUARDED_BY(mu_);
  std::vector<Message> free_ OCTET_GUARDED_BY(mu_);  // messages with memory to use again
};

class GrpcLink::Stream final
    : public grpc::ClientBidiReactor<octet::v1::Dispatch, octet::v1::DispatchReply> {
 public:
  explicit Stream(std::shared_ptr<Core> core) : core_(std::move(core)) {
    // The channel paces its own attempts to connect; the stream waits for it.
    context_.set_wait_for_ready(true);
  }

  void Start(octet::v1::ExpertWorker::Stub* stub) {
    stub->async()->Exchange(&context_, this);
    // Writes start outside of reactions, until the first failed read.
    AddHold();
    StartRead(&reply_);
    StartCall();
  }
  void TryCancel() { context_.TryCancel(); }

  void OnReadInitialMetadataDone(bool ok) override {
    if (ok) core_->OnConnected(this);
  }
  void OnWriteDone(bool ok) override {
    if (ok) core_->OnWritten(this);
  }
  void OnReadDone(bool ok) override {
    if (!ok) {
      core_->OnBroken(this);
      // A worker that ends the stream in good order has nothing more to say; end our side too.
      context_.TryCancel();
      RemoveHold();
      return;
    }
    if (SealFits(reply_)) {
      core_->OnReply(reply_);
    } else {
      // Nobody knows whom it was for; the next read fails and with it all that is in flight.
      LogWarning("a damaged reply ends the stream to ", core_->address());
      context_.TryCancel();
    }
    StartRead(&reply_);
  }
  void OnDone(const grpc::Status& status) override {
    const std::shared_ptr<Core> core = core_;
    delete this;
    core->OnStreamDone(status);
  }

 private:
  const std::shared_ptr<Core> core_;
  grpc::ClientContext context_;
  octet::v1::DispatchReply reply_;
};

void GrpcLink::Core::Open() {
  MutexLock lock(mu_);
  if (closed_) return;
  ++streams_;
  stream_ = new Stream(shared_from_this());
  stream_->Start(stub_.get());
}

void GrpcLink::Core::Close() {
  {
    MutexLock lock(mu_);
    closed_ = true;
    connected_ = false;
    queue_.clear();
  }
  FailAll(absl::CancelledError("the link was closed"));
  // The channel must not end on a thread of gRPC's: its end joins those threads.
  std::unique_ptr<octet::v1::ExpertWorker::Stub> stub;
  std::shared_ptr<grpc::Channel> channel;
  MutexLock lock(mu_);
  if (stream_ != nullptr) stream_->TryCancel();
  if (alarm_ != nullptr) alarm_->Cancel();
  while (streams_ > 0) stream_done_.Wait(mu_);
  stub = std::move(stub_);
  channel = std::move(channel_);
}

void GrpcLink::Core::Send(const ExpertDispatch& dispatch, ReplyFn done) {
  Message message;
  absl::Status refusal;
  {
    MutexLock lock(mu_);
    if (!connected_) {
      refusal = absl::UnavailableError(absl::StrCat("not connected to ", address_));
    } else if (pending_.size() >= kLinkQueuedDispatchesMax) {
      refusal = absl::ResourceExhaustedError(
          absl::StrCat(pending_.size(), " dispatches to ", address_, " are unanswered"));
    } else if (!free_.empty()) {
      message = std::move(free_.back());
      free_.pop_back();
    }
  }
  if (!refusal.ok()) return done(FailedReply(dispatch.key, refusal));
  if (message == nullptr) message = std::make_unique<octet::v1::Dispatch>();
  EncodeDispatch(dispatch, message.get());
  Pending pending{dispatch.key, std::move(done), dispatch.rows.format, ReplyRows(*message),
                  dispatch.pool};
  {
    MutexLock lock(mu_);
    if (connected_) {
      pending_.push_back(std::move(pending));
      queue_.push_back(std::move(message));
      if (writing_ == nullptr) WriteNext();
      return;
    }
  }
  pending.done(FailedReply(
      dispatch.key, absl::UnavailableError(absl::StrCat("lost the connection to ", address_))));
}

void GrpcLink::Core::WriteNext() {
  if (queue_.empty() || stream_ == nullptr) return;
  writing_ = std::move(queue_.front());
  queue_.pop_front();
  stream_->StartWrite(writing_.get());
}

void GrpcLink::Core::Cancel(const DispatchKey& key) {
  MutexLock lock(mu_);
  const auto it = std::find_if(pending_.begin(), pending_.end(),
                               [&](const Pending& p) { return p.key == key; });
  if (it != pending_.end()) pending_.erase(it);
  queue_.erase(
      std::remove_if(queue_.begin(), queue_.end(),
                     [&](const Message& m) { return DispatchKeyFromProto(m->key()) == key; }),
      queue_.end());
  while (std::find(delivering_.begin(), delivering_.end(), key) != delivering_.end()) {
    delivered_.Wait(mu_);
  }
}

void GrpcLink::Core::OnConnected(Stream* stream) {
  MutexLock lock(mu_);
  if (stream != stream_ || closed_) return;
  connected_ = true;
  pause_ = kReopenMin;
}

void GrpcLink::Core::OnWritten(Stream* stream) {
  MutexLock lock(mu_);
  if (writing_ != nullptr) free_.push_back(std::move(writing_));
  if (stream == stream_) WriteNext();
}

void GrpcLink::Core::OnReply(const octet::v1::DispatchReply& message) {
  const DispatchKey key = DispatchKeyFromProto(message.key());
  Pending pending;
  {
    MutexLock lock(mu_);
    const auto it = std::find_if(pending_.begin(), pending_.end(),
                                 [&](const Pending& p) { return p.key == key; });
    if (it == pending_.end()) return;  // late, or never ours
    pending = std::move(*it);
    pending_.erase(it);
    delivering_.push_back(key);
  }
  ExpertReply reply;
  DecodeReply(message, pending.format, pending.reply_rows, pending.pool.get(), &reply);
  reply.ready = SystemClock().Now();
  pending.done(std::move(reply));
  MutexLock lock(mu_);
  delivering_.erase(std::find(delivering_.begin(), delivering_.end(), key));
  delivered_.NotifyAll();
}

void GrpcLink::Core::OnBroken(Stream* stream) {
  {
    MutexLock lock(mu_);
    if (stream != stream_) return;
    stream_ = nullptr;
    connected_ = false;
    queue_.clear();
  }
  FailAll(absl::UnavailableError(absl::StrCat("lost the connection to ", address_)));
}

void GrpcLink::Core::FailAll(const absl::Status& status) {
  std::vector<Pending> failed;
  {
    MutexLock lock(mu_);
    failed.swap(pending_);
    for (const Pending& p : failed) delivering_.push_back(p.key);
  }
  for (const Pending& p : failed) p.done(FailedReply(p.key, status));
  MutexLock lock(mu_);
  for (const Pending& p : failed) {
    delivering_.erase(std::find(delivering_.begin(), delivering_.end(), p.key));
  }
  delivered_.NotifyAll();
}

void GrpcLink::Core::OnStreamDone(const grpc::Status& status) {
  MutexLock lock(mu_);
  writing_.reset();
  --streams_;
  stream_done_.NotifyAll();
  if (closed_) return;
  LogDebug("expert stream to ", address_, " ended: ", FromGrpcStatus(status).ToString());
  const auto deadline = std::chrono::system_clock::now() + std::chrono::nanoseconds(pause_.ns);
  pause_ = std::min(Duration{pause_.ns * 2}, kReopenMax);
  alarm_ = std::make_unique<grpc::Alarm>();
  alarm_->Set(deadline, [core = weak_from_this()](bool expired) {
    const std::shared_ptr<Core> self = core.lock();
    if (self != nullptr && expired) self->Open();
  });
}

absl::StatusOr<std::shared_ptr<GrpcLink>> GrpcLink::Create(const std::string& address,
                                                           ChannelOptions options) {
  options.message_bytes_max = kFrameBytesMax;
  OCTET_ASSIGN_OR_RETURN(std::shared_ptr<grpc::Channel> channel, CreateChannel(address, options));
  auto core = std::make_shared<Core>(address, std::move(channel));
  core->Open();
  return std::shared_ptr<GrpcLink>(new GrpcLink(std::move(core)));
}

GrpcLink::GrpcLink(std::shared_ptr<Core> core) : core_(std::move(core)) {}
GrpcLink::~GrpcLink() { core_->Close(); }
void GrpcLink::Send(const ExpertDispatch& dispatch, ReplyFn done) {
  core_->Send(dispatch, std::move(done));
}
void GrpcLink::Cancel(const DispatchKey& key) { core_->Cancel(key); }
bool GrpcLink::connected() const { return core_->connected(); }

}  // namespace octet
