#include "expert_worker/nccl_server.h"

#include <algorithm>
#include <array>
#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/limits.h"
#include "core/log.h"
#include "core/mutex.h"
#include "core/nccl_limits.h"
#include "core/status_macros.h"
#include "expert_worker/admission.h"
#include "rpc/expert_codec.h"
#include "rpc/status_details.h"
#include "transport/nccl/nccl_message.h"

namespace octet {
namespace {

using octet::v1::NcclFromRouter;
using octet::v1::NcclFromWorker;

constexpr size_t kDispatchLane = static_cast<size_t>(NcclLane::kDispatch);
constexpr size_t kReplyLane = static_cast<size_t>(NcclLane::kReply);

// One dispatch from its announcement to the last byte of its answer. Recycled within its session.
struct Call {
  NcclFromRouter request;
  NcclFromWorker answer;
  std::vector<DispatchView::Group> groups;
  ExpertJob job;
  RowPool::Lease input;
  size_t input_bytes = 0;  // of rows in it; 0 where the announcement does not fit the model
  RowPool::Lease output;   // null where there is none to be
  absl::Status output_status;
  std::vector<float> rows;  // where the reply is bf16
  size_t reply_rows = 0;
};

}  // namespace

// What the server and its sessions share; outlives both.
struct NcclServer::Shared {
  Shared(NcclDeviceThread* d, const ExpertStore* s, WorkerLoop* l, bool computes_there, int version)
      : device(d),
        store(s),
        loop(l),
        shape(ShapeOf(s->model())),
        sizes(NcclSizesOf(shape.formats)),
        on_device(computes_there &&
                  std::all_of(shape.formats.begin(), shape.formats.end(),
                              [](const WireFormat& f) { return f.reply == ReplyDType::kF32; })),
        nccl_version(version) {}

