#include "tests/identity/worker_group.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "core/check.h"
#include "expert_worker/expert_ffn.h"
#include "expert_worker/expert_store.h"
#include "expert_worker/local_experts.h"
#include "expert_worker/service.h"
#include "expert_worker/worker_loop.h"
#include "expert_worker/worker_model.h"
#include "rpc/channel.h"
#include "transport/grpc/cluster_links.h"
#include "transport/local/local_link.h"

namespace octet {

namespace {

constexpr Duration kConnectTimeout = Duration::Millis(20'000);

}  // namespace

class WorkerGroup::Worker {
 public:
  Worker(std::shared_ptr<const ModelPackage> package, const std::vector<ExpertId>& experts,
         const GroupShape& shape)
      : store_(
            std::make_shared<ExpertStore>(PackageWorkerModel(std::move(package), /*threads=*/1))),
        executor_(std::make_shared<ExpertExecutor>(shape.threads, shape.level)) {
    absl::Status status = store_->Prepare(Epoch(1), experts);
    if (status.ok()) status = store_->Activate(Epoch(1));
    OCTET_CHECK(status.ok()) << status.ToString();
    if (shape.kind != GroupKind::kGrpc) return;
    load_ = std::make_unique<LoadCounter>(store_->model().experts);
    loop_ = std::make_unique<WorkerLoop>(
        [this](const MappedExpert& expert, LayerId layer, const ExpertInput& input,
               absl::Span<const uint32_t> rows, TensorF32 out) {
          return RunExpert(executor_->context(), expert, layer, input, rows, out);
        },
        &clock_, load_.get());
    service_ = std::make_unique<ExpertService>(store_.get(), loop_.get());
    RpcServerOptions options;
    options.message_bytes_max = service_->message_bytes_max();
    auto server = RpcServer::Start("127.0.0.1:0", {service_.get()}, options);
    OCTET_CHECK(server.ok()) << server.status().ToString();
    server_ = *std::move(server);
  }
  ~Worker() {
    if (server_ != nullptr) server_->Shutdown(Duration{});
  }

  std::string address() const { return server_ == nullptr ? "" : server_->address(); }
  std::shared_ptr<ExpertLink> MakeLocalLink() const {
    return std::make_shared<LocalLink>(StoreExpertFn(store_, executor_));
  }

 private:
  SystemClock clock_;
  std::shared_ptr<ExpertStore> store_;
  std::shared_ptr<ExpertExecutor> executor_;
  std::unique_ptr<LoadCounter> load_;
  std::unique_ptr<WorkerLoop> loop_;
  std::unique_ptr<ExpertService> service_;
  std::unique_ptr<RpcServer> server_;
};

WorkerGroup::WorkerGroup(std::shared_ptr<const ModelPackage> package, const GroupShape& shape)
    : package_(std::move(package)) {
  if (shape.kind == GroupKind::kInProcess) {
    LocalExpertsOptions options;
    options.threads = shape.threads;
    options.cpu_level = shape.level;
    auto local = MakeLocalExperts(PackageWorkerModel(package_, /*threads=*/1), options);
    OCTET_CHECK(local.ok()) << local.status().ToString();
    links_ = local->links;
    placement_ = local->placement;
    return;
  }
  auto placement = std::make_shared<Placement>();
  placement->epoch = Epoch(1);
  placement->compute_digest = package_->compute_digest();
  placement->model_version = package_->model_version();
  std::vector<std::vector<ExpertId>> held(shape.workers);
  for (uint32_t e = 0; e < package_->config().experts; ++e) {
    std::vector<WorkerId> replicas;
    for (uint32_t r = 0; r < std::min(shape.replication, shape.workers); ++r) {
      const uint32_t w = (e + r) % shape.workers;
      replicas.push_back(WorkerId(w + 1));
      held[w].push_back(ExpertId(e));
    }
    placement->expert_replicas.push_back(std::move(replicas));
  }
  for (uint32_t w = 0; w < shape.workers; ++w) {
    workers_.push_back(std::make_unique<Worker>(package_, held[w], shape));
    placement->workers.push_back({WorkerId(w + 1), workers_.back()->address()});
  }
  placement_ = std::move(placement);
  if (shape.kind == GroupKind::kGrpc) {
    links_ = GrpcLinkFactory();
  } else {
    links_ = [this](const PlacedWorker& worker) {
      return workers_[worker.id.value() - 1]->MakeLocalLink();
    };
  }
}

WorkerGroup::~WorkerGroup() = default;

std::unique_ptr<TokenDispatcher> WorkerGroup::MakeDispatcher(const Clock* clock) const {
  DispatcherOptions options;
  options.router = RouterId(1);
  options.compute_digest = package_->compute_digest();
  options.model_version = package_->model_version();
  auto dispatcher = std::make_unique<TokenDispatcher>(options, links_, clock);
  dispatcher->SetPlacement(placement_);
  const MonotonicTime give_up = clock->Now() + kConnectTimeout;
  while (!dispatcher->Ready()) {
    OCTET_CHECK(clock->Now() < give_up) << "the workers did not connect";
    std::this_thread::yield();
  }
  return dispatcher;
}

}  // namespace octet
