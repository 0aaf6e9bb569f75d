#include "expert_worker/service.h"

#include <algorithm>
#include <deque>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/crc32c.h"
#include "core/limits.h"
#include "core/log.h"
#include "core/mutex.h"
#include "expert_worker/admission.h"
#include "transport/grpc/dispatch_message.h"

namespace octet {
namespace {

// One dispatch from its first byte to the last of its answer. Recycled within its stream.
struct Call {
  octet::v1::Dispatch request;
  octet::v1::DispatchReply reply;
  std::vector<DispatchView::Group> groups;
  std::unique_ptr<ExpertJob> job;
  std::vector<float> rows;  // where the reply is bf16
  size_t reply_rows = 0;
};

}  // namespace

// Owns itself. Ends when the peer has ended its side and every dispatch is answered, or when the
// call is cancelled and the loop has given all jobs back.
class ExpertService::Stream final
    : public grpc::ServerBidiReactor<octet::v1::Dispatch, octet::v1::DispatchReply> {
 public:
  explicit Stream(ExpertService* service) : service_(service) {
    // Tells the router that the stream is up.
    StartSendInitialMetadata();
    MutexLock lock(mu_);
    ReadNext();
  }

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override {
    // Whoever called Finish may still be about to let go of the lock.
    { MutexLock lock(mu_); }
    delete this;
  }

 private:
  void ReadNext() OCTET_REQUIRES(mu_);
  // On the compute thread.
  void OnComputed(Call* call) OCTET_EXCLUDES(mu_);
  void Answer(std::unique_ptr<Call> call) OCTET_REQUIRES(mu_);
  void WriteNext() OCTET_REQUIRES(mu_);
  void Recycle(std::unique_ptr<Call> call) OCTET_REQUIRES(mu_);
  void FinishIfOver() OCTET_REQUIRES(mu_);
  size_t open() const OCTET_REQUIRES(mu_) {
    return running_.size() + answers_.size() + (writing_ != nullptr ? 1 : 0);
  }

  ExpertService* const service_;
  Mutex mu_;
  std::unique_ptr<Call> reading_ OCTET_GUARDED_BY(mu_);
  std::vector<std::unique_ptr<Call>> running_ OCTET_GUARDED_BY(mu_);  // in the loop
  std::deque<std::unique_ptr<Call>> answers_ OCTET_GUARDED_BY(mu_);
  std::unique_ptr<Call> writing_ OCTET_GUARDED_BY(mu_);
  std::vector<std::unique_ptr<Call>> free_ OCTET_GUARDED_BY(mu_);
  bool read_ended_ OCTET_GUARDED_BY(mu_) = false;
  bool broken_ OCTET_GUARDED_BY(mu_) = false;
  bool finished_ OCTET_GUARDED_BY(mu_) = false;
};

void ExpertService::Stream::ReadNext() {
  if (reading_ != nullptr || read_ended_ || broken_ || finished_) return;
  if (open() >= kStreamDispatchesMax) return;
  if (free_.empty()) {
    reading_ = std::make_unique<Call>();
  } else {
    reading_ = std::move(free_.back());
    free_.pop_back();
  }
  StartRead(&reading_->request);
}

void ExpertService::Stream::OnReadDone(bool ok) {
  std::unique_ptr<Call> call;
  {
    MutexLock lock(mu_);
    call = std::move(reading_);
    if (!ok) {
      read_ended_ = true;
      FinishIfOver();
      return;
    }
  }
  Call* const raw = call.get();
  if (!SealFits(raw->request)) {
    LogWarning("a damaged dispatch ends its stream");
    OnCancel();
    return;
  }
  raw->reply.Clear();
  *raw->reply.mutable_key() = raw->request.key();
  raw->job = std::make_unique<ExpertJob>();
  absl::Status status = AdmitDispatch(ViewOf(raw->request, &raw->groups), *service_->store_,
                                      service_->shape_, raw->job.get());
  if (status.ok()) {
    raw->reply_rows = ReplyRows(raw->request);
    if (raw->job->format.reply == ReplyDType::kF32) {
      // The kernels write straight into the message.
      std::string* bytes = raw->reply.mutable_rows();
      bytes->resize(raw->reply_rows * raw->job->format.ReplyRowBytes());
      raw->job->reply = reinterpret_cast<float*>(bytes->data());
    } else {
      raw->rows.resize(raw->reply_rows * raw->job->format.hidden);
      raw->job->reply = raw->rows.data();
    }
    raw->job->done = [this, raw] { OnComputed(raw); };
  }
  MutexLock lock(mu_);
  if (broken_) return;  // nobody wants it, and the stream may have finished
  if (status.ok()) {
    // Under the lock, so that the answer finds its call among the running ones.
    status = service_->loop_->Submit(raw->job.get());
  }
  if (status.ok()) {
    running_.push_back(std::move(call));
  } else {
    raw->reply.set_error(DispatchErrorFromStatus(status));
    raw->reply.set_message(std::string(status.message()));
    raw->reply.clear_rows();
    Seal(&raw->reply);
    Answer(std::move(call));
  }
  ReadNext();
}

void ExpertService::Stream::OnComputed(Call* call) {
  const ExpertJob& job = *call->job;
  octet::v1::DispatchReply& reply = call->reply;
  reply.set_compute_ns(job.compute_ns);
  reply.set_queue_ns(job.queue_ns);
  if (!job.status.ok()) {
    reply.set_error(DispatchErrorFromStatus(job.status));
    reply.set_message(std::string(job.status.message()));
    reply.clear_rows();
  } else if (job.format.reply == ReplyDType::kF32) {
    reply.set_checksum(Crc32c(reply.rows().data(), reply.rows().size()));
  } else {
    EncodeReplyRows(call->rows.data(), call->reply_rows, job.format, &reply);
  }
  Seal(&reply);
  MutexLock lock(mu_);
  const auto it = std::find_if(running_.begin(), running_.end(),
                               [&](const std::unique_ptr<Call>& c) { return c.get() == call; });
  std::unique_ptr<Call> owned = std::move(*it);
  running_.erase(it);
  Answer(std::move(owned));
}

void ExpertService::Stream::Answer(std::unique_ptr<Call> call) {
  if (broken_) {
    FinishIfOver();
    return;
  }
  answers_.push_back(std::move(call));
  if (writing_ == nullptr) WriteNext();
}

void ExpertService::Stream::WriteNext() {
  if (answers_.empty()) return;
  writing_ = std::move(answers_.front());
  answers_.pop_front();
  StartWrite(&writing_->reply);
}

void ExpertService::Stream::Recycle(std::unique_ptr<Call> call) {
  call->job.reset();  // lets go of the weights
  if (free_.size() < 4) free_.push_back(std::move(call));
}

void ExpertService::Stream::OnWriteDone(bool ok) {
  MutexLock lock(mu_);
  Recycle(std::move(writing_));
  if (!ok) {
    broken_ = true;
    answers_.clear();
    for (const auto& call : running_) call->job->abandoned = true;
  }
  WriteNext();
  ReadNext();
  FinishIfOver();
}

void ExpertService::Stream::OnCancel() {
  MutexLock lock(mu_);
  broken_ = true;
  answers_.clear();
  for (const auto& call : running_) call->job->abandoned = true;
  FinishIfOver();
}

void ExpertService::Stream::FinishIfOver() {
  if (finished_ || open() > 0) return;
  if (!broken_ && !read_ended_) return;
  finished_ = true;
  Finish(grpc::Status::OK);
}

ExpertService::ExpertService(const ExpertStore* store, WorkerLoop* loop)
    : store_(store), loop_(loop), shape_(ShapeOf(store->model())) {}

uint32_t ExpertService::message_bytes_max() const {
  uint64_t row_bytes = 0;
  for (const WireFormat& format : shape_.formats) {
    row_bytes = std::max<uint64_t>({row_bytes, format.RowBytes(), format.ReplyRowBytes()});
  }
  // Each row with an index for each of its experts, and the fixed fields.
  const uint64_t bytes = (row_bytes + kTopKMax * 5) * kDispatchRowsMax + (64u << 10);
  return static_cast<uint32_t>(std::min(bytes, kFrameBytesMax));
}

grpc::ServerBidiReactor<octet::v1::Dispatch, octet::v1::DispatchReply>* ExpertService::Exchange(
    grpc::CallbackServerContext* context) {
  LogDebug("expert stream from ", context->peer());
  return new Stream(this);
}

grpc::ServerUnaryReactor* ExpertService::GetWorkerInfo(grpc::CallbackServerContext* context,
                                                       const octet::v1::GetWorkerInfoRequest*,
                                                       octet::v1::GetWorkerInfoResponse* response) {
  response->set_worker_id(worker_id_);
  response->set_compute_digest(store_->model().compute_digest);
  response->set_model_version(store_->model().model_version);
  for (const ExpertId expert : store_->Held()) response->add_experts(expert.value());
  response->set_epoch(store_->active_epoch().value());
  const bool ready = store_->active_epoch() > Epoch(0);
  response->set_state(draining_ ? "draining" : ready ? "ready" : "loading");
  auto* reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

}  // namespace octet
