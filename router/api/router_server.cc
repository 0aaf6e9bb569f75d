#include "router/api/router_server.h"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <random>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "coordinator/client.h"
#include "core/log.h"
#include "core/mutex.h"
#include "core/status_macros.h"
#include "router/api/inference_service.h"
#include "router/api/served_model.h"
#include "router/api/status_proxy.h"
#include "rpc/channel.h"
#include "transport/cluster/cluster_links.h"
#include "transport/token_dispatcher.h"

namespace octet {
namespace {

constexpr char kInferenceService[] = "octet.v1.Inference";
// How soon health follows a link that broke or came back.
constexpr std::chrono::milliseconds kHealthPeriod(20);
constexpr Duration kStopGrace = Duration::Millis(500);

uint64_t RandomId() {
  std::random_device device;
  return (static_cast<uint64_t>(device()) << 32) | device();
}

ModelSummary SummaryOf(const ModelPackage& package) {
  ModelSummary summary;
  summary.compute_digest = package.compute_digest();
  summary.model_version = package.model_version();
  summary.name = package.name();
  summary.experts = package.config().experts;
  summary.layers = package.config().layers;
  summary.expert_bytes = package.expert_bytes();
  return summary;
}

}  // namespace

struct RouterServer::Impl {
  const Clock* clock = nullptr;
  RouterServerOptions options;
  std::shared_ptr<const ModelPackage> package;
  uint64_t incarnation = 0;
  std::unique_ptr<TokenDispatcher> dispatcher;
  std::unique_ptr<Engine> engine;
  std::unique_ptr<InferenceService> inference;
  std::unique_ptr<StatusProxy> status_proxy;
  std::unique_ptr<RpcServer> rpc;
  std::string address;
  std::unique_ptr<CoordinatorClient> coordinator;
  std::thread health_thread;
  std::atomic<bool> serving{false};
  std::atomic<bool> draining{false};
  std::atomic<uint64_t> active_epoch{0};

  Mutex mu;
  CondVar wake;
  bool stopping OCTET_GUARDED_BY(mu) = false;

