#include "client/client.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/router_choice.h"
#include "client/stream_state.h"
#include "core/limits.h"
#include "core/mutex.h"
#include "core/status_macros.h"
#include "octet/v1/cluster.grpc.pb.h"
#include "octet/v1/inference.grpc.pb.h"
#include "rpc/channel.h"
#include "rpc/status_details.h"

namespace octet {
namespace {

using SystemTime = std::chrono::system_clock::time_point;

// A unary call answers at once or not at all.
constexpr Duration kUnaryTimeout = Duration::Millis(10'000);
// How long a wait for a connection goes on before it looks for a cancellation.
constexpr Duration kConnectSlice = Duration::Millis(50);

SystemTime After(Duration d) {
  return std::chrono::system_clock::now() + std::chrono::nanoseconds(d.ns);
}

// The router's failure with what the user can do about it.
absl::Status WithHint(const absl::Status& status, const std::string& address) {
  if (status.code() != absl::StatusCode::kUnavailable) return status;
  const bool unreachable =
      !GetErrorDetail(status).has_value() && !GetRetryDelay(status).has_value();
  if (!unreachable) return status;
  absl::Status hinted(status.code(),
                      absl::StrCat("no answer from ", address, ": ", status.message(),
                                   "; is `octet up` running there?"));
  return hinted;
}

}  // namespace

struct CancelToken::State {
  Mutex mu;
  CondVar changed;
  bool cancelled OCTET_GUARDED_BY(mu) = false;
  std::set<grpc::ClientContext*> contexts OCTET_GUARDED_BY(mu);  // of the calls in flight
};

CancelToken::CancelToken() : state_(std::make_shared<State>()) {}

void CancelToken::Cancel() const {
  MutexLock lock(state_->mu);
  state_->cancelled = true;
  for (grpc::ClientContext* context : state_->contexts) context->TryCancel();
  state_->changed.NotifyAll();
}

bool CancelToken::cancelled() const {
  MutexLock lock(state_->mu);
  return state_->cancelled;
}

// One router that a client knows.
struct Router {
  std::string address;
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<octet::v1::Inference::Stub> inference;
  std::unique_ptr<octet::v1::Coordinator::Stub> coordinator;
};

struct Client::Impl {
  ClientOptions options;
  std::vector<Router> routers;
  PreferredRouter preferred;

  SystemTime Deadline() const {
    return options.timeout.ns == 0 ? SystemTime::max() : After(options.timeout);
  }

  // One stream with `router` from its request to its status.
  absl::Status RunStream(const Router& router, StreamState* state, const EventFn& on_event,
                         SystemTime deadline, CancelToken::State* cancel);
  // Waits, connecting to `router` meanwhile. False where a cancellation cut it short.
  bool WaitBeforeRetry(const Router& router, Duration delay, CancelToken::State* cancel);

