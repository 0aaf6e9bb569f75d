#include "router/engine.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/limits.h"
#include "core/log.h"
#include "core/mutex.h"
#include "core/sha256.h"
#include "core/status_macros.h"
#include "router/admission.h"
#include "router/cuda_transformer.h"
#include "router/kv_cache.h"
#include "router/request_check.h"
#include "router/step_loop.h"
#include "router/transformer.h"

namespace octet {

namespace {

constexpr double kWaitMsMax = 1e9;
// Caches that the requests in the queue may fill.
constexpr uint64_t kWaitingCaches = 4;

absl::Status CheckCount(absl::string_view name, uint64_t value, uint64_t low, uint64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, ": ", value, " is not in [", low, ", ", high, "]"));
}

absl::Status CheckOptions(const EngineOptions& o) {
  OCTET_RETURN_IF_ERROR(CheckCount("running_max", o.running_max, 1, kRunningRequestsMax));
  OCTET_RETURN_IF_ERROR(CheckCount("waiting_max", o.waiting_max, 1, kWaitingRequestsMax));
  if (!(o.wait_ms_max > 0) || o.wait_ms_max > kWaitMsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("wait_ms_max: ", o.wait_ms_max, " is not above 0 and at most ", kWaitMsMax));
  }
  OCTET_RETURN_IF_ERROR(CheckCount("step_tokens_max", o.step_tokens_max, 1, kStepTokensMax));
  if (o.threads < 1 || o.threads > kRouterThreadsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("threads: ", o.threads, " is not in [1, ", kRouterThreadsMax, "]"));
  }
  if (o.micro_batches > kMicroBatchesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("micro_batches: ", o.micro_batches, ", allowed is 0 to ", kMicroBatchesMax));
  }
  if (!(o.itl_ms_max > 0) || std::isinf(o.itl_ms_max)) {
    return absl::InvalidArgumentError(
        absl::StrCat("itl_ms_max: ", o.itl_ms_max, " is not a positive number"));
  }
  return absl::OkStatus();
}

std::string DigestWithCache(const std::string& package_digest, DType kv_dtype) {
  if (kv_dtype == DType::kF16) return package_digest;
  const std::string text =
      absl::StrCat(package_digest, " kv ", kv_dtype == DType::kF32 ? "f32" : "int8");
  return DigestHex(Sha256(text));
}

}  // namespace

// The loop thread owns everything but what is guarded by `mu`.
struct Engine::Impl {
  EngineOptions options;
  std::shared_ptr<const ModelPackage> package;
  std::string compute_digest;
  std::shared_ptr<const Tokenizer> tokenizer;
  TokenDispatcher* dispatcher = nullptr;
  const Clock* clock = nullptr;
  uint32_t vocab = 0;
  uint32_t context_max = 0;

  std::shared_ptr<ThreadPool> pool;
  Arena arena;
  std::unique_ptr<KvCache> cache;  // of the host; null on a device
  std::unique_ptr<ForwardPass> transformer;
  std::unique_ptr<StepLoop> loop;

  mutable Mutex mu;
  CondVar work;  // something for the loop
  CondVar idle;  // a request ended
  std::vector<IncomingRequest> inbox OCTET_GUARDED_BY(mu);
  std::vector<RequestId> cancels OCTET_GUARDED_BY(mu);
  std::vector<WorkerId> damaged OCTET_GUARDED_BY(mu);
  std::vector<std::pair<RequestId, std::vector<StagedBlock>>> fetched OCTET_GUARDED_BY(mu);
  bool stopping OCTET_GUARDED_BY(mu) = false;
  bool draining OCTET_GUARDED_BY(mu) = false;
  uint64_t last_id OCTET_GUARDED_BY(mu) = 0;
  std::unique_ptr<Admission> admission OCTET_GUARDED_BY(mu);  // submitted, never admitted
  uint32_t in_flight OCTET_GUARDED_BY(mu) = 0;                // submitted, not ended
  EngineStats published OCTET_GUARDED_BY(mu);

  std::thread thread;
  std::unique_ptr<KvTier> tier;  // its thread uses `fetched`: ends first

