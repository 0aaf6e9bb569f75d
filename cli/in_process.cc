#include "cli/in_process.h"

#include <chrono>
#include <deque>
#include <random>
#include <utility>

#include "core/mutex.h"
#include "core/status_macros.h"
#include "expert_worker/local_experts.h"
#include "expert_worker/worker_model.h"
#include "router/api/inference_codec.h"

namespace octet {
namespace {

// How soon a waiting call notices that its caller cancelled it.
constexpr std::chrono::milliseconds kCancelPoll(20);

// Carries one request's events from the engine's thread to the caller's.
class EventQueue final : public GenerationSink {
 public:
  void OnChunk(GenerationChunk chunk) override { Push(ChunkToProto(chunk)); }
  void OnFinished(GenerationResult result) override {
    Push(FinishedToProto(result));
    End(absl::OkStatus());
  }
  void OnError(absl::Status status) override { End(std::move(status)); }

  // Waits for events until the request has ended; `each_wait` runs when there was none for a while.
  absl::Status Drain(const Client::EventFn& on_event, const std::function<void()>& each_wait) {
    while (true) {
      std::deque<octet::v1::GenerateResponse> events;
      bool ended = false;
      {
        MutexLock lock(mu_);
        if (events_.empty() && !ended_) changed_.WaitFor(mu_, kCancelPoll);
        events.swap(events_);
        ended = ended_;
      }
      for (const auto& event : events) on_event(event);
      if (ended) break;
      each_wait();
    }
    MutexLock lock(mu_);
    return status_;
  }

 private:
  void Push(octet::v1::GenerateResponse event) {
    MutexLock lock(mu_);
    events_.push_back(std::move(event));
    changed_.NotifyAll();
  }
  void End(absl::Status status) {
    MutexLock lock(mu_);
    ended_ = true;
    status_ = std::move(status);
    changed_.NotifyAll();
  }

  Mutex mu_;
  CondVar changed_;
  // At most one event a token of a request that the caller itself sized.
  std::deque<octet::v1::GenerateResponse> events_ OCTET_GUARDED_BY(mu_);
  bool ended_ OCTET_GUARDED_BY(mu_) = false;
  absl::Status status_ OCTET_GUARDED_BY(mu_);
};

uint64_t DrawSeed() {
  std::random_device device;
  return (static_cast<uint64_t>(device()) << 32) | device();
}

}  // namespace

absl::StatusOr<std::unique_ptr<InProcessModel>> InProcessModel::Open(
    const InProcessOptions& options, ProgressFn progress) {
  auto model = std::unique_ptr<InProcessModel>(new InProcessModel);
  OCTET_ASSIGN_OR_RETURN(model->package_,
                         ModelPackage::Open(options.model, options.package, progress));
  const ModelPackage& package = *model->package_;
  progress("loading tokenizer", 0, 1);
  OCTET_ASSIGN_OR_RETURN(std::shared_ptr<const Tokenizer> tokenizer,
                         OrNoTokenizer(package.LoadTokenizer()));
  progress("loading router", 0, 1);
  OCTET_ASSIGN_OR_RETURN(RouterWeights weights, package.MapRouter(options.engine.threads));
  EngineOptions engine = options.engine;
  engine.pool = std::make_shared<ThreadPool>(engine.threads, engine.cores, engine.spin);
  LocalExpertsOptions local;
  local.pool = engine.pool;
  local.cpu_level = options.engine.cpu_level;
  const uint32_t count = package.config().experts;
  uint32_t loaded = 0;
  WorkerModel experts = PackageWorkerModel(model->package_, options.engine.threads);
  experts.load = [load = experts.load, progress, count, &loaded](ExpertId expert) {
    auto mapped = load(expert);
    progress("loading experts", ++loaded, count);
    return mapped;
  };
  OCTET_ASSIGN_OR_RETURN(const LocalExperts placed, MakeLocalExperts(std::move(experts), local));
  DispatcherOptions dispatch;
  dispatch.router = RouterId(1);
  dispatch.incarnation = 1;
  dispatch.compute_digest = package.compute_digest();
  dispatch.model_version = package.model_version();
  model->dispatcher_ = std::make_unique<TokenDispatcher>(dispatch, placed.links, &model->clock_);
  model->dispatcher_->SetPlacement(placed.placement);
  if (options.gate_statistics && package.config().gate != GateKind::kNone) {
    model->gate_statistics_ = std::make_unique<GateStatistics>(package.config().layers, count);
    engine.gate_statistics = model->gate_statistics_.get();
  }
  std::vector<MappedExpert> device_experts;
  if (engine.device.kind != DeviceChoice::Kind::kCpu && OpenCudaApi().ok()) {
    for (uint32_t e = 0; e < count; ++e) {
      OCTET_ASSIGN_OR_RETURN(MappedExpert mapped,
                             package.MapExpert(ExpertId(e), options.engine.threads));
      device_experts.push_back(std::move(mapped));
    }
    engine.device_experts = &device_experts;
  }
  OCTET_ASSIGN_OR_RETURN(model->engine_,
                         Engine::Start(model->package_, std::move(weights), tokenizer,
                                       model->dispatcher_.get(), &model->clock_, engine));
  ModelIdentity identity{package.config(), package.name(), model->engine_->compute_digest(),
                         model->engine_->context_max()};
  model->served_ = std::make_shared<ServedModel>(std::move(identity), std::move(tokenizer));
  return model;
}

InProcessModel::~InProcessModel() {
  if (dispatcher_ != nullptr) dispatcher_->Stop();
}

absl::Status InProcessModel::Generate(const octet::v1::GenerateRequest& request,
                                      const Client::EventFn& on_event, const CancelToken& cancel) {
  OCTET_ASSIGN_OR_RETURN(GenerationRequest resolved,
                         ResolveGenerateRequest(request, *served_, {"local", DrawSeed()}));
  on_event(StartedToProto(resolved, *served_));
  auto events = std::make_shared<EventQueue>();
  OCTET_ASSIGN_OR_RETURN(const RequestId id, engine_->Submit(std::move(resolved), events));
  return events->Drain(on_event, [&] {
    if (cancel.cancelled()) engine_->Cancel(id);
  });
}

absl::StatusOr<octet::v1::TokenizeResponse> InProcessModel::Tokenize(
    const octet::v1::TokenizeRequest& request) {
  return HandleTokenize(request, *served_);
}

absl::StatusOr<octet::v1::DetokenizeResponse> InProcessModel::Detokenize(
    const octet::v1::DetokenizeRequest& request) {
  return HandleDetokenize(request, *served_);
}

absl::StatusOr<octet::v1::GetModelResponse> InProcessModel::GetModel() {
  return HandleGetModel(*served_);
}

}  // namespace octet
