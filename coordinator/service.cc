#include "coordinator/service.h"

#include <chrono>
#include <utility>

#include "coordinator/cluster_codec.h"
#include "core/limits.h"
#include "core/log.h"
#include "rpc/status_details.h"

namespace octet {
namespace {

absl::Status BusyError() {
  absl::Status status =
      absl::UnavailableError("the coordinator is stopping or has too many calls waiting");
  SetRetryDelay(&status, Duration::Millis(kHeartbeatMs));
  return status;
}

absl::Status StoppedError() { return absl::UnavailableError("the coordinator is stopping"); }

// A table in force outdates older ones; a command to prepare, or its withdrawal, the one before.
bool Outdates(const octet::v1::PlacementEvent& newer, const octet::v1::PlacementEvent& older) {
  const bool newer_active = newer.phase() == octet::v1::PLACEMENT_PHASE_ACTIVATE;
  const bool older_active = older.phase() == octet::v1::PLACEMENT_PHASE_ACTIVATE;
  return newer_active == older_active;
}

bool OutdatesProgress(const octet::v1::DrainProgress&, const octet::v1::DrainProgress&) {
  return true;
}

grpc::ServerUnaryReactor* Refuse(grpc::CallbackServerContext* context, const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpcStatus(status));
  return reactor;
}

}  // namespace

CoordinatorService::CoordinatorService(const ClusterSettings& settings,
                                       std::unique_ptr<StateStore> store,
                                       const std::optional<DurableState>& restored,
                                       uint64_t fresh_term, const Clock* clock,
                                       std::function<void(bool)> on_storing)
    : settings_(settings),
      clock_(clock),
      on_storing_(std::move(on_storing)),
      store_(std::move(store)),
      state_(settings, restored, fresh_term, clock->Now()) {}

CoordinatorService::~CoordinatorService() { Stop(); }

void CoordinatorService::Start() {
  owner_ = std::thread([this] { Run(); });
}

void CoordinatorService::Stop() {
  {
    MutexLock lock(mu_);
    stopping_ = true;
    wake_.NotifyAll();
  }
  if (owner_.joinable()) owner_.join();
}

bool CoordinatorService::Post(std::function<void()> work, bool must_run) {
  MutexLock lock(mu_);
  if (stopping_ || (!must_run && queue_.size() >= kCoordinatorQueueMax)) return false;
  queue_.push_back(std::move(work));
  wake_.NotifyAll();
  return true;
}

uint64_t CoordinatorService::NextNumber() {
  MutexLock lock(mu_);
  return next_number_++;
}

grpc::ServerUnaryReactor* CoordinatorService::Register(grpc::CallbackServerContext* context,
                                                       const octet::v1::RegisterRequest* request,
                                                       octet::v1::RegisterResponse* response) {
  auto event = DecodeRegister(*request);
  if (!event.ok()) return Refuse(context, event.status());
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  event->call = NextNumber();
  const bool posted = Post([this, event = *std::move(event), reactor, response] {
    registers_[event.call] = {reactor, response};
    Step(event);
  });
  if (!posted) reactor->Finish(ToGrpcStatus(BusyError()));
  return reactor;
}

grpc::ServerUnaryReactor* CoordinatorService::Heartbeat(grpc::CallbackServerContext* context,
                                                        const octet::v1::HeartbeatRequest* request,
                                                        octet::v1::HeartbeatResponse* response) {
  auto event = DecodeHeartbeat(*request);
  if (!event.ok()) return Refuse(context, event.status());
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  event->call = NextNumber();
  const bool posted =
      Post([this, event = *std::move(event), load = request->load(), reactor, response]() mutable {
        heartbeats_[event.call] = {reactor, response, event.id, std::move(load)};
        Step(event);
      });
  if (!posted) reactor->Finish(ToGrpcStatus(BusyError()));
  return reactor;
}