  absl::StatusOr<TierAccess> OpenTier();
  // Both set `transformer`; how many blocks its cache has.
  absl::StatusOr<size_t> MakeTransformer(const ModelPackage& model, RouterWeights weights,
                                         const TransformerLimits& limits);
  absl::StatusOr<size_t> MakeCudaTransformer(const TransformerModel& model,
                                             const TransformerLimits& limits,
                                             const ExecContext& ctx);
  void Run();
  absl::Status CheckRoom(uint64_t cost, bool resumed) OCTET_REQUIRES(mu);
  bool TakeInbox(bool wait);
  void Publish();
};

absl::Status Engine::Impl::CheckRoom(uint64_t cost, bool resumed) {
  if (draining || stopping) {
    return absl::UnavailableError("the router is draining and takes no new requests");
  }
  const absl::Status status = admission->Check(cost, resumed);
  if (!status.ok()) ++published.rejections;
  return status;
}

// False when the loop has to end. Waits for something to do where `wait` is set.
bool Engine::Impl::TakeInbox(bool wait) {
  std::vector<IncomingRequest> incoming;
  std::vector<RequestId> cancelled;
  std::vector<WorkerId> workers;
  decltype(fetched) from_tier;
  {
    MutexLock lock(mu);
    while (wait && inbox.empty() && cancels.empty() && fetched.empty() && damaged.empty() &&
           !stopping) {
      work.Wait(mu);
    }
    if (stopping) return false;
    incoming.swap(inbox);
    cancelled.swap(cancels);
    workers.swap(damaged);
    from_tier.swap(fetched);
  }
  for (const WorkerId worker : workers) loop->WorkerDamaged(worker);
  for (IncomingRequest& request : incoming) loop->Add(std::move(request));
  for (auto& [id, blocks] : from_tier) loop->Fetched(id, std::move(blocks));
  for (const RequestId id : cancelled) {
    loop->Fail(id, absl::CancelledError("the request was cancelled"));
  }
  return true;
}

void Engine::Impl::Publish() {
  const StepLoop::Flow flow = loop->TakeFlow();
  EngineStats stats = loop->stats();
  if (tier != nullptr) stats.kv_tier = tier->stats();
  const MonotonicTime now = clock->Now();
  MutexLock lock(mu);
  // A step that waits for a replica says nothing of how long requests will wait after it.
  if (stats.steps == published.steps) admission->Pause(now);
  admission->Leave(flow.admitted, flow.admitted_tokens, now);
  stats.waiting_tokens = admission->waiting_tokens();
  in_flight -= flow.ended;
  stats.waiting += static_cast<uint32_t>(inbox.size());
  stats.rejections = published.rejections;
  published = stats;
  if (flow.ended > 0) idle.NotifyAll();
}

void Engine::Impl::Run() {
  pool->PinCaller();
  bool busy = false;
  while (TakeInbox(/*wait=*/!busy)) {
    busy = loop->Step();
    Publish();
  }
  {
    // What came in after the last look.
    std::vector<IncomingRequest> incoming;
    {
      MutexLock lock(mu);
      incoming.swap(inbox);
    }
    for (IncomingRequest& request : incoming) loop->Add(std::move(request));
  }
  loop->FailAll(absl::CancelledError("the server is shutting down"));
  Publish();
}

absl::StatusOr<size_t> Engine::Impl::MakeCudaTransformer(const TransformerModel& model,
                                                         const TransformerLimits& limits,
                                                         const ExecContext& ctx) {
  if (options.gate_statistics != nullptr) {
    return absl::UnimplementedError("device: statistics of the gates are counted on the CPU only");
  }
  CudaTransformerOptions cuda;
  cuda.device = options.device.index;
  cuda.limits = limits;
  cuda.kv_dtype = options.kv_dtype;
  cuda.kv_cache_bytes = options.kv_cache_bytes;
  cuda.on_failed = options.on_device_failed;
  cuda.rows_stay = options.links_device == options.device.index;
  if (options.device_experts != nullptr) cuda.experts = *options.device_experts;
  OCTET_ASSIGN_OR_RETURN(auto made, CudaTransformer::Create(model, dispatcher, ctx, cuda));
  const size_t blocks = made->kv_blocks();
  transformer = std::move(made);
  return blocks;
}

