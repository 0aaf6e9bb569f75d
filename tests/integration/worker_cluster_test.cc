// Coordinator, workers and a router's dispatcher in one process, over real connections.
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <string>
#include <thread>

#include "coordinator/client.h"
#include "coordinator/server.h"
#include "expert_worker/test_util.h"
#include "expert_worker/worker_server.h"
#include "transport/cluster/cluster_links.h"
#include "transport/token_dispatcher.h"

namespace octet {
namespace {

bool WaitFor(const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::yield();
  }
  return true;
}

class WorkerCluster : public ::testing::TestWithParam<TransportKind> {
 protected:
  void SetUp() override {
    char name[] = "/tmp/octet-test-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    directory_ = name;
    CoordinatorOptions options;
    options.settings.replication = 2;
    options.settings.settle = Duration::Millis(50);
    options.settings.expected_workers = 2;
    coordinator_ = CoordinatorServer::Start(options, &clock_).value();
    DispatcherOptions dispatch;
    dispatch.router = RouterId(1);
    dispatch.compute_digest = TestDigest();
    ClusterLinks links = MakeClusterLinks({GetParam(), directory_, RouterId(1), 1}).value();
    dispatch.doorbell = links.doorbell;
    dispatcher_ = std::make_unique<TokenDispatcher>(dispatch, std::move(links.factory), &clock_);
    CoordinatorClientOptions router;
    router.coordinator = coordinator_->address();
    router.role = MemberRole::kRouter;
    router.address = "127.0.0.1:9";
    router.incarnation = 1;
    const WorkerModel model = MakeTestModel(shape_);
    router.model = {model.compute_digest, model.model_version, model.name,
                    model.experts,        shape_.layers,       model.expert_bytes};
    CoordinatorClientCallbacks callbacks;
    callbacks.report = [] {
      MemberReport report;
      report.state = MemberState::kReady;
      return report;
    };
    callbacks.on_placement = [this](const PlacementUpdate& update) {
      if (update.phase == PlacementPhase::kActivate) dispatcher_->SetPlacement(update.placement);
    };
    router_ = CoordinatorClient::Start(router, std::move(callbacks)).value();
  }
  void TearDown() override {
    router_->Stop();
    dispatcher_->Stop();
    EXPECT_EQ(rmdir(directory_.c_str()), 0) << "a worker left its socket behind";
  }

  std::unique_ptr<WorkerServer> NewWorker(uint64_t incarnation) {
    WorkerServerOptions options;
    options.coordinator = coordinator_->address();
    options.incarnation = incarnation;
    options.host = "host" + std::to_string(incarnation);
    options.cpu_level = DetectCpuLevel();
    options.transport = GetParam();
    options.shm_directory = directory_;
    return WorkerServer::Start(options, MakeTestModel(shape_), &clock_).value();
  }
  // All reply rows of one dispatch, empty on failure.
  std::vector<float> RunOnce() {
    const TestRows rows = MakeTestRows(MakeTestModel(shape_).formats[0], 9, 1);
    const TestChoice choice = MakeTestChoice(9, 2, shape_.experts, 1);
    auto handle = dispatcher_->Dispatch(StepId(1), 0, LayerId(1), false, rows.view, choice.view);
    std::vector<const float*> replies;
    const MonotonicTime give_up = clock_.Now() + Duration::Millis(60'000);
    const absl::Status status = dispatcher_->Combine(*handle, give_up, &replies);
    EXPECT_TRUE(status.ok()) << status;
    std::vector<float> out;
    if (!status.ok()) return out;
    for (const float* row : replies) out.insert(out.end(), row, row + shape_.hidden);
    return out;
  }

  SystemClock clock_;
  TestModelShape shape_;
  std::string directory_;
  std::unique_ptr<CoordinatorServer> coordinator_;
  std::unique_ptr<TokenDispatcher> dispatcher_;
  std::unique_ptr<CoordinatorClient> router_;
};

TEST_P(WorkerCluster, ServesThroughJoinDrainAndDeathWithTheSameBits) {
  auto a = NewWorker(1);
  auto b = NewWorker(2);
  ASSERT_TRUE(WaitFor([&] { return dispatcher_->Ready() && a->serving() && b->serving(); }));
  const std::vector<float> want = RunOnce();
  ASSERT_EQ(want.size(), 9u * 2 * shape_.hidden);

  // A third worker joins; the first one drains away while requests go on.
  auto c = NewWorker(3);
  ASSERT_TRUE(WaitFor([&] { return c->id() != WorkerId(0); }));
  bool drained = false;
  std::thread drain([&] {
    drained = a->Drain(Duration::Millis(20'000));
    a.reset();
  });
  for (int i = 0; i < 50; ++i) EXPECT_EQ(RunOnce(), want);
  drain.join();
  EXPECT_TRUE(drained);
  EXPECT_EQ(RunOnce(), want);
  ASSERT_TRUE(WaitFor([&] { return c->serving(); }));

  // The second leaves without a word; every expert has a replica on the third or gets one.
  b.reset();
  for (int i = 0; i < 20; ++i) EXPECT_EQ(RunOnce(), want);
  EXPECT_TRUE(WaitFor([&] {
    const auto placement = dispatcher_->placement();
    return placement->workers.size() == 1 && placement->workers[0].id == c->id();
  }));
  EXPECT_EQ(RunOnce(), want);
}

INSTANTIATE_TEST_SUITE_P(Kinds, WorkerCluster,
                         ::testing::Values(TransportKind::kGrpc, TransportKind::kShm,
                                           TransportKind::kAuto));

}  // namespace
}  // namespace octet
