#include "expert_worker/worker_server.h"

#include <atomic>
#include <chrono>
#include <thread>
#include <utility>
#include <vector>

#include "coordinator/client.h"
#include "core/damaged.h"
#include "core/limits.h"
#include "core/log.h"
#include "core/mutex.h"
#include "core/scrub_limits.h"
#include "core/status_macros.h"
#include "expert_worker/cuda_worker.h"
#include "expert_worker/expert_ffn.h"
#include "expert_worker/nccl_server.h"
#include "expert_worker/placement_follower.h"
#include "expert_worker/scrubber.h"
#include "expert_worker/service.h"
#include "expert_worker/shm_server.h"
#include "expert_worker/verified_experts.h"
#include "rpc/channel.h"
#include "transport/shm/control_socket.h"
#include "transport/shm/segment.h"

namespace octet {
namespace {

constexpr char kServiceName[] = "octet.v1.ExpertWorker";
// Replies on their way out when the last job has ended.
constexpr Duration kShutdownGrace = Duration::Millis(200);

}  // namespace

struct WorkerServer::Impl {
  Impl(const WorkerServerOptions& o, WorkerModel model, const Clock* c)
      : options(o),
        clock(c),
        store(o.verify ? SummedWorkerModel(std::move(model)) : std::move(model)),
        load(store.model().experts),
        executor(o.threads, o.cpu_level, o.cores, o.spin),
        loop(options.cuda != nullptr
                 ? WorkerLoop(CudaCompute(options.cuda, options.on_device_failed), clock, &load,
                              MakeDoorbell())
                 : WorkerLoop(
                       [this](const MappedExpert& expert, LayerId layer, const ExpertInput& input,
                              absl::Span<const uint32_t> rows, TensorF32 out) {
                         executor.context().pool->PinCaller();
                         return Compute(expert, layer, input, rows, out);
                       },
                       clock, &load, MakeDoorbell())),
        service(&store, &loop) {}

  // Null without shared memory.
  DoorbellWords* MakeDoorbell();
  absl::Status Start();
  bool wants_shm() const {
    return options.transport == TransportKind::kAuto || options.transport == TransportKind::kShm;
  }
  absl::Status StartShm();
  absl::Status StartNccl();
  absl::Status Compute(const MappedExpert& expert, LayerId layer, const ExpertInput& input,
                       absl::Span<const uint32_t> rows, TensorF32 out);
  // Weights are not what they were. `exposed`: results made of them may have left.
  void OnDamaged(const absl::Status& why, bool exposed);
  // The scrubber found `why`: true unless the sums of some product would have shown it.
  bool Exposed() const;
  MemberReport Report() const;
  // On the follower's thread.
  void OnChanged();
  void SetServing(bool now);

