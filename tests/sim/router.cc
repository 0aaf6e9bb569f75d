#include "tests/sim/router.h"

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "router/api/inference_codec.h"

namespace octet::sim {

// One request's way back to its client.
class Router::Sink final : public GenerationSink {
 public:
  Sink(std::shared_ptr<Connection> stream, StreamEnds ends)
      : stream_(std::move(stream)), ends_(std::move(ends)) {}

  void Send(octet::v1::GenerateResponse response) {
    auto shared = std::make_shared<octet::v1::GenerateResponse>(std::move(response));
    stream_->Send(1, [to = ends_.on_event, shared] { to(shared); });
  }
  void OnChunk(GenerationChunk chunk) override { Send(ChunkToProto(chunk)); }
  void OnFinished(GenerationResult result) override {
    Send(FinishedToProto(result));
    OnError(absl::OkStatus());
  }
  void OnError(absl::Status status) override {
    stream_->on_broken[1] = nullptr;
    stream_->Send(1, [to = ends_.on_end, status] { to(status); });
  }

 private:
  const std::shared_ptr<Connection> stream_;
  const StreamEnds ends_;
};

Router::Router(World* world, uint32_t node, const RouterSettings& settings,
               CoordinatorAt coordinators, WorkerAt workers)
    : world_(world),
      node_(node),
      settings_(settings),
      served_({settings.model.Config(), "sim", settings.model.Digest(), 512}, settings.tokenizer) {
  world_->Start(node);
  process_ = world_->process(node);
  MemberRecord record;
  record.role = MemberRole::kRouter;
  record.address = absl::StrCat("router:", node);
  record.incarnation = world_->Random() >> 2;
  DispatcherOptions dispatch;
  dispatch.router = RouterId(record.incarnation);
  dispatch.incarnation = record.incarnation;
  dispatch.compute_digest = settings.model.Digest();
  dispatch.model_version = "1";
  dispatch.wait = [this](Duration longest) { Wait(longest); };
  const LinkFactory links = [this, workers](const PlacedWorker& placed) {
    uint32_t at = 0;
    (void)absl::SimpleAtoi(placed.address.substr(placed.address.find(':') + 1), &at);
    return std::make_shared<Link>(
        world_, process_, at, workers, [this] { Poke(); }, settings_.bug);
  };
  dispatcher_ = std::make_unique<TokenDispatcher>(dispatch, links, world_);
  view_ = std::make_unique<PlacementView>(dispatcher_.get(), dispatch.compute_digest,
                                          settings.model.experts);
  forward_ =
      std::make_unique<SimForwardPass>(settings.model, dispatcher_.get(), settings.kv_blocks);
  SchedulerOptions scheduling;
  scheduling.kv_blocks = settings.kv_blocks;
  scheduling.compute_digest = dispatch.compute_digest;
  scheduling.running_max = settings.running_max;
  scheduling.waiting_max = settings.waiting_max + scheduling.running_max;
  scheduling.step_tokens_max = 32;
  loop_ = std::make_unique<StepLoop>(forward_.get(), settings_.tokenizer.get(), world_, scheduling,
                                     settings.micro_batches);
  ModelSummary model;
  model.compute_digest = dispatch.compute_digest;
  model.model_version = "1";
  model.name = "sim";
  model.experts = settings.model.experts;
  model.layers = settings.model.layers;
  Member::Callbacks callbacks;
  callbacks.report = [this] { return Report(); };
  callbacks.on_placement = [this](const PlacementUpdate& update) {
    if (update.phase != PlacementPhase::kActivate) return;
    const absl::Status applied = view_->Apply(update.placement);
    if (!applied.ok())
      world_->Fail(absl::StrCat("a router refuses a placement: ", applied.ToString()));
    const Epoch now = dispatcher_->placement()->epoch;
    if (now < active_epoch_) world_->Fail("a router's placement went back");
    active_epoch_ = now;
    Poke();
  };
  member_ = std::make_shared<Member>(world_, node, record, model, std::move(coordinators),
                                     std::move(callbacks));
  fiber_ = std::make_unique<Fiber>([this] { Run(); });
  world_->In(process_, Duration{}, [this] {
    fiber_->Resume();
    member_->Start();
  });
}

Router::~Router() {
  if (world_->Lives(process_)) world_->Kill(node_);
  ending_ = true;
  member_.reset();
  dispatcher_->Stop();
  // Every wait ends at once now, and with it the step in progress.
  while (!fiber_->ended()) fiber_->Resume();
  AddCoverage();
}

void Router::Wait(Duration longest) {
  if (ending_) return;
  if (!std::exchange(poked_, false)) {
    const uint64_t wait = wait_ = ++waits_;
    world_->In(process_, longest, [this, wait] {
      if (wait_ == wait) fiber_->Resume();
    });
    fiber_->Suspend();
    wait_ = 0;
  }
  poked_ = false;
}

void Router::Poke() {
  if (poked_ || ending_) return;
  poked_ = true;
  if (wait_ == 0) return;
  world_->In(process_, Duration{}, [this, wait = wait_] {
    if (wait_ == wait) fiber_->Resume();
  });
}

// Engine::Run without its thread.
void Router::Run() {
  bool busy = false;
  while (!ending_) {
    if (!busy && inbox_.empty() && cancels_.empty()) {
      Wait(Duration::Millis(60'000));
      if (ending_) break;
    }
    std::vector<IncomingRequest> incoming = std::exchange(inbox_, {});
    for (IncomingRequest& request : incoming) loop_->Add(std::move(request));
    for (const RequestId id : std::exchange(cancels_, {})) {
      loop_->Fail(id, absl::CancelledError("the request was cancelled"));
    }
    busy = loop_->Step();
    queued_ -= loop_->TakeFlow().admitted;
  }
  loop_->FailAll(absl::CancelledError("the process ends"));
}

void Router::OnGenerate(const std::shared_ptr<Connection>& stream,
                        const octet::v1::GenerateRequest& request, Duration time_left,
                        StreamEnds ends) {
  world_->Note("router hears a request", node_, wait_, poked_ ? 1 : 0);
  const auto sink = std::make_shared<Sink>(stream, std::move(ends));
  auto resolved = ResolveGenerateRequest(request, served_, {"drawn", world_->Random()});
  if (!resolved.ok()) return sink->OnError(resolved.status());
  if (time_left.ns > 0) resolved->deadline = world_->Now() + time_left;
  if (queued_ >= settings_.waiting_max) {
    return sink->OnError(absl::ResourceExhaustedError("the queue is full"));
  }
  ++queued_;
  const RequestId id(++last_id_);
  sink->Send(StartedToProto(*resolved, served_));
  IncomingRequest incoming;
  incoming.id = id;
  incoming.tokens_max = resolved->stop.max_tokens;
  incoming.request = *std::move(resolved);
  incoming.sink = sink;
  incoming.submitted = world_->Now();
  inbox_.push_back(std::move(incoming));
  stream->on_broken[1] = [this, id] {
    cancels_.push_back(id);
    Poke();
  };
  Poke();
}

MemberReport Router::Report() const {
  MemberReport report;
  report.state = dispatcher_->Ready() ? MemberState::kReady : MemberState::kLoading;
  report.prepared_epoch = report.active_epoch = active_epoch_;
  return report;
}

void Router::AddCoverage() {
  const DispatcherStats stats = dispatcher_->stats();
  Coverage& c = world_->coverage;
  const auto add = [&](Covered what, uint64_t n) { c.counts[static_cast<size_t>(what)] += n; };
  add(Covered::kHedgeSent, stats.hedges);
  add(Covered::kHedgeWon, stats.hedges_won);
  add(Covered::kRedispatched, stats.redispatches);
  add(Covered::kStepWaitedWithoutReplica, stats.waits_without_replica);
  const EngineStats engine = loop_->stats();
  add(Covered::kRequestPreempted, engine.preemptions);
  add(Covered::kPrefixCacheHit, engine.prefix_cache_hits);
}

}  // namespace octet::sim
