#include "router/api/inference_service.h"

#include <grpcpp/alarm.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <optional>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/limits.h"
#include "core/log.h"
#include "core/mutex.h"
#include "router/api/inference_codec.h"
#include "rpc/status_details.h"

namespace octet {
namespace {

using octet::v1::GenerateResponse;

RequestDraws DrawForRequest() {
  std::random_device device;
  const auto draw = [&device] { return (static_cast<uint64_t>(device()) << 32) | device(); };
  return {absl::StrCat("req-", absl::Hex(draw(), absl::kZeroPad16)), draw()};
}

// A request ends so much before its client's deadline, at most a quarter of what is left: an answer
// that says why has to arrive before the client's own timer, which says nothing.
constexpr Duration kAnswerMargin = Duration::Millis(kStepWaitMs + 100);

MonotonicTime DeadlineOf(const grpc::CallbackServerContext& context, const Clock& clock) {
  const auto deadline = context.deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) return kNever;
  const Duration left{std::chrono::duration_cast<std::chrono::nanoseconds>(
                          deadline - std::chrono::system_clock::now())
                          .count()};
  return clock.Now() + Duration{left.ns - std::min(kAnswerMargin.ns, left.ns / 4)};
}

// Adds the retry delay where trying again can help.
absl::Status WithRetryDelay(absl::Status status, Duration delay) {
  const bool transient = status.code() == absl::StatusCode::kResourceExhausted ||
                         status.code() == absl::StatusCode::kUnavailable;
  if (transient && !GetRetryDelay(status).has_value()) SetRetryDelay(&status, delay);
  return status;
}

// One Generate call. The engine's thread pushes messages, gRPC's threads drain them one write at a
// time. Holds itself until gRPC is done with it; the engine holds it as a sink until its last call.
class GenerateStream final : public grpc::ServerWriteReactor<GenerateResponse>,
                             public GenerationSink,
                             public std::enable_shared_from_this<GenerateStream> {
 public:
  GenerateStream(grpc::CallbackServerContext* context, Engine* engine, const OutputLimits& limits)
      : context_(context), engine_(engine), limits_(limits) {}

  // Called once, before gRPC reacts to anything.
  void Start(const octet::v1::GenerateRequest& request, const ServedModel& model,
             const Clock& clock) {
    self_ = shared_from_this();
    // Before anything that costs time: a refusal has to stay cheap when there are many.
    const absl::Status room = engine_->CheckRoom(request.resume_token_ids_size() > 0);
    if (!room.ok()) return Refuse(room);
    auto resolved = ResolveGenerateRequest(request, model, DrawForRequest());
    if (!resolved.ok()) return Finish(ToGrpcStatus(resolved.status()));
    resolved->deadline = DeadlineOf(*context_, clock);
    GenerateResponse started = StartedToProto(*resolved, model);
    auto id = engine_->Submit(*std::move(resolved), shared_from_this());
    if (!id.ok()) return Refuse(id.status());
    Opened(*id, std::move(started));
  }

  void OnChunk(GenerationChunk chunk) override {
    Message message{ChunkToProto(chunk), chunk.token_ids.size() + chunk.prompt_logprobs.size(), 0};
    message.bytes = message.response.ByteSizeLong();
    MutexLock lock(mu_);
    buffered_tokens_ += message.tokens;
    buffered_bytes_ += message.bytes;
    const bool over =
        buffered_tokens_ > kOutputBufferTokensMax || buffered_bytes_ > limits_.buffer_bytes_max;
    if (over) GiveUp("it does not read what is generated");
    if (given_up_) return;
    queue_.push_back(std::move(message));
    Advance();
  }

  void OnFinished(GenerationResult result) override {
    MutexLock lock(mu_);
    queue_.push_back({FinishedToProto(result), 0, 0});
    end_ = grpc::Status::OK;
    Advance();
    WatchReader();
  }

  void OnError(absl::Status status) override {
    MutexLock lock(mu_);
    end_ = ToGrpcStatus(WithRetryDelay(std::move(status), kRetryAfter));
    Advance();
    WatchReader();
  }

  void OnWriteDone(bool ok) override {
    MutexLock lock(mu_);
    buffered_tokens_ -= current_.tokens;
    buffered_bytes_ -= current_.bytes;
    writing_ = false;
    if (!ok) broken_ = true;
    Advance();
  }

  void OnCancel() override {
    std::optional<RequestId> id;
    {
      MutexLock lock(mu_);
      cancelled_ = true;
      id = id_;
    }
    if (id.has_value()) engine_->Cancel(*id);
  }

  void OnDone() override {
    {
      MutexLock lock(mu_);
      done_ = true;
    }
    self_.reset();
  }

 private:
  void Refuse(absl::Status status) {
    Finish(ToGrpcStatus(WithRetryDelay(std::move(status), engine_->RetryDelay())));
  }

  struct Message {
    GenerateResponse response;
    size_t tokens = 0;
    size_t bytes = 0;
  };

  // Cancels the call of a client that does not read.
  void GiveUp(const char* why) OCTET_REQUIRES(mu_) {
    if (given_up_ || done_) return;
    given_up_ = true;
    queue_.clear();
    LogInfo("the call of ", context_->peer(), " is cancelled: ", why);
    // Breaks the write that waits for the client; OnCancel then ends the request.
    context_->TryCancel();
  }

  // The request has ended, its client may not have read all of it yet.
  void WatchReader() OCTET_REQUIRES(mu_) {
    if (ended_ || done_) return;
    const auto when =
        std::chrono::system_clock::now() + std::chrono::nanoseconds(limits_.read_max.ns);
    // A reference of the timer's own would be one to itself.
    alarm_.Set(when, [weak = weak_from_this()](bool due) {
      const auto self = weak.lock();
      if (!due || self == nullptr) return;
      MutexLock lock(self->mu_);
      self->GiveUp("it did not read its answer in time");
    });
  }

  // The engine took the request. Its first chunks may already wait in the queue.
  void Opened(RequestId id, GenerateResponse started) {
    bool cancelled = false;
    {
      MutexLock lock(mu_);
      id_ = id;
      queue_.push_front({std::move(started), 0, 0});
      open_ = true;
      cancelled = cancelled_;
      Advance();
    }
    if (cancelled) engine_->Cancel(id);
  }

  // The next write, or the end where nothing is left to write.
  void Advance() OCTET_REQUIRES(mu_) {
    if (!open_ || writing_ || ended_) return;
    if (!queue_.empty() && !broken_) {
      current_ = std::move(queue_.front());
      queue_.pop_front();
      writing_ = true;
      StartWrite(&current_.response);
    } else if (end_.has_value()) {
      ended_ = true;
      Finish(*end_);
    }
  }

  grpc::CallbackServerContext* const context_;
  Engine* const engine_;
  const OutputLimits limits_;
  std::shared_ptr<GenerateStream> self_;

  Mutex mu_;
  std::deque<Message> queue_ OCTET_GUARDED_BY(mu_);
  Message current_ OCTET_GUARDED_BY(mu_);  // being written
  size_t buffered_tokens_ OCTET_GUARDED_BY(mu_) = 0;
  size_t buffered_bytes_ OCTET_GUARDED_BY(mu_) = 0;
  grpc::Alarm alarm_ OCTET_GUARDED_BY(mu_);
  std::optional<RequestId> id_ OCTET_GUARDED_BY(mu_);
  std::optional<grpc::Status> end_ OCTET_GUARDED_BY(mu_);
  bool open_ OCTET_GUARDED_BY(mu_) = false;      // `started` is queued
  bool writing_ OCTET_GUARDED_BY(mu_) = false;   // one StartWrite is out
  bool broken_ OCTET_GUARDED_BY(mu_) = false;    // the client is gone
  bool given_up_ OCTET_GUARDED_BY(mu_) = false;  // the client does not read
  bool done_ OCTET_GUARDED_BY(mu_) = false;      // gRPC has forgotten the call
  bool cancelled_ OCTET_GUARDED_BY(mu_) = false;
  bool ended_ OCTET_GUARDED_BY(mu_) = false;
};

template <typename Response>
grpc::ServerUnaryReactor* Reply(grpc::CallbackServerContext* context,
                                absl::StatusOr<Response> result, Response* response) {
  auto* reactor = context->DefaultReactor();
  if (result.ok()) *response = *std::move(result);
  reactor->Finish(ToGrpcStatus(result.status()));
  return reactor;
}

}  // namespace