  // The server's: the last to hold a session may be that thread itself.
  NcclDeviceThread* const device;
  const ExpertStore* const store;
  WorkerLoop* const loop;
  const DispatchShape shape;
  const std::array<NcclSizes, kNcclLanes> sizes;
  const bool on_device;  // rows are computed where they lie; replies of less than f32 can't be
  const int nccl_version;
  std::array<size_t, kNcclLanes> warm_bytes() const { return {sizes[0].bucket, sizes[1].bucket}; }
  RowPlace place() const { return on_device ? RowPlace::kDevice : RowPlace::kDeviceAndHost; }
  Mutex mu;
  CondVar changed;
  std::vector<const Session*> sessions OCTET_GUARDED_BY(mu);  // that gRPC has not let go of
};

// One router. Keeps itself until gRPC lets go of it. Ends when the stream has ended, the pair has
// gone, and the loop has given all jobs back.
class NcclServer::Session final : public grpc::ServerBidiReactor<NcclFromRouter, NcclFromWorker>,
                                  public std::enable_shared_from_this<NcclServer::Session> {
 public:
  Session(std::shared_ptr<Shared> shared, grpc::CallbackServerContext* context)
      : s_(std::move(shared)), context_(context) {}

  void Start(bool welcome);
  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  using CallPtr = std::unique_ptr<Call>;
  enum class End { kGoodOrder, kBreak };

  void ReadNext() OCTET_REQUIRES(mu_);
  // What was read, reading_, of which no other call makes use meanwhile. Take memory without the
  // lock: an allocation may wait for what is on the device, and the device's thread, which ends
  // that, for the lock.
  absl::Status TakeMessage(Call& call) OCTET_EXCLUDES(mu_);
  absl::Status TakeHello(const octet::v1::NcclHello& hello) OCTET_EXCLUDES(mu_);
  absl::Status TakeDispatch(Call& call) OCTET_EXCLUDES(mu_);
  absl::Status TakeOutput(Call& call);
  // On the device's thread: makes the ids and the pair.
  void Welcome(NcclWarmRows warm) OCTET_EXCLUDES(mu_);
  // The rows are here, or never will be. On the device's thread.
  void OnRows(CallPtr call, const absl::Status& status) OCTET_EXCLUDES(mu_);
  absl::Status Admit(Call& call);
  // On the compute thread.
  void OnComputed(Call* call) OCTET_EXCLUDES(mu_);
  void Answer(CallPtr call) OCTET_REQUIRES(mu_);
  void Refuse(CallPtr call, const absl::Status& status) OCTET_REQUIRES(mu_);
  void Write(std::unique_ptr<NcclFromWorker> message) OCTET_REQUIRES(mu_);
  void WriteNext() OCTET_REQUIRES(mu_);
  void Recycle(CallPtr call) OCTET_REQUIRES(mu_);
  void EndSession(End how, const absl::Status& why) OCTET_REQUIRES(mu_);
  void FinishIfOver() OCTET_REQUIRES(mu_);
  size_t open() const OCTET_REQUIRES(mu_) {
    return receiving_ + running_.size() + answers_.size() + (writing_ != nullptr ? 1 : 0);
  }

  const std::shared_ptr<Shared> s_;
  grpc::CallbackServerContext* const context_;
  Mutex mu_;
  std::shared_ptr<Session> self_ OCTET_GUARDED_BY(mu_);
  std::shared_ptr<NcclPair> pair_ OCTET_GUARDED_BY(mu_);  // null before it is made and when gone
  CallPtr reading_ OCTET_GUARDED_BY(mu_);
  size_t receiving_ OCTET_GUARDED_BY(mu_) = 0;          // calls whose rows are on their way
  std::vector<CallPtr> running_ OCTET_GUARDED_BY(mu_);  // in the loop
  std::vector<CallPtr> free_ OCTET_GUARDED_BY(mu_);
  std::deque<std::unique_ptr<NcclFromWorker>> answers_ OCTET_GUARDED_BY(mu_);
  std::unique_ptr<NcclFromWorker> writing_ OCTET_GUARDED_BY(mu_);
  bool welcomed_ = false;  // of the reactions to reads, of which there is one at a time
  bool ended_ OCTET_GUARDED_BY(mu_) = false;
  bool finished_ OCTET_GUARDED_BY(mu_) = false;
  absl::Status why_ OCTET_GUARDED_BY(mu_);
};

// ---- The stream ----

void NcclServer::Session::Start(bool welcome) {
  MutexLock lock(mu_);
  self_ = shared_from_this();
  if (welcome) {
    ReadNext();
  } else {
    EndSession(End::kBreak, absl::ResourceExhaustedError("too many routers"));
  }
}

void NcclServer::Session::ReadNext() {
  if (reading_ != nullptr || ended_ || open() >= kStreamDispatchesMax) return;
  if (free_.empty()) {
    reading_ = std::make_unique<Call>();
  } else {
    reading_ = std::move(free_.back());
    free_.pop_back();
  }
  StartRead(&reading_->request);
}

void NcclServer::Session::OnReadDone(bool ok) {
  Call* call = nullptr;
  {
    MutexLock lock(mu_);
    if (!ok) {
      reading_.reset();
      // The router says goodbye, or it has gone: then OnCancel follows.
      EndSession(context_->IsCancelled() ? End::kBreak : End::kGoodOrder, absl::OkStatus());
      FinishIfOver();
      return;
    }
    if (ended_) return;
    call = reading_.get();
  }
  const absl::Status status = TakeMessage(*call);
  if (status.ok()) return;
  LogWarning("NCCL: a router is cut off: ", status.ToString());
  MutexLock lock(mu_);
  EndSession(End::kBreak, status);
}

absl::Status NcclServer::Session::TakeMessage(Call& call) {
  if (!welcomed_) return TakeHello(call.request.hello());
  if (call.request.has_dispatch()) return TakeDispatch(call);
  return absl::InvalidArgumentError("a router says neither hello nor a dispatch");
}

absl::Status NcclServer::Session::TakeHello(const octet::v1::NcclHello& hello) {
  if (hello.version() != kNcclProtocolVersion ||
      hello.nccl_version() != static_cast<uint32_t>(s_->nccl_version)) {
    return absl::FailedPreconditionError(
        absl::StrCat("hello: protocol ", hello.version(), " and NCCL ", hello.nccl_version(),
                     ", this worker has ", kNcclProtocolVersion, " and ", s_->nccl_version));
  }
  OCTET_ASSIGN_OR_RETURN(NcclWarmRows warm,
                         TakeWarmRows(s_->device->pool(), s_->warm_bytes(), s_->place()));
  welcomed_ = true;
  MutexLock lock(mu_);
  reading_.reset();
  s_->device->Run(
      [self = shared_from_this(), w = std::move(warm)]() mutable { self->Welcome(std::move(w)); });
  return absl::OkStatus();
}

void NcclServer::Session::Welcome(NcclWarmRows warm) {
  NcclTerms terms;
  terms.sizes = s_->sizes;
  NcclResult result = NcclResult::kOk;
  for (NcclUniqueId& id : terms.ids) {
    if (result == NcclResult::kOk) result = s_->device->api()->GetUniqueId(&id);
  }
  MutexLock lock(mu_);
  if (ended_) return;
  if (result != NcclResult::kOk) {
    return EndSession(End::kBreak, absl::InternalError(absl::StrCat(
                                       "NCCL: unique id: ", s_->device->api()->ErrorText(result))));
  }
  NcclPairOptions options;
  options.rank = kNcclWorkerRank;
  options.ids = terms.ids;
  options.deadlines = s_->device->deadlines();
  options.warm_bytes = s_->warm_bytes();
  NcclPairEvents events;
  events.ready = [] { LogDebug("NCCL: a router is connected"); };
  events.gone = [self = shared_from_this()](const absl::Status& why) {
    MutexLock gone(self->mu_);
    self->pair_.reset();
    self->EndSession(End::kBreak, why);
    self->FinishIfOver();
  };
  pair_ =
      std::make_shared<NcclPair>(s_->device->api(), options, std::move(warm), std::move(events));
  s_->device->Add(pair_);
  auto message = std::make_unique<NcclFromWorker>();
  EncodeWelcome(terms, message->mutable_welcome());
  Write(std::move(message));
  ReadNext();
}

void NcclServer::Session::Write(std::unique_ptr<NcclFromWorker> message) {
  answers_.push_back(std::move(message));
  WriteNext();
}

void NcclServer::Session::WriteNext() {
  if (answers_.empty() || writing_ != nullptr || ended_) return;
  writing_ = std::move(answers_.front());
  answers_.pop_front();
  StartWrite(writing_.get());
}

void NcclServer::Session::OnWriteDone(bool ok) {
  MutexLock lock(mu_);
  writing_.reset();
  if (!ok) EndSession(End::kBreak, absl::UnavailableError("a router takes no answers"));
  WriteNext();
  ReadNext();
  FinishIfOver();
}

void NcclServer::Session::OnCancel() {
  MutexLock lock(mu_);
  EndSession(End::kBreak, absl::CancelledError("a router has gone"));
  FinishIfOver();
}

void NcclServer::Session::EndSession(End how, const absl::Status& why) {
  // A second end may be less orderly than the first.
  if (pair_ != nullptr && how == End::kBreak) {
    s_->device->Fail(pair_, why.ok() ? absl::CancelledError("a router has gone") : why);
  } else if (pair_ != nullptr && !ended_) {
    s_->device->Close(pair_);
  }
  if (ended_) return;
  ended_ = true;
  why_ = why;
  answers_.clear();
  for (const CallPtr& call : running_) call->job.abandoned = true;
  FinishIfOver();
}

void NcclServer::Session::FinishIfOver() {
  if (!ended_ || finished_ || pair_ != nullptr || open() > 0) return;
  finished_ = true;
  Finish(ToGrpcStatus(why_));
}

void NcclServer::Session::OnDone() {
  std::shared_ptr<Session> self;
  {
    MutexLock lock(mu_);
    self.swap(self_);
  }
  MutexLock lock(s_->mu);
  std::erase(s_->sessions, this);
  s_->changed.NotifyAll();
}

// ---- Dispatches ----

absl::Status NcclServer::Session::TakeDispatch(Call& call) {
  const octet::v1::Dispatch& dispatch = call.request.dispatch();
  const NcclSizes& sizes = s_->sizes[kDispatchLane];
  const uint64_t transfer_bytes = call.request.transfer_bytes();
  if (!sizes.Allows(transfer_bytes)) {
    return absl::DataLossError(absl::StrCat("dispatch.transfer_bytes: ", transfer_bytes,
                                            ", allowed are 1 to ", sizes.max));
  }
  call.input_bytes = 0;
  call.output_status = absl::OkStatus();
  call.answer.Clear();
  const uint32_t layer = dispatch.key().layer();
  if (layer < s_->shape.formats.size() && dispatch.row_count() <= kDispatchRowsMax) {
    const size_t bytes = dispatch.row_count() * s_->shape.formats[layer].RowBytes();
    const bool prefill = dispatch.priority() == octet::v1::PRIORITY_PREFILL;
    if (sizes.TransferBytes(bytes, prefill) == transfer_bytes) call.input_bytes = bytes;
  }
  NcclTransfer transfer;
  // The output's too: the device's thread, which admits the call, must not wait for memory.
  if (call.input_bytes > 0) call.output_status = TakeOutput(call);
  OCTET_ASSIGN_OR_RETURN(transfer.memory, s_->device->pool()->Take(transfer_bytes, s_->place()));
  transfer.wire_bytes = transfer_bytes;
  transfer.used_bytes = call.input_bytes;
  MutexLock lock(mu_);
  if (ended_) return absl::OkStatus();
  transfer.done = [self = shared_from_this(), c = std::move(reading_)](
                      const absl::Status& status, RowPool::Lease rows) mutable {
    c->input = std::move(rows);
    self->OnRows(std::move(c), status);
  };
  ++receiving_;
  s_->device->Submit(pair_, NcclLane::kDispatch, std::move(transfer));
  ReadNext();
  return absl::OkStatus();
}

absl::Status NcclServer::Session::TakeOutput(Call& call) {
  const octet::v1::Dispatch& dispatch = call.request.dispatch();
  call.reply_rows = ReplyRows(dispatch);
  if (call.reply_rows > size_t{dispatch.row_count()} * kTopKMax) return absl::OkStatus();
  const WireFormat& format = s_->shape.formats[dispatch.key().layer()];
  const uint64_t transfer_bytes = s_->sizes[kReplyLane].TransferBytes(
      call.reply_rows * format.ReplyRowBytes(), dispatch.priority() == octet::v1::PRIORITY_PREFILL);
  OCTET_ASSIGN_OR_RETURN(call.output, s_->device->pool()->Take(transfer_bytes, s_->place()));
  call.answer.set_transfer_bytes(transfer_bytes);
  return absl::OkStatus();
}

absl::Status NcclServer::Session::Admit(Call& call) {
  octet::v1::Dispatch& dispatch = *call.request.mutable_dispatch();
  DispatchView view = ViewOf(dispatch, &call.groups);
  void* const rows = s_->on_device ? call.input->device : call.input->host;
  view.rows = absl::MakeSpan(static_cast<char*>(rows), call.input_bytes);
  view.checked = !s_->on_device && !call.request.unchecked();
  OCTET_RETURN_IF_ERROR(AdmitDispatch(view, *s_->store, s_->shape, &call.job));
  OCTET_RETURN_IF_ERROR(call.output_status);
  const WireFormat& format = call.job.format;
  call.job.on_device = s_->on_device;
  if (s_->on_device) {
    call.job.reply = static_cast<float*>(call.output->device);
  } else if (format.reply == ReplyDType::kF32) {
    // The kernels write straight into what is sent.
    call.job.reply = reinterpret_cast<float*>(call.output->host);
  } else {
    call.rows.resize(call.reply_rows * format.hidden);
    call.job.reply = call.rows.data();
  }
  return absl::OkStatus();
}

void NcclServer::Session::OnRows(CallPtr call, const absl::Status& received) {
  Call* const raw = call.get();
  *raw->answer.mutable_reply()->mutable_key() = raw->request.dispatch().key();
  raw->job.abandoned = false;
  absl::Status status = received;
  if (received.ok()) status = Admit(*raw);
  MutexLock lock(mu_);
  --receiving_;
  if (ended_ || !received.ok()) {  // nobody wants it
    Recycle(std::move(call));
    FinishIfOver();
    return;
  }
  if (status.ok()) {
    raw->job.done = [self = shared_from_this(), raw] { self->OnComputed(raw); };
    // Under the lock, so that the answer finds its call among the running ones.
    status = s_->loop->Submit(&raw->job);
  }
  if (status.ok()) {
    running_.push_back(std::move(call));
  } else {
    Refuse(std::move(call), status);
  }
  ReadNext();
}

void NcclServer::Session::OnComputed(Call* call) {
  const ExpertJob& job = call->job;
  octet::v1::DispatchReply& reply = *call->answer.mutable_reply();
  if (job.status.ok() && !job.abandoned) {
    reply.set_compute_ns(job.compute_ns);
    reply.set_queue_ns(job.queue_ns);
    call->answer.set_unchecked(job.on_device);
    if (!job.on_device) {
      reply.set_checksum(
          EncodeReplyRowsTo(job.reply, call->reply_rows, job.format, call->output->host));
    }
  }
  MutexLock lock(mu_);
  const auto it = std::find_if(running_.begin(), running_.end(),
                               [&](const CallPtr& c) { return c.get() == call; });
  CallPtr owned = std::move(*it);
  running_.erase(it);
  if (ended_) {
    // An abandoned job has groups that were skipped: its result is nobody's.
    Recycle(std::move(owned));
    FinishIfOver();
    return;
  }
  const absl::Status status = job.status;
  if (status.ok()) {
    Answer(std::move(owned));
  } else {
    Refuse(std::move(owned), status);
  }
  ReadNext();
}

void NcclServer::Session::Answer(CallPtr call) {
  NcclTransfer transfer;
  transfer.memory = std::move(call->output);
  transfer.wire_bytes = call->answer.transfer_bytes();
  transfer.used_bytes = call->reply_rows * call->job.format.ReplyRowBytes();
  transfer.done = [](const absl::Status&, RowPool::Lease) {};
  // Announced and sent in one order.
  Write(std::make_unique<NcclFromWorker>(std::move(call->answer)));
  s_->device->Submit(pair_, NcclLane::kReply, std::move(transfer));
  Recycle(std::move(call));
}

void NcclServer::Session::Refuse(CallPtr call, const absl::Status& status) {
  call->answer.clear_transfer_bytes();
  octet::v1::DispatchReply& reply = *call->answer.mutable_reply();
  reply.set_error(DispatchErrorFromStatus(status));
  reply.set_message(std::string(status.message()));
  Write(std::make_unique<NcclFromWorker>(std::move(call->answer)));
  Recycle(std::move(call));
}

void NcclServer::Session::Recycle(CallPtr call) {
  call->job.groups.clear();  // lets go of the weights
  call->job.done = nullptr;
  call->input.reset();
  call->output.reset();
  free_.push_back(std::move(call));
}

// ---- The server ----

absl::StatusOr<std::unique_ptr<NcclServer>> NcclServer::Create(
    std::shared_ptr<NcclDeviceThread> device, const ExpertStore* store, WorkerLoop* loop,
    bool on_device) {
  int version = 0;
  if (device->api()->GetVersion(&version) != NcclResult::kOk) {
    return absl::FailedPreconditionError("NCCL does not tell its version");
  }
  auto shared = std::make_shared<Shared>(device.get(), store, loop, on_device, version);
  return std::unique_ptr<NcclServer>(new NcclServer(std::move(device), std::move(shared)));
}

NcclServer::NcclServer(std::shared_ptr<NcclDeviceThread> device, std::shared_ptr<Shared> shared)
    : device_(std::move(device)), shared_(std::move(shared)) {}

NcclServer::~NcclServer() {
  MutexLock lock(shared_->mu);
  while (!shared_->sessions.empty()) shared_->changed.Wait(shared_->mu);
}

grpc::ServerBidiReactor<NcclFromRouter, NcclFromWorker>* NcclServer::Control(
    grpc::CallbackServerContext* context) {
  LogDebug("NCCL control stream from ", context->peer());
  const auto session = std::make_shared<Session>(shared_, context);
  bool welcome = false;
  {
    MutexLock lock(shared_->mu);
    welcome = shared_->sessions.size() < kNcclRoutersMax;
    shared_->sessions.push_back(session.get());
  }
  session->Start(welcome);
  return session.get();
}

}  // namespace octet