  const WorkerServerOptions options;
  const Clock* const clock;
  ExpertStore store;
  LoadCounter load;
  ExpertExecutor executor;
  SharedMemory doorbell;  // empty without shared memory
  WorkerLoop loop;
  ExpertService service;
  std::unique_ptr<ShmServer> shm;
  std::unique_ptr<NcclServer> nccl;  // ends after the server that offers it
  std::unique_ptr<RpcServer> server;
  std::unique_ptr<PlacementFollower> follower;
  std::unique_ptr<CoordinatorClient> coordinator;
  std::unique_ptr<Scrubber> scrubber;
  std::atomic<bool> found_damage{false};
  std::thread leaving;  // after a product that did not verify
  std::atomic<bool> draining{false};
  std::atomic<bool> damaged{false};
  std::atomic<bool> serving{false};
  // OnChanged may run before the client is there.
  Mutex mu;
  CondVar changed;
  bool started OCTET_GUARDED_BY(mu) = false;
  bool stopped OCTET_GUARDED_BY(mu) = false;
};

DoorbellWords* WorkerServer::Impl::MakeDoorbell() {
  if (!wants_shm()) return nullptr;
  auto made = SharedMemory::Create("octet-worker", kDoorbellPageBytes);
  if (!made.ok()) return nullptr;
  doorbell = *std::move(made);
  return reinterpret_cast<DoorbellWords*>(doorbell.data());
}

absl::Status WorkerServer::Impl::StartShm() {
  if (!wants_shm()) return absl::OkStatus();
  if (doorbell.data() == nullptr) {
    return absl::ResourceExhaustedError("no shared memory can be made");
  }
  ShmServerOptions serve;
  OCTET_ASSIGN_OR_RETURN(
      serve.socket,
      ShmSocketPath(ShmDirectory(options.shm_directory),
                    options.advertise.empty() ? server->address() : options.advertise));
  serve.doorbell = &doorbell;
  OCTET_ASSIGN_OR_RETURN(shm, ShmServer::Start(serve, &store, &loop));
  return absl::OkStatus();
}

absl::Status WorkerServer::Impl::StartNccl() {
  if (options.transport != TransportKind::kNccl) return absl::OkStatus();
  if (options.nccl == nullptr) {
    return absl::FailedPreconditionError("NCCL: no device was opened for it");
  }
  const bool on_device =
      options.cuda != nullptr && options.cuda->device() == options.nccl->device();
  OCTET_ASSIGN_OR_RETURN(nccl, NcclServer::Create(options.nccl, &store, &loop, on_device));
  return absl::OkStatus();
}

absl::Status WorkerServer::Impl::Start() {
  OCTET_RETURN_IF_ERROR(StartNccl());
  RpcServerOptions rpc;
  rpc.message_bytes_max = service.message_bytes_max();
  rpc.send_bytes_max = kFrameBytesMax;
  std::vector<grpc::Service*> services = {&service};
  if (nccl != nullptr) services.push_back(nccl.get());
  OCTET_ASSIGN_OR_RETURN(server, RpcServer::Start(options.listen, services, rpc));
  server->SetServing("liveness", true);
  const absl::Status shared = StartShm();
  if (!shared.ok() && options.transport == TransportKind::kShm) return shared;
  if (!shared.ok()) LogWarning("routers reach this worker over gRPC only: ", shared.ToString());
  follower = std::make_unique<PlacementFollower>(&store, [this] { OnChanged(); });

  const WorkerModel& model = store.model();
  CoordinatorClientOptions client;
  client.coordinator = options.coordinator;
  client.role = MemberRole::kWorker;
  client.address = options.advertise.empty() ? server->address() : options.advertise;
  client.incarnation = options.incarnation;
  client.model.compute_digest = model.compute_digest;
  client.model.model_version = model.model_version;
  client.model.name = model.name;
  client.model.experts = model.experts;
  client.model.layers = static_cast<uint32_t>(model.formats.size());
  client.model.expert_bytes = model.expert_bytes;
  client.zone = options.zone;
  client.host = options.host;
  client.pid = options.pid;
  client.memory_bytes = options.memory_bytes;
  client.speed = options.speed;
  client.seed = options.incarnation;
  CoordinatorClientCallbacks callbacks;
  callbacks.report = [this] { return Report(); };
  callbacks.on_placement = [this](const PlacementUpdate& update) {
    service.set_worker_id(WorkerId(update.self.value()));
    follower->Follow(update);
  };
  callbacks.on_refused = options.on_refused;
  auto started_client = CoordinatorClient::Start(client, std::move(callbacks));
  if (!started_client.ok()) return started_client.status();
  if (options.scrub_period.ns > 0) {
    scrubber = std::make_unique<Scrubber>(&store, ScrubOptions{.period = options.scrub_period},
                                          [this](const absl::Status& why) {
                                            if (!found_damage.exchange(true)) {
                                              OnDamaged(why, Exposed());
                                            }
                                          });
  }
  MutexLock lock(mu);
  coordinator = *std::move(started_client);
  started = true;
  return absl::OkStatus();
}

absl::Status WorkerServer::Impl::Compute(const MappedExpert& expert, LayerId layer,
                                         const ExpertInput& input, absl::Span<const uint32_t> rows,
                                         TensorF32 out) {
  if (!options.verify) return RunExpert(executor.context(), expert, layer, input, rows, out);
  const absl::Status status =
      RunVerifiedExpert(executor.context(), expert, layer, input, rows, out);
  if (!absl::IsDataLoss(status) || found_damage.exchange(true)) return status;
  // This thread goes on refusing.
  leaving = std::thread([this, status] { OnDamaged(status, /*exposed=*/false); });
  return status;
}

bool WorkerServer::Impl::Exposed() const {
  if (!options.verify) return true;
  for (const ExpertId id : store.Held()) {
    const std::shared_ptr<const MappedExpert> expert = store.Find(id);
    if (expert == nullptr) continue;
    for (uint32_t layer = 0; layer < expert->layers.size(); ++layer) {
      if (!VerifyLayer(*expert, LayerId(layer), nullptr).ok()) return false;
    }
  }
  return true;
}

void WorkerServer::Impl::OnDamaged(const absl::Status& why, bool exposed) {
  LogError("damaged weights: ", why.message(),
           exposed ? "; requests that they served may be wrong" : "; no result of them has left");
  loop.Condemn(exposed ? DamagedError(why.message()) : why);
  SetServing(false);
  {
    MutexLock lock(mu);
    // Where nothing wrong has left, the end of the process is all there is to tell.
    damaged = exposed;
    if (exposed && started && !stopped) coordinator->ReportNow();
    const MonotonicTime end =
        clock->Now() + (exposed ? Duration::Millis(kDamagedLingerMs) : kShutdownGrace);
    while (!stopped) {
      const Duration left = end - clock->Now();
      if (left.ns <= 0) break;
      changed.WaitFor(mu, std::chrono::nanoseconds(left.ns));
    }
  }
  if (options.on_damaged) options.on_damaged(why);
}

MemberReport WorkerServer::Impl::Report() const {
  MemberReport report;
  report.state = damaged    ? MemberState::kDamaged
                 : draining ? MemberState::kDraining
                 : serving  ? MemberState::kReady
                            : MemberState::kLoading;
  report.prepared_epoch = store.prepared_epoch();
  report.active_epoch = store.active_epoch();
  report.held = store.Held();
  const FollowState state = follower->state();
  report.prepare_error = state.prepare_error;
  report.prepare_error_epoch = state.prepare_error_epoch;
  report.load.expert_rows = load.rows_per_expert();
  report.load.queue_frames = loop.queued();
  report.load.dispatches = load.dispatches();
  report.load.compute_ns = load.compute_ns();
  report.load.resident_bytes = store.mapped_bytes();
  return report;
}

void WorkerServer::Impl::OnChanged() {
  SetServing(follower->state().serving);
  MutexLock lock(mu);
  if (started && !stopped) coordinator->ReportNow();
  changed.NotifyAll();
}

void WorkerServer::Impl::SetServing(bool now) {
  if (serving.exchange(now) == now) return;
  server->SetServing("", now && !draining);
  server->SetServing(kServiceName, now && !draining);
  if (options.on_serving) options.on_serving(now);
}

WorkerServer::WorkerServer() = default;

absl::StatusOr<std::unique_ptr<WorkerServer>> WorkerServer::Start(
    const WorkerServerOptions& options, WorkerModel model, const Clock* clock) {
  auto server = std::unique_ptr<WorkerServer>(new WorkerServer);
  server->impl_ = std::make_unique<Impl>(options, std::move(model), clock);
  OCTET_RETURN_IF_ERROR(server->impl_->Start());
  return server;
}

WorkerServer::~WorkerServer() { Stop(); }

const std::string& WorkerServer::address() const { return impl_->server->address(); }
WorkerId WorkerServer::id() const { return WorkerId(impl_->coordinator->id().value()); }
bool WorkerServer::serving() const { return impl_->serving; }

bool WorkerServer::Drain(Duration timeout) {
  Impl& w = *impl_;
  const MonotonicTime end = w.clock->Now() + timeout;
  const MonotonicTime leave = w.clock->Now() + Duration{timeout.ns / 2};
  w.draining = true;
  w.service.set_draining();
  w.server->SetServing("", false);
  // At once: a second signal ends the process where it is.
  if (w.shm != nullptr) w.shm->Hide();
  w.server->SetServing(kServiceName, false);
  w.coordinator->ReportNow();
  {
    MutexLock lock(w.mu);
    while (w.serving && !w.stopped && w.coordinator->connected() && w.clock->Now() < leave) {
      w.changed.WaitFor(w.mu, std::chrono::milliseconds(50));
    }
  }
  return w.loop.Drain(end);
}

void WorkerServer::Stop() {
  Impl& w = *impl_;
  {
    MutexLock lock(w.mu);
    if (w.stopped) return;
    w.stopped = true;
    w.changed.NotifyAll();
  }
  if (w.coordinator != nullptr) w.coordinator->Stop();
  // Its thread may be in OnChanged, which asks the follower: the pointer stays set until then.
  if (w.follower != nullptr) w.follower->Stop();
  w.shm.reset();
  if (w.server != nullptr) w.server->Shutdown(kShutdownGrace);
  if (w.leaving.joinable()) w.leaving.join();
}

}  // namespace octet
