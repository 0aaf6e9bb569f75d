#include "tests/sim/client.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/limits.h"

namespace octet::sim {

ClientRequest::ClientRequest(World* world, const ClientSettings& settings, RouterAt routers,
                             octet::v1::GenerateRequest request, std::vector<TokenId> expected,
                             uint32_t first_router, MonotonicTime deadline)
    : world_(world),
      settings_(settings),
      routers_(std::move(routers)),
      state_(std::move(request)),
      expected_(std::move(expected)),
      deadline_(deadline),
      router_(first_router) {}

void ClientRequest::Attempt() {
  const uint64_t attempt = ++attempt_;
  world_->Note("client asks", router_, attempt, state_.next_index());
  const std::weak_ptr<ClientRequest> weak = weak_from_this();
  const Process here = world_->process(settings_.node);
  const auto end = [weak, attempt](const absl::Status& status) {
    if (const auto self = weak.lock()) self->OnEnd(attempt, status);
  };
  if (deadline_ != kNever) {
    const Duration left = std::max(deadline_ - world_->Now(), Duration{});
    world_->In(here, left, [end] { end(absl::DeadlineExceededError("deadline")); });
  }
  index_before_ = state_.next_index();
  Router* const router = routers_(router_);
  const uint32_t node = settings_.first_router_node + router_;
  const bool cut = world_->cut(node, here.node) || world_->cut(here.node, node);
  if (router == nullptr || cut || world_->stopped(node)) {
    const Duration heard = Duration::Millis(router == nullptr ? 1 : 1'000);
    world_->In(here, heard, [end] { end(absl::UnavailableError("no connection")); });
    return;
  }
  if (state_.started()) {
    world_->Cover(Covered::kStreamResumed);
    if (last_router_ != router_) world_->Cover(Covered::kStreamResumedElsewhere);
  }
  last_router_ = router_;
  state_.BeginStream();
  stream_ = world_->Connect(here, router->process());
  stream_->on_broken[0] = [end] { end(absl::UnavailableError("the stream broke")); };
  const octet::v1::GenerateRequest request = state_.NextRequest();
  const Duration left = deadline_ == kNever ? Duration{} : deadline_ - world_->Now();
  StreamEnds ends;
  ends.on_end = end;
  ends.on_event = [weak, attempt](const std::shared_ptr<octet::v1::GenerateResponse>& event) {
    if (const auto self = weak.lock()) self->OnEvent(attempt, *event);
  };
  stream_->Send(0, [routers = routers_, index = router_, stream = stream_, request, left, ends] {
    if (Router* const r = routers(index)) r->OnGenerate(stream, request, left, ends);
  });
}

void ClientRequest::OnEvent(uint64_t attempt, octet::v1::GenerateResponse event) {
  if (attempt != attempt_ || ended_) return;
  bool deliver = false;
  const absl::Status status = state_.Accept(event, &deliver);
  if (!status.ok()) return world_->Fail(absl::StrCat("a stream went wrong: ", status.ToString()));
  if (!deliver || !event.has_chunk()) return;
  for (const TokenId token : event.chunk().token_ids()) {
    if (received_ >= expected_.size() || token != expected_[received_]) {
      return world_->Fail(
          absl::StrCat("token ", received_, " is ", token, " instead of ",
                       received_ < expected_.size() ? absl::StrCat(expected_[received_]) : "none"));
    }
    ++received_;
  }
  world_->Note("client has", received_);
}

void ClientRequest::OnEnd(uint64_t attempt, const absl::Status& status) {
  if (attempt != attempt_ || ended_) return;
  ++attempt_;  // nothing more of that stream
  if (stream_ != nullptr) stream_->Close(0);
  stream_.reset();
  if (state_.finished()) return End(absl::OkStatus());
  if (status.ok()) return world_->Fail("a stream ended well before its last message");
  if (state_.next_index() > index_before_) failures_ = 0;
  ++failures_;
  const bool fault = absl::IsUnavailable(status) || absl::IsCancelled(status);
  faulted_ = faulted_ || fault;
  const bool again = fault || (faulted_ && absl::IsResourceExhausted(status));
  const bool late = world_->Now() >= deadline_;
  if (!again || late || failures_ >= kClientAttemptsMax) return End(status);
  const Duration delay{std::min(Duration::Millis(50).ns << std::min(failures_, 10u),
                                Duration::Millis(kClientBackoffMsMax).ns)};
  router_ = (router_ + 1) % settings_.routers;
  world_->In(world_->process(settings_.node), delay, [weak = weak_from_this()] {
    const auto self = weak.lock();
    if (self != nullptr && !self->ended_) self->Attempt();
  });
}

bool ClientRequest::MayEndWith(const absl::Status& status) const {
  if (status.ok()) return received_ == expected_.size();
  if (absl::IsResourceExhausted(status)) return settings_.overload_allowed;
  const bool of_deadline = absl::IsDeadlineExceeded(status) || absl::IsUnavailable(status);
  return of_deadline && deadline_ != kNever &&
         world_->Now() + Duration::Millis(kStepWaitMs) >= deadline_;
}

void ClientRequest::End(const absl::Status& status) {
  ended_ = true;
  status_ = status;
  world_->Note("request ended", received_, static_cast<uint64_t>(status.code()));
  if (absl::IsResourceExhausted(status)) world_->Cover(Covered::kRequestRefusedOverload);
  if (absl::IsDeadlineExceeded(status) || absl::IsUnavailable(status)) {
    world_->Cover(Covered::kRequestDeadline);
  }
  if (!MayEndWith(status)) {
    world_->Fail(absl::StrCat("a request ended after ", received_, " of ", expected_.size(),
                              " tokens with ", status.ToString()));
  }
}

}  // namespace octet::sim