absl::StatusOr<size_t> Engine::Impl::MakeTransformer(const ModelPackage& model,
                                                     RouterWeights weights,
                                                     const TransformerLimits& limits) {
  ExecContext ctx;
  ctx.level = options.cpu_level;
  ctx.pool = pool.get();
  ctx.arena = &arena;
  TransformerModel parts = MakeTransformerModel(model, std::move(weights));
  if (options.device.kind != DeviceChoice::Kind::kCpu) {
    const auto blocks = MakeCudaTransformer(parts, limits, ctx);
    if (blocks.ok() || options.device.kind == DeviceChoice::Kind::kCuda) return blocks;
    // A build without the plugin is not worth a word.
    if (!absl::IsNotFound(blocks.status())) {
      LogInfo("the router computes on the CPU: ", blocks.status().message());
    }
  }
  OCTET_ASSIGN_OR_RETURN(cache,
                         KvCache::Create(parts.config, options.kv_dtype, options.kv_cache_bytes));
  transformer = std::make_unique<Transformer>(std::move(parts), limits, cache.get(), dispatcher,
                                              ctx, options.gate_statistics);
  return cache->blocks();
}

absl::StatusOr<TierAccess> Engine::Impl::OpenTier() {
  TierAccess access;
  if (options.kv_tier_dir.empty()) return access;
  if (cache == nullptr) {
    return absl::UnimplementedError("kv_tier_dir: only for a router that computes on the CPU");
  }
  if (!options.prefix_cache) {
    return absl::InvalidArgumentError("kv_tier_dir: needs the prefix cache, which is off");
  }
  OCTET_ASSIGN_OR_RETURN(
      tier, KvTier::Open({options.kv_tier_dir, options.kv_tier_bytes, cache->block_bytes()}));
  access.tier = tier.get();
  access.cache = cache.get();
  access.on_fetched = [this](RequestId id, std::vector<StagedBlock> blocks) {
    MutexLock lock(mu);
    fetched.emplace_back(id, std::move(blocks));
    work.NotifyAll();
  };
  return access;
}

Engine::Engine() = default;

absl::StatusOr<std::unique_ptr<Engine>> Engine::Start(std::shared_ptr<const ModelPackage> package,
                                                      RouterWeights weights,
                                                      std::shared_ptr<const Tokenizer> tokenizer,
                                                      TokenDispatcher* dispatcher,
                                                      const Clock* clock,
                                                      const EngineOptions& options) {
  OCTET_RETURN_IF_ERROR(CheckOptions(options));
  auto impl = std::make_unique<Impl>();
  const ModelConfig& config = package->config();
  impl->options = options;
  impl->tokenizer = std::move(tokenizer);
  impl->dispatcher = dispatcher;
  impl->clock = clock;
  impl->vocab = config.vocab;
  impl->compute_digest = DigestWithCache(package->compute_digest(), options.kv_dtype);
  impl->pool = options.pool != nullptr
                   ? options.pool
                   : std::make_shared<ThreadPool>(options.threads, options.cores, options.spin);
  const uint32_t running_max = std::min(options.running_max, options.step_tokens_max);
  TransformerLimits limits;
  limits.rows_max = options.step_tokens_max;
  limits.sequences_max = running_max;
  limits.logit_rows_max = std::min(kLogitRowsMax, options.step_tokens_max);
  OCTET_ASSIGN_OR_RETURN(const size_t kv_blocks,
                         impl->MakeTransformer(*package, std::move(weights), limits));
  impl->context_max = static_cast<uint32_t>(
      std::min<uint64_t>(config.context, kv_blocks * uint64_t{kKvBlockPositions}));
  if (options.context_max != 0) {
    impl->context_max = std::min(impl->context_max, options.context_max);
  }
  SchedulerOptions scheduling;
  scheduling.kv_blocks = kv_blocks;
  scheduling.prefix_cache = options.prefix_cache;
  scheduling.compute_digest = impl->compute_digest;
  scheduling.running_max = running_max;
  AdmissionOptions admission;
  admission.waiting_max = options.waiting_max;
  admission.resumed_max = running_max;  // what another router like this one may have been running
  // Admission bounds the queue; preempted requests come back into it.
  scheduling.waiting_max = admission.waiting_max + admission.resumed_max + running_max;
  scheduling.step_tokens_max = options.step_tokens_max;
  scheduling.chunk_tokens = options.chunk_tokens;
  scheduling.itl_ms_max = options.itl_ms_max;
  scheduling.sliding_window = config.sliding_window;
  scheduling.preempt_every_steps = options.preempt_every_steps;
  OCTET_ASSIGN_OR_RETURN(TierAccess tier, impl->OpenTier());
  scheduling.kv_tier = tier.tier != nullptr;
  impl->loop = std::make_unique<StepLoop>(impl->transformer.get(), impl->tokenizer.get(), clock,
                                          scheduling, options.micro_batches, std::move(tier));
  admission.waiting_tokens = options.waiting_tokens_max != 0
                                 ? options.waiting_tokens_max
                                 : kWaitingCaches * kv_blocks * kKvBlockPositions;
  admission.wait_max.ns = static_cast<int64_t>(options.wait_ms_max * 1e6);
  impl->admission = std::make_unique<Admission>(admission);
  impl->package = std::move(package);
  impl->published = impl->loop->stats();

  std::unique_ptr<Engine> engine(new Engine());
  engine->impl_ = std::move(impl);
  engine->impl_->thread = std::thread([state = engine->impl_.get()] { state->Run(); });
  return engine;
}

