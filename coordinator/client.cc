#include "coordinator/client.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/cluster_codec.h"
#include "core/limits.h"
#include "core/log.h"
#include "core/status_macros.h"
#include "rpc/channel.h"
#include "rpc/placement_codec.h"
#include "rpc/status_details.h"

namespace octet {
namespace {

std::chrono::system_clock::time_point DeadlineIn(Duration d) {
  return std::chrono::system_clock::now() + std::chrono::nanoseconds(d.ns);
}

octet::v1::LoadReport LoadToProto(const MemberLoad& load) {
  octet::v1::LoadReport report;
  for (size_t e = 0; e < load.expert_rows.size() && e < kExpertsMax; ++e) {
    if (load.expert_rows[e] == 0) continue;
    auto* expert = report.add_experts();
    expert->set_expert(static_cast<uint32_t>(e));
    expert->set_tokens(load.expert_rows[e]);
  }
  report.set_queue_frames(load.queue_frames);
  report.set_dispatches(load.dispatches);
  report.set_compute_ns(load.compute_ns);
  report.set_resident_bytes(load.resident_bytes);
  report.set_requests_running(load.requests_running);
  report.set_requests_waiting(load.requests_waiting);
  report.set_tokens_generated(load.tokens_generated);
  report.set_prefix_cache_queries(load.prefix_cache_queries);
  report.set_prefix_cache_hits(load.prefix_cache_hits);
  return report;
}

// Answers that trying again as it is will not change.
bool Refusal(const grpc::Status& status) {
  switch (status.error_code()) {
    case grpc::StatusCode::INVALID_ARGUMENT:
    case grpc::StatusCode::FAILED_PRECONDITION:
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
    case grpc::StatusCode::UNIMPLEMENTED:
      return true;
    default:
      return false;
  }
}

}  // namespace

CoordinatorClient::CoordinatorClient(const CoordinatorClientOptions& options,
                                     CoordinatorClientCallbacks callbacks,
                                     std::shared_ptr<grpc::Channel> channel)
    : options_(options),
      callbacks_(std::move(callbacks)),
      channel_(std::move(channel)),
      stub_(octet::v1::Coordinator::NewStub(channel_)),
      session_(options.seed) {}

absl::StatusOr<std::unique_ptr<CoordinatorClient>> CoordinatorClient::Start(
    const CoordinatorClientOptions& options, CoordinatorClientCallbacks callbacks) {
  OCTET_RETURN_IF_ERROR(ParseHostPort(options.address).status());
  ChannelOptions channel_options;
  channel_options.reconnect_min = Duration::Millis(kReconnectMsMin);
  channel_options.reconnect_max = Duration::Millis(kReconnectMsMax / 2);
  OCTET_ASSIGN_OR_RETURN(auto channel, CreateChannel(options.coordinator, channel_options));
  auto client = std::unique_ptr<CoordinatorClient>(
      new CoordinatorClient(options, std::move(callbacks), std::move(channel)));
  CoordinatorClient* raw = client.get();
  client->thread_ = std::thread([raw] { raw->Run(); });
  return client;
}

CoordinatorClient::~CoordinatorClient() { Stop(); }

void CoordinatorClient::Stop() {
  {
    MutexLock lock(mu_);
    stopping_ = true;
    if (call_ != nullptr) call_->TryCancel();
    if (watch_ != nullptr) watch_->TryCancel();
    wake_.NotifyAll();
  }
  if (thread_.joinable()) thread_.join();
}

void CoordinatorClient::ReportNow() {
  MutexLock lock(mu_);
  poked_ = true;
  wake_.NotifyAll();
}

bool CoordinatorClient::Sleep(Duration wait) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::nanoseconds(wait.ns);
  MutexLock lock(mu_);
  while (!stopping_ && !poked_ && !watch_ended_) {
    const auto left = until - std::chrono::steady_clock::now();
    if (left <= left.zero()) break;
    wake_.WaitFor(mu_, left);
  }
  poked_ = false;
  return !stopping_;
}