grpc::ServerWriteReactor<octet::v1::PlacementEvent>* CoordinatorService::WatchPlacement(
    grpc::CallbackServerContext*, const octet::v1::WatchPlacementRequest* request) {
  const uint64_t watch = NextNumber();
  auto writer = WatchWriter::Make(Outdates, [this, watch] {
    Post(
        [this, watch] {
          watches_.erase(watch);
          Step(WatchClosedEvent{watch});
        },
        /*must_run=*/true);
  });
  const WatchOpenedEvent event{watch, MemberId(request->id()), request->term()};
  const bool posted = Post([this, event, writer] {
    watches_[event.watch] = writer;
    Step(event);
  });
  if (!posted) writer->End(ToGrpcStatus(BusyError()));
  return writer.get();
}

grpc::ServerUnaryReactor* CoordinatorService::Status(grpc::CallbackServerContext* context,
                                                     const octet::v1::StatusRequest*,
                                                     octet::v1::StatusResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const bool posted = Post([this, reactor, response] {
    *response = StatusToProto(state_.Snapshot(clock_->Now()), loads_);
    reactor->Finish(grpc::Status::OK);
  });
  if (!posted) reactor->Finish(ToGrpcStatus(BusyError()));
  return reactor;
}

grpc::ServerWriteReactor<octet::v1::DrainProgress>* CoordinatorService::Drain(
    grpc::CallbackServerContext*, const octet::v1::DrainRequest* request) {
  const uint64_t drain = NextNumber();
  auto writer = DrainWriter::Make(OutdatesProgress, [this, drain] {
    Post(
        [this, drain] {
          drains_.erase(drain);
          Step(DrainClosedEvent{drain});
        },
        /*must_run=*/true);
  });
  const DrainRequestedEvent event{drain, MemberId(request->worker_id())};
  const bool posted = Post([this, event, writer] {
    drains_[event.drain] = writer;
    Step(event);
  });
  if (!posted) writer->End(ToGrpcStatus(BusyError()));
  return writer.get();
}

bool CoordinatorService::WaitOrStopped(Duration wait) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::nanoseconds(wait.ns);
  MutexLock lock(mu_);
  while (!stopping_) {
    const auto left = until - std::chrono::steady_clock::now();
    if (left <= left.zero()) break;
    wake_.WaitFor(mu_, left);
  }
  return stopping_;
}

void CoordinatorService::Run() {
  const Duration tick{std::max<int64_t>(settings_.settle.ns / 4, 1'000'000)};
  // Persists the new term before anyone hears of it.
  Step(TickEvent{});
  MonotonicTime last_tick = clock_->Now();
  while (true) {
    std::function<void()> work;
    {
      MutexLock lock(mu_);
      if (stopping_) break;
      if (queue_.empty()) wake_.WaitFor(mu_, std::chrono::nanoseconds(tick.ns));
      if (stopping_) break;
      if (!queue_.empty()) {
        work = std::move(queue_.front());
        queue_.pop_front();
      }
    }
    if (work) work();
    if (!work || clock_->Now() >= last_tick + tick) {
      Step(TickEvent{});
      last_tick = clock_->Now();
    }
  }
  EndEverything();
}

void CoordinatorService::Step(const ClusterEvent& event) {
  for (const ClusterAction& action : state_.Step(event, clock_->Now())) {
    std::visit([this](const auto& a) { Perform(a); }, action);
  }
}

// Nothing is announced before it is on disk: the owner thread waits for the disk, while the data
// plane serves on. The state machine does not count that time against anyone's lease.
void CoordinatorService::Perform(const PersistAction& action) {
  while (true) {
    const absl::Status status = store_->Save(action.state);
    if (status.ok()) {
      if (!storing_) {
        LogInfo("the store takes writes again");
        on_storing_(true);
      }
      storing_ = true;
      return;
    }
    if (storing_) {
      LogError("cannot save the cluster's state, nothing changes until it works: ",
               status.message());
      on_storing_(false);
    }
    storing_ = false;
    if (WaitOrStopped(Duration::Millis(kStoreRetryMs))) return;
  }
}