Engine::~Engine() {
  if (impl_ == nullptr) return;
  {
    MutexLock lock(impl_->mu);
    impl_->stopping = true;
    impl_->work.NotifyAll();
  }
  impl_->dispatcher->Stop();
  impl_->thread.join();
}

uint32_t Engine::context_max() const { return impl_->context_max; }

const std::string& Engine::compute_digest() const { return impl_->compute_digest; }

absl::StatusOr<RequestId> Engine::Submit(GenerationRequest request,
                                         std::shared_ptr<GenerationSink> sink) {
  OCTET_RETURN_IF_ERROR(CheckRequest(request, impl_->vocab, impl_->context_max));
  IncomingRequest incoming;
  const uint32_t room = impl_->context_max - static_cast<uint32_t>(request.prompt.size());
  const uint32_t wanted = request.stop.max_tokens;
  incoming.tokens_max = wanted == 0 ? room : std::min(wanted, room);
  incoming.cost = request.prompt.size() + incoming.tokens_max;
  incoming.request = std::move(request);
  incoming.sink = std::move(sink);
  incoming.submitted = impl_->clock->Now();
  MutexLock lock(impl_->mu);
  OCTET_RETURN_IF_ERROR(impl_->CheckRoom(incoming.cost, incoming.request.resumed()));
  impl_->admission->Enter(incoming.cost, incoming.submitted);
  ++impl_->in_flight;
  const RequestId id(++impl_->last_id);
  incoming.id = id;
  impl_->inbox.push_back(std::move(incoming));
  impl_->work.NotifyAll();
  return id;
}

absl::Status Engine::CheckRoom(bool resumed) {
  MutexLock lock(impl_->mu);
  return impl_->CheckRoom(/*cost=*/1, resumed);
}

Duration Engine::RetryDelay() const {
  MutexLock lock(impl_->mu);
  return impl_->admission->RetryDelay();
}

void Engine::Cancel(RequestId id) {
  MutexLock lock(impl_->mu);
  impl_->cancels.push_back(id);
  impl_->work.NotifyAll();
}

void Engine::WorkerDamaged(WorkerId worker) {
  MutexLock lock(impl_->mu);
  impl_->damaged.push_back(worker);
  impl_->work.NotifyAll();
}

void Engine::Drain(MonotonicTime deadline) {
  MutexLock lock(impl_->mu);
  impl_->draining = true;
  while (impl_->in_flight > 0) {
    const int64_t left = deadline.ns - impl_->clock->Now().ns;
    if (left <= 0) return;
    // Looks at the clock now and then: it need not be the one the condition variable waits by.
    constexpr int64_t kLookNs = 50'000'000;
    impl_->idle.WaitFor(impl_->mu, std::chrono::nanoseconds(std::min(left, kLookNs)));
  }
}

EngineStats Engine::stats() const {
  MutexLock lock(impl_->mu);
  return impl_->published;
}

}  // namespace octet