void CoordinatorClient::Run() {
  bool running = true;
  while (running) {
    const MemberSession::Then then = connected() ? Beat() : Register();
    if (then.end_watch) EndWatch();
    running = Sleep(then.wait);
    if (running && then.start_watch) StartWatch();
  }
  EndWatch();
  MutexLock lock(mu_);
  session_.Disconnect();
}

MemberId CoordinatorClient::id() const {
  MutexLock lock(mu_);
  return session_.id();
}

bool CoordinatorClient::connected() const {
  MutexLock lock(mu_);
  return session_.registered();
}

grpc::Status CoordinatorClient::Call(
    const std::function<grpc::Status(grpc::ClientContext*)>& call) {
  grpc::ClientContext context;
  context.set_deadline(DeadlineIn(Duration::Millis(kCoordinatorCallMs)));
  {
    MutexLock lock(mu_);
    if (stopping_) return grpc::Status::CANCELLED;
    call_ = &context;
  }
  const grpc::Status status = call(&context);
  MutexLock lock(mu_);
  call_ = nullptr;
  return status;
}

MemberSession::Then CoordinatorClient::Register() {
  octet::v1::RegisterRequest request;
  request.set_role(static_cast<octet::v1::Role>(options_.role));
  request.set_address(options_.address);
  request.set_incarnation(options_.incarnation);
  *request.mutable_model() = ModelToProto(options_.model);
  request.set_zone(options_.zone);
  request.set_host(options_.host);
  request.set_pid(options_.pid);
  request.set_memory_bytes(options_.memory_bytes);
  request.set_speed(options_.speed);
  uint32_t failures;
  {
    MutexLock lock(mu_);
    request.set_seen_term(session_.seen_term());
    request.set_seen_epoch(session_.seen_epoch().value());
    request.set_previous_id(session_.id().value());
    failures = session_.failures();
  }
  for (const ExpertId expert : callbacks_.report().held) request.add_held(expert.value());
  octet::v1::RegisterResponse response;
  const grpc::Status status = Call(
      [&](grpc::ClientContext* context) { return stub_->Register(context, request, &response); });
  if (!status.ok()) {
    if (failures == 0 || Refusal(status)) {
      LogWarning("coordinator ", options_.coordinator, ": ", status.error_message());
    }
    if (Refusal(status) && callbacks_.on_refused) callbacks_.on_refused(FromGrpcStatus(status));
    MutexLock lock(mu_);
    return session_.RegisterFailed();
  }
  LogInfo("registered with coordinator ", options_.coordinator, " as ", response.id());
  MutexLock lock(mu_);
  return session_.Registered(MemberId(response.id()), response.term(),
                             Duration::Millis(response.heartbeat_ms()));
}

MemberSession::Then CoordinatorClient::Beat() {
  const MemberReport report = callbacks_.report();
  octet::v1::HeartbeatRequest request;
  bool watch_ended;
  {
    MutexLock lock(mu_);
    request.set_id(session_.id().value());
    request.set_term(session_.term());
    watch_ended = watch_ended_;
  }
  request.set_incarnation(options_.incarnation);
  request.set_state(MemberStateName(report.state));
  request.set_prepared_epoch(report.prepared_epoch.value());
  request.set_active_epoch(report.active_epoch.value());
  for (const ExpertId expert : report.held) request.add_held(expert.value());
  *request.mutable_load() = LoadToProto(report.load);
  request.set_prepare_error(report.prepare_error.substr(0, kPrepareErrorBytesMax));
  request.set_prepare_error_epoch(report.prepare_error_epoch.value());
  octet::v1::HeartbeatResponse response;
  const grpc::Status status = Call(
      [&](grpc::ClientContext* context) { return stub_->Heartbeat(context, request, &response); });
  if (!status.ok()) {
    LogWarning("coordinator ", options_.coordinator, " does not answer: ", status.error_message());
  }
  MutexLock lock(mu_);
  return session_.Beaten(status.ok() && response.known(), watch_ended);
}