void CoordinatorService::Perform(const RegisterReplyAction& action) {
  const RegisterCall call = registers_.at(action.call);
  registers_.erase(action.call);
  if (!storing_) {
    call.reactor->Finish(ToGrpcStatus(StoppedError()));
    return;
  }
  if (action.result.ok()) {
    call.response->set_id(action.result->id.value());
    call.response->set_term(action.result->term);
    call.response->set_lease_ms(static_cast<uint32_t>(settings_.lease.ns / 1'000'000));
    call.response->set_heartbeat_ms(static_cast<uint32_t>(settings_.heartbeat.ns / 1'000'000));
  }
  call.reactor->Finish(ToGrpcStatus(action.result.status()));
}

void CoordinatorService::Perform(const HeartbeatReplyAction& action) {
  HeartbeatCall call = std::move(heartbeats_.at(action.call));
  heartbeats_.erase(action.call);
  if (action.known) KeepLoad(call.id, std::move(call.load));
  call.response->set_known(action.known);
  call.response->set_term(action.term);
  call.reactor->Finish(grpc::Status::OK);
}

void CoordinatorService::Perform(const SendPlacementAction& action) {
  const auto found = watches_.find(action.watch);
  // Not stored means stopping: see Perform(PersistAction).
  if (found == watches_.end() || !storing_) return;
  found->second->Send(PlacementEventToProto(action));
}

void CoordinatorService::Perform(const CloseWatchAction& action) {
  const auto found = watches_.find(action.watch);
  if (found != watches_.end()) found->second->End(ToGrpcStatus(action.status));
}

void CoordinatorService::Perform(const DrainUpdateAction& action) {
  const auto found = drains_.find(action.drain);
  if (found == drains_.end()) return;
  if (!action.status.ok()) {
    found->second->End(ToGrpcStatus(action.status));
    return;
  }
  octet::v1::DrainProgress progress;
  progress.set_experts_left(action.experts_left);
  progress.set_done(action.done);
  progress.set_message(action.message);
  found->second->Send(std::move(progress));
  if (action.done) found->second->End(grpc::Status::OK);
}

void CoordinatorService::Perform(const LogAction& action) {
  if (LogEnabled(action.level)) Log(action.level, action.text);
}

void CoordinatorService::KeepLoad(MemberId id, octet::v1::LoadReport load) {
  loads_[id] = std::move(load);
  if (loads_.size() <= kWatchersMax + kWorkersMax) return;
  // Members come and go; the reports of those forgotten go here.
  std::map<MemberId, octet::v1::LoadReport> kept;
  for (const VersionSnapshot& version : state_.Snapshot(clock_->Now()).versions) {
    for (const MemberSnapshot& member : version.members) {
      const auto found = loads_.find(member.record.id);
      if (found != loads_.end()) kept.insert(*found);
    }
  }
  loads_ = std::move(kept);
}

void CoordinatorService::EndEverything() {
  // What was queued has reactors to finish: run it against a stopped state.
  std::deque<std::function<void()>> rest;
  {
    MutexLock lock(mu_);
    rest.swap(queue_);
  }
  for (const auto& work : rest) work();
  for (auto& entry : registers_) entry.second.reactor->Finish(ToGrpcStatus(StoppedError()));
  for (auto& entry : heartbeats_) entry.second.reactor->Finish(ToGrpcStatus(StoppedError()));
  for (auto& entry : watches_) entry.second->End(ToGrpcStatus(StoppedError()));
  for (auto& entry : drains_) entry.second->End(ToGrpcStatus(StoppedError()));
  registers_.clear();
  heartbeats_.clear();
  watches_.clear();
  drains_.clear();
}

}  // namespace octet