  absl::Status StartEngine();
  absl::Status StartServer();
  absl::Status JoinCluster();
  MemberReport Report() const;
  void UpdateHealth();
  void HealthLoop();
  void Stop();
};

absl::Status RouterServer::Impl::StartEngine() {
  OCTET_ASSIGN_OR_RETURN(std::shared_ptr<const Tokenizer> tokenizer,
                         OrNoTokenizer(package->LoadTokenizer()));
  OCTET_ASSIGN_OR_RETURN(RouterWeights weights, package->MapRouter(options.engine.threads));
  DispatcherOptions dispatch;
  dispatch.router = RouterId(incarnation);
  dispatch.incarnation = incarnation;
  dispatch.compute_digest = package->compute_digest();
  dispatch.model_version = package->model_version();
  OCTET_ASSIGN_OR_RETURN(ClusterLinks links,
                         MakeClusterLinks({options.transport, options.shm_directory,
                                           dispatch.router, dispatch.incarnation, options.nccl}));
  dispatch.doorbell = links.doorbell;
  dispatcher = std::make_unique<TokenDispatcher>(dispatch, std::move(links.factory), clock);
  EngineOptions engine_options = options.engine;
  if (options.nccl != nullptr) engine_options.links_device = options.nccl->device();
  OCTET_ASSIGN_OR_RETURN(engine, Engine::Start(package, std::move(weights), tokenizer,
                                               dispatcher.get(), clock, engine_options));
  ModelIdentity identity{package->config(), package->name(), engine->compute_digest(),
                         engine->context_max()};
  inference = std::make_unique<InferenceService>(
      std::make_shared<ServedModel>(std::move(identity), std::move(tokenizer)), engine.get(),
      clock);
  return absl::OkStatus();
}

absl::Status RouterServer::Impl::StartServer() {
  OCTET_ASSIGN_OR_RETURN(const auto channel, CreateChannel(options.coordinator));
  status_proxy = std::make_unique<StatusProxy>(channel);
  OCTET_ASSIGN_OR_RETURN(rpc,
                         RpcServer::Start(options.listen, {inference.get(), status_proxy.get()}));
  rpc->SetServing(kInferenceService, false);
  address = rpc->address();
  return absl::OkStatus();
}

absl::Status RouterServer::Impl::JoinCluster() {
  CoordinatorClientOptions join;
  join.coordinator = options.coordinator;
  join.role = MemberRole::kRouter;
  join.address = options.advertise.empty() ? address : options.advertise;
  join.incarnation = incarnation;
  join.model = SummaryOf(*package);
  join.zone = options.zone;
  join.host = options.host;
  join.pid = static_cast<uint32_t>(getpid());
  join.seed = incarnation;
  CoordinatorClientCallbacks callbacks;
  callbacks.report = [this] { return Report(); };
  callbacks.on_placement = [this](const PlacementUpdate& update) {
    if (update.phase != PlacementPhase::kActivate || update.placement == nullptr) return;
    if (update.placement->compute_digest != package->compute_digest()) {
      LogError("the cluster serves another model (compute digest ",
               update.placement->compute_digest, ", ours is ", package->compute_digest(),
               "); its placement is refused");
      return;
    }
    LogInfo("placement of epoch ", update.placement->epoch.value());
    dispatcher->SetPlacement(update.placement);
    active_epoch = update.placement->epoch.value();
  };
  callbacks.on_damaged = [this](MemberId worker) {
    engine->WorkerDamaged(WorkerId(worker.value()));
  };
  callbacks.on_refused = [](const absl::Status& status) {
    LogError("the coordinator refuses this router: ", status.message());
  };
  OCTET_ASSIGN_OR_RETURN(coordinator, CoordinatorClient::Start(join, std::move(callbacks)));
  return absl::OkStatus();
}

MemberReport RouterServer::Impl::Report() const {
  MemberReport report;
  report.state = draining  ? MemberState::kDraining
                 : serving ? MemberState::kReady
                           : MemberState::kLoading;
  report.prepared_epoch = Epoch(active_epoch);
  report.active_epoch = Epoch(active_epoch);
  const EngineStats stats = engine->stats();
  report.load.requests_running = stats.running;
  report.load.requests_waiting = stats.waiting;
  report.load.tokens_generated = stats.generated_tokens;
  report.load.prefix_cache_queries = stats.prefix_cache_queries;
  report.load.prefix_cache_hits = stats.prefix_cache_hits;
  report.load.dispatches = dispatcher->stats().dispatches;
  return report;
}

void RouterServer::Impl::UpdateHealth() {
  const bool now = !draining && dispatcher->Ready();
  if (serving.exchange(now) == now) return;
  rpc->SetServing("", now);
  rpc->SetServing(kInferenceService, now);
  LogInfo(now ? "serving: every expert has a live replica" : "not serving");
  coordinator->ReportNow();
  if (!now || !options.on_ready) return;
  options.on_ready();
  options.on_ready = nullptr;
}

void RouterServer::Impl::HealthLoop() {
  while (true) {
    UpdateHealth();
    MutexLock lock(mu);
    if (!stopping) wake.WaitFor(mu, kHealthPeriod);
    if (stopping) return;
  }
}

void RouterServer::Impl::Stop() {
  {
    MutexLock lock(mu);
    if (stopping) return;
    stopping = true;
    wake.NotifyAll();
  }
  if (health_thread.joinable()) health_thread.join();
  if (coordinator != nullptr) coordinator->Stop();
  // Cancels calls after the grace; each of them ends its request, which needs the engine.
  if (dispatcher != nullptr) dispatcher->Stop();
  if (rpc != nullptr) rpc->Shutdown(kStopGrace);
  engine.reset();
}

absl::StatusOr<std::unique_ptr<RouterServer>> RouterServer::Start(
    RouterServerOptions options, std::shared_ptr<const ModelPackage> package, const Clock* clock) {
  auto impl = std::make_unique<Impl>();
  impl->clock = clock;
  impl->options = std::move(options);
  impl->package = std::move(package);
  impl->incarnation = RandomId();
  auto server = std::unique_ptr<RouterServer>(new RouterServer(std::move(impl)));
  OCTET_RETURN_IF_ERROR(server->impl_->StartEngine());
  OCTET_RETURN_IF_ERROR(server->impl_->StartServer());
  OCTET_RETURN_IF_ERROR(server->impl_->JoinCluster());
  server->impl_->health_thread = std::thread([impl = server->impl_.get()] { impl->HealthLoop(); });
  return server;
}

RouterServer::RouterServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

RouterServer::~RouterServer() { Stop(); }

const std::string& RouterServer::address() const { return impl_->address; }

bool RouterServer::serving() const { return impl_->serving; }

EngineStats RouterServer::stats() const { return impl_->engine->stats(); }

void RouterServer::Drain(Duration timeout) {
  impl_->draining = true;
  {
    MutexLock lock(impl_->mu);
    impl_->wake.NotifyAll();
  }
  impl_->engine->Drain(impl_->clock->Now() + timeout);
}

void RouterServer::Stop() { impl_->Stop(); }

}  // namespace octet