void CoordinatorClient::StartWatch() {
  auto context = std::make_shared<grpc::ClientContext>();
  MemberId id;
  uint64_t term;
  {
    MutexLock lock(mu_);
    if (stopping_) return;
    watch_ = context;
    watch_ended_ = false;
    id = session_.id();
    term = session_.term();
  }
  watch_thread_ = std::thread([this, context, id, term] { ReadWatch(context, id, term); });
}

void CoordinatorClient::EndWatch() {
  {
    MutexLock lock(mu_);
    if (watch_ != nullptr) watch_->TryCancel();
    watch_.reset();
  }
  if (watch_thread_.joinable()) watch_thread_.join();
  MutexLock lock(mu_);
  watch_ended_ = false;
}

void CoordinatorClient::ReadWatch(std::shared_ptr<grpc::ClientContext> context, MemberId id,
                                  uint64_t term) {
  octet::v1::WatchPlacementRequest request;
  request.set_id(id.value());
  request.set_term(term);
  const auto reader = stub_->WatchPlacement(context.get(), request);
  octet::v1::PlacementEvent event;
  while (reader->Read(&event)) Deliver(id, event);
  const grpc::Status status = reader->Finish();
  MutexLock lock(mu_);
  if (!stopping_ && watch_ == context) {
    LogDebug("placement stream ended: ", status.error_message());
  }
  watch_ended_ = true;
  wake_.NotifyAll();
}

void CoordinatorClient::Deliver(MemberId id, const octet::v1::PlacementEvent& event) {
  if (callbacks_.on_damaged) {
    for (const uint64_t worker : event.damaged()) callbacks_.on_damaged(MemberId(worker));
  }
  auto placement = PlacementFromProto(event.table());
  const bool phase_known = event.phase() >= octet::v1::PLACEMENT_PHASE_PREPARE &&
                           event.phase() <= octet::v1::PLACEMENT_PHASE_ABORT;
  if (!placement.ok() || !phase_known || placement->epoch.value() > kSeenMax ||
      event.term() > kSeenMax) {
    LogWarning(
        "dropped a malformed placement from the coordinator: ",
        placement.ok() ? absl::string_view("phase, term or epoch") : placement.status().message());
    return;
  }
  const PlacementPhase phase = static_cast<PlacementPhase>(event.phase());
  {
    MutexLock lock(mu_);
    if (!session_.Take(phase, event.term(), placement->epoch)) return;
  }
  callbacks_.on_placement(
      {id, event.term(), phase, std::make_shared<const Placement>(*std::move(placement))});
}

absl::StatusOr<octet::v1::StatusResponse> FetchClusterStatus(const std::string& coordinator,
                                                             Duration timeout) {
  OCTET_ASSIGN_OR_RETURN(const auto channel, CreateChannel(coordinator));
  const auto stub = octet::v1::Coordinator::NewStub(channel);
  grpc::ClientContext context;
  context.set_deadline(DeadlineIn(timeout));
  octet::v1::StatusResponse response;
  const grpc::Status status = stub->Status(&context, octet::v1::StatusRequest(), &response);
  if (!status.ok()) return FromGrpcStatus(status);
  return response;
}

absl::Status DrainWorker(const std::string& coordinator, MemberId worker, Duration timeout,
                         const std::function<void(const octet::v1::DrainProgress&)>& on_progress) {
  OCTET_ASSIGN_OR_RETURN(const auto channel, CreateChannel(coordinator));
  const auto stub = octet::v1::Coordinator::NewStub(channel);
  grpc::ClientContext context;
  context.set_deadline(DeadlineIn(timeout));
  octet::v1::DrainRequest request;
  request.set_worker_id(worker.value());
  const auto reader = stub->Drain(&context, request);
  octet::v1::DrainProgress progress;
  bool done = false;
  while (reader->Read(&progress)) {
    done = done || progress.done();
    if (on_progress) on_progress(progress);
  }
  const grpc::Status status = reader->Finish();
  if (!status.ok()) return FromGrpcStatus(status);
  if (done) return absl::OkStatus();
  return absl::UnavailableError("the coordinator ended the drain before it was done");
}

}  // namespace octet