  template <typename Response, typename Call>
  absl::StatusOr<Response> Unary(const Call& call) {
    const SystemTime deadline = After(options.timeout.ns == 0 ? kUnaryTimeout : options.timeout);
    RouterChoice choice(routers.size(), &preferred);
    while (true) {
      const Router& router = routers[choice.current()];
      grpc::ClientContext context;
      context.set_deadline(deadline);
      Response response;
      const grpc::Status status = call(router, &context, &response);
      if (status.ok()) {
        choice.Answered();
        return response;
      }
      const bool elsewhere = status.error_code() == grpc::StatusCode::UNAVAILABLE;
      if (!elsewhere || !choice.Failed()) return WithHint(FromGrpcStatus(status), router.address);
    }
  }
};

absl::StatusOr<std::unique_ptr<Client>> Client::Connect(const std::string& address,
                                                        const ClientOptions& options) {
  if (options.attempts_max < 1 || options.attempts_max > kClientAttemptsMax) {
    return absl::InvalidArgumentError(absl::StrCat("attempts_max: ", options.attempts_max,
                                                   " is not allowed; allowed is 1 to ",
                                                   kClientAttemptsMax));
  }
  auto impl = std::make_unique<Impl>();
  impl->options = options;
  for (const std::string& one : std::vector<std::string>(absl::StrSplit(address, ','))) {
    if (impl->routers.size() >= kClientRoutersMax) {
      return absl::InvalidArgumentError(
          absl::StrCat("address: ", address, " names more than ", kClientRoutersMax, " routers"));
    }
    Router router;
    router.address = one;
    OCTET_ASSIGN_OR_RETURN(router.channel, CreateChannel(one));
    router.inference = octet::v1::Inference::NewStub(router.channel);
    router.coordinator = octet::v1::Coordinator::NewStub(router.channel);
    impl->routers.push_back(std::move(router));
  }
  return std::unique_ptr<Client>(new Client(std::move(impl)));
}

Client::Client(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Client::~Client() = default;

absl::Status Client::Impl::RunStream(const Router& router, StreamState* state,
                                     const EventFn& on_event, SystemTime deadline,
                                     CancelToken::State* cancel) {
  grpc::ClientContext context;
  context.set_deadline(deadline);
  {
    MutexLock lock(cancel->mu);
    if (cancel->cancelled) return absl::CancelledError("cancelled by the caller");
    cancel->contexts.insert(&context);
  }
  state->BeginStream();
  absl::Status broken;
  auto reader = router.inference->Generate(&context, state->NextRequest());
  octet::v1::GenerateResponse event;
  while (broken.ok() && reader->Read(&event)) {
    bool deliver = false;
    broken = state->Accept(event, &deliver);
    if (deliver) on_event(event);
  }
  if (!broken.ok()) context.TryCancel();
  while (!broken.ok() && reader->Read(&event)) {
  }
  const absl::Status status = FromGrpcStatus(reader->Finish());
  MutexLock lock(cancel->mu);
  cancel->contexts.erase(&context);
  if (cancel->cancelled) return absl::CancelledError("cancelled by the caller");
  if (!broken.ok()) return broken;
  if (status.ok() && !state->finished()) {
    return absl::UnavailableError("the stream ended before its last message");
  }
  return status;
}

bool Client::Impl::WaitBeforeRetry(const Router& router, Duration delay,
                                   CancelToken::State* cancel) {
  const SystemTime until = After(delay);
  while (std::chrono::system_clock::now() < until) {
    // A synchronous channel connects only while somebody waits in it.
    const bool connected = router.channel->WaitForConnected(std::min(until, After(kConnectSlice)));
    MutexLock lock(cancel->mu);
    while (connected && !cancel->cancelled) {
      const auto left = until - std::chrono::system_clock::now();
      if (left.count() <= 0) break;
      cancel->changed.WaitFor(cancel->mu, left);
    }
    if (cancel->cancelled) return false;
  }
  return true;
}

absl::Status Client::Generate(octet::v1::GenerateRequest request, const EventFn& on_event,
                              const CancelToken& cancel) {
  StreamState state(std::move(request));
  const SystemTime deadline = impl_->Deadline();
  RouterChoice choice(impl_->routers.size(), &impl_->preferred);
  Duration backoff = impl_->options.backoff_min;
  uint32_t attempts = 0;
  // A router that may yet serve the request's version has failed since the last wait.
  bool worth_waiting = false;
  bool faulted = false;  // an attempt ended for no reason of the request's
  while (true) {
    const Router& router = impl_->routers[choice.current()];
    const uint32_t index_before = state.next_index();
    const absl::Status status =
        impl_->RunStream(router, &state, on_event, deadline, cancel.state_.get());
    const bool progress = state.next_index() > index_before;
    if (progress || status.ok()) choice.Answered();
    // All that was asked for has come; how the stream closed does not matter any more.
    if (status.ok() || state.finished()) return absl::OkStatus();
    if (progress) {
      attempts = 0;
      backoff = impl_->options.backoff_min;
    }
    // A router that goes down cancels the streams it could not finish.
    const bool fault = status.code() == absl::StatusCode::kUnavailable ||
                       (status.code() == absl::StatusCode::kCancelled && !cancel.cancelled());
    faulted = faulted || fault;
    // A full queue is the caller's to know of, unless a fault brought the request there: the queue
    // may even be full of what that fault has left behind.
    const bool again = fault || (faulted && status.code() == absl::StatusCode::kResourceExhausted);
    if (!again && !IsOtherVersion(status)) return WithHint(status, router.address);
    worth_waiting = worth_waiting || again;
    if (choice.Failed()) continue;  // another router, at once
    if (!std::exchange(worth_waiting, false)) return WithHint(status, router.address);
    if (++attempts >= impl_->options.attempts_max) return WithHint(status, router.address);
    Duration delay = GetRetryDelay(status).value_or(backoff);
    delay = std::min(delay, Duration::Millis(kClientBackoffMsMax));
    backoff = std::min(Duration{backoff.ns * 2}, Duration::Millis(kClientBackoffMsMax));
    if (After(delay) >= deadline) return WithHint(status, router.address);
    const Router& next = impl_->routers[choice.current()];
    if (!impl_->WaitBeforeRetry(next, delay, cancel.state_.get())) {
      return absl::CancelledError("cancelled by the caller");
    }
  }
}

absl::StatusOr<octet::v1::TokenizeResponse> Client::Tokenize(
    const octet::v1::TokenizeRequest& request) {
  return impl_->Unary<octet::v1::TokenizeResponse>(
      [&](const Router& router, auto* context, auto* response) {
        return router.inference->Tokenize(context, request, response);
      });
}

absl::StatusOr<octet::v1::DetokenizeResponse> Client::Detokenize(
    const octet::v1::DetokenizeRequest& request) {
  return impl_->Unary<octet::v1::DetokenizeResponse>(
      [&](const Router& router, auto* context, auto* response) {
        return router.inference->Detokenize(context, request, response);
      });
}

absl::StatusOr<octet::v1::GetModelResponse> Client::GetModel() {
  return impl_->Unary<octet::v1::GetModelResponse>(
      [&](const Router& router, auto* context, auto* response) {
        return router.inference->GetModel(context, octet::v1::GetModelRequest(), response);
      });
}

absl::StatusOr<octet::v1::StatusResponse> Client::Status() {
  return impl_->Unary<octet::v1::StatusResponse>(
      [&](const Router& router, auto* context, auto* response) {
        return router.coordinator->Status(context, octet::v1::StatusRequest(), response);
      });
}

}  // namespace octet