InferenceService::InferenceService(std::shared_ptr<const ServedModel> model, Engine* engine,
                                   const Clock* clock, const OutputLimits& limits)
    : model_(std::move(model)), engine_(engine), clock_(clock), limits_(limits) {}

grpc::ServerWriteReactor<GenerateResponse>* InferenceService::Generate(
    grpc::CallbackServerContext* context, const octet::v1::GenerateRequest* request) {
  auto stream = std::make_shared<GenerateStream>(context, engine_, limits_);
  stream->Start(*request, *model_, *clock_);
  // Stays alive through its own reference until OnDone, which cannot run before this returns.
  return stream.get();
}

grpc::ServerUnaryReactor* InferenceService::Tokenize(grpc::CallbackServerContext* context,
                                                     const octet::v1::TokenizeRequest* request,
                                                     octet::v1::TokenizeResponse* response) {
  return Reply(context, HandleTokenize(*request, *model_), response);
}

grpc::ServerUnaryReactor* InferenceService::Detokenize(grpc::CallbackServerContext* context,
                                                       const octet::v1::DetokenizeRequest* request,
                                                       octet::v1::DetokenizeResponse* response) {
  return Reply(context, HandleDetokenize(*request, *model_), response);
}

grpc::ServerUnaryReactor* InferenceService::GetModel(grpc::CallbackServerContext* context,
                                                     const octet::v1::GetModelRequest* request,
                                                     octet::v1::GetModelResponse* response) {
  return Reply(context, absl::StatusOr<octet::v1::GetModelResponse>(HandleGetModel(*model_)),
               response);
}

}  // namespace octet
