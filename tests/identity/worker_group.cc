#include "tests/identity/worker_group.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "core/check.h"
#include "expert_worker/expert_ffn.h"
#include "expert_worker/expert_store.h"
#include "expert_worker/local_experts.h"
#include "expert_worker/test_worker.h"
#include "expert_worker/worker_model.h"
#include "transport/local/local_link.h"

namespace octet {

namespace {

constexpr Duration kConnectTimeout = Duration::Millis(20'000);

}  // namespace

class WorkerGroup::Worker {
 public:
  Worker(std::shared_ptr<const ModelPackage> package, const std::vector<ExpertId>& experts,
         const GroupShape& shape, const std::string& shm_directory)
      : shape_(shape),
        store_(
            std::make_shared<ExpertStore>(PackageWorkerModel(std::move(package), /*threads=*/1))) {
    absl::Status status = store_->Prepare(Epoch(1), experts);
    if (status.ok()) status = store_->Activate(Epoch(1));
    OCTET_CHECK(status.ok()) << status.ToString();
    if (shape.kind == GroupKind::kLocal) return;
    TestWorkerOptions options;
    if (shape.kind == GroupKind::kShm) options.shm_directory = shm_directory;
    options.threads = shape.threads;
    options.level = shape.level;
    remote_ = std::make_unique<TestWorker>(store_, options);
  }

  std::string address() const { return remote_ == nullptr ? "" : remote_->address(); }
  std::shared_ptr<ExpertLink> MakeLocalLink() const {
    return std::make_shared<LocalLink>(
        StoreExpertFn(store_, std::make_shared<ExpertExecutor>(shape_.threads, shape_.level)));
  }

 private:
  const GroupShape shape_;
  std::shared_ptr<ExpertStore> store_;
  std::unique_ptr<TestWorker> remote_;
};

WorkerGroup::WorkerGroup(std::shared_ptr<const ModelPackage> package, const GroupShape& shape)
    : package_(std::move(package)) {
  if (shape.kind == GroupKind::kInProcess) {
    LocalExpertsOptions options;
    options.threads = shape.threads;
    options.cpu_level = shape.level;
    auto local = MakeLocalExperts(PackageWorkerModel(package_, /*threads=*/1), options);
    OCTET_CHECK(local.ok()) << local.status().ToString();
    links_.factory = local->links;
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
    workers_.push_back(std::make_unique<Worker>(package_, held[w], shape, temp_.path()));
    placement->workers.push_back({WorkerId(w + 1), workers_.back()->address()});
  }
  placement_ = std::move(placement);
  if (shape.kind == GroupKind::kLocal) {
    links_.factory = [this](const PlacedWorker& worker) {
      return workers_[worker.id.value() - 1]->MakeLocalLink();
    };
    return;
  }
  const TransportKind kind =
      shape.kind == GroupKind::kShm ? TransportKind::kShm : TransportKind::kGrpc;
  auto links = MakeClusterLinks({kind, temp_.path(), RouterId(1), /*incarnation=*/0});
  OCTET_CHECK(links.ok()) << links.status().ToString();
  links_ = *std::move(links);
}

WorkerGroup::~WorkerGroup() = default;

std::unique_ptr<TokenDispatcher> WorkerGroup::MakeDispatcher(const Clock* clock) const {
  DispatcherOptions options;
  options.router = RouterId(1);
  options.compute_digest = package_->compute_digest();
  options.model_version = package_->model_version();
  options.doorbell = links_.doorbell;
  auto dispatcher = std::make_unique<TokenDispatcher>(options, links_.factory, clock);
  dispatcher->SetPlacement(placement_);
  const MonotonicTime give_up = clock->Now() + kConnectTimeout;
  while (!dispatcher->Ready()) {
    OCTET_CHECK(clock->Now() < give_up) << "the workers did not connect";
    std::this_thread::yield();
  }
  return dispatcher;
}

}  // namespace octet
