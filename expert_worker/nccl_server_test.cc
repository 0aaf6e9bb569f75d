// Routers and workers over a fake NCCL, in one process and in two: the same bits as in-process, and
// failures of either side.
#include "expert_worker/nccl_server.h"

#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <future>
#include <iostream>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/limits.h"
#include "core/nccl_limits.h"
#include "expert_worker/local_experts.h"
#include "expert_worker/nccl_test_worker.h"
#include "expert_worker/test_util.h"
#include "expert_worker/worker_server.h"
#include "tests/integration/process.h"
#include "transport/cluster/cluster_links.h"
#include "transport/nccl/fake_nccl.h"
#include "transport/nccl/nccl_link.h"
#include "transport/token_dispatcher.h"

namespace octet {
namespace {

std::shared_ptr<Placement> PlaceOn(const std::vector<std::string>& addresses, uint32_t experts) {
  auto p = std::make_shared<Placement>();
  p->epoch = Epoch(1);
  p->compute_digest = TestDigest();
  p->model_version = "v1";
  std::vector<WorkerId> all;
  for (const std::string& address : addresses) {
    all.emplace_back(all.size() + 1);
    p->workers.push_back({all.back(), address});
  }
  // Every expert on every worker, the first one by turns.
  for (uint32_t e = 0; e < experts; ++e) {
    std::vector<WorkerId> replicas = all;
    std::rotate(replicas.begin(), replicas.begin() + e % all.size(), replicas.end());
    p->expert_replicas.push_back(replicas);
  }
  return p;
}

DispatcherOptions TestOptions() {
  DispatcherOptions options;
  options.router = RouterId(5);
  options.incarnation = 99;
  options.compute_digest = TestDigest();
  options.model_version = "v1";
  return options;
}

// A router's device and its links.
class Router {
 public:
  Router() {
    NcclDeviceOptions options;
    options.deadlines.transfer = Duration::Millis(200);
    device_ = NcclDeviceThread::Start(&api_, options, &clock_).value();
  }
  ~Router() {
    device_.reset();
    const FakeNcclCounts counts = api_.counts();
    EXPECT_EQ(counts.violations, 0);
    EXPECT_EQ(counts.comms + counts.streams + counts.marks + counts.allocations, 0);
  }
  std::unique_ptr<TokenDispatcher> NewDispatcher(const std::vector<std::string>& addresses,
                                                 uint32_t experts) {
    DispatcherOptions options = TestOptions();
    ClusterLinks links =
        MakeClusterLinks({TransportKind::kNccl, "", options.router, options.incarnation, device_})
            .value();
    options.doorbell = links.doorbell;
    auto dispatcher = std::make_unique<TokenDispatcher>(options, std::move(links.factory), &clock_);
    dispatcher->SetPlacement(PlaceOn(addresses, experts));
    EXPECT_TRUE(PollUntil([&] { return dispatcher->Ready(); }, 20'000));
    return dispatcher;
  }
  FakeNccl& api() { return api_; }
  const Clock& clock() { return clock_; }
  const std::shared_ptr<NcclDeviceThread>& device() { return device_; }

 private:
  SystemClock clock_;
  FakeNccl api_;
  std::shared_ptr<NcclDeviceThread> device_;
};

struct FormatCase {
  const char* format;
  ReplyDType reply;
};

class NcclBits : public ::testing::TestWithParam<FormatCase> {};

TEST_P(NcclBits, AreThoseOfTheProcessItself) {
  TestModelShape shape;
  shape.hidden = 72;  // not a whole group: rows are padded
  shape.format = GetParam().format;
  shape.reply = GetParam().reply;
  SystemClock clock;
  LocalExpertsOptions local_options;
  local_options.cpu_level = DetectCpuLevel();
  const auto local = MakeLocalExperts(MakeTestModel(shape), local_options);
  ASSERT_TRUE(local.ok()) << local.status();
  TokenDispatcher in_process(TestOptions(), local->links, &clock);
  in_process.SetPlacement(local->placement);

  NcclTestWorker a(MakeFullStore(shape));
  NcclTestWorker b(MakeFullStore(shape));
  Router router;
  const auto remote = router.NewDispatcher({a.address(), b.address()}, shape.experts);
  const WireFormat format = MakeTestModel(shape).formats[0];
  // Within a bucket, past it, and prefill; up to the most a step may have.
  const std::vector<std::pair<size_t, bool>> cases = {
      {1, false},   {7, true},   {kNcclBucketRows, false},
      {200, false}, {500, true}, {kDispatchRowsMax, true}};
  for (uint32_t i = 0; i < cases.size(); ++i) {
    const auto [count, prefill] = cases[i];
    const TestRows rows = MakeTestRows(format, count, i);
    const TestChoice choice = MakeTestChoice(count, 2, shape.experts, i);
    const auto want = RunLayer(in_process, rows, choice, LayerId(i % 2), prefill);
    const auto got = RunLayer(*remote, rows, choice, LayerId(i % 2), prefill);
    ASSERT_EQ(want.size(), count * 2 * shape.hidden);
    ASSERT_EQ(got.size(), want.size());
    EXPECT_EQ(std::memcmp(want.data(), got.data(), want.size() * sizeof(float)), 0);
  }
  EXPECT_EQ(remote->stats().redispatches, 0u);
  EXPECT_EQ(a.api().counts().violations, 0);
}

INSTANTIATE_TEST_SUITE_P(Formats, NcclBits,
                         ::testing::Values(FormatCase{"f32", ReplyDType::kF32},
                                           FormatCase{"int8g32", ReplyDType::kF32},
                                           FormatCase{"int8g32", ReplyDType::kBF16},
                                           FormatCase{"int4g32", ReplyDType::kBF16},
                                           FormatCase{"w4xg32", ReplyDType::kF32}));

class NcclServerTest : public ::testing::Test {
 protected:
  NcclServerTest()
      : format_(MakeTestModel(shape_).formats[0]),
        rows_(MakeTestRows(format_, 16, 1)),
        choice_(MakeTestChoice(16, 2, shape_.experts, 1)) {}
  std::unique_ptr<NcclTestWorker> NewWorker(const std::string& listen = "127.0.0.1:0") {
    NcclTestWorkerOptions options;
    options.listen = listen;
    options.deadlines.transfer = Duration::Millis(200);
    options.before_compute = [this] {
      if (before_compute_) before_compute_();
    };
    return std::make_unique<NcclTestWorker>(MakeFullStore(shape_), options);
  }
  std::vector<float> Run(TokenDispatcher& dispatcher) {
    return RunLayer(dispatcher, rows_, choice_, LayerId(0));
  }

  TestModelShape shape_;
  WireFormat format_;
  TestRows rows_;
  TestChoice choice_;
  std::function<void()> before_compute_;  // set while nothing is computed
};

TEST_F(NcclServerTest, RoundTripOfADecodeDispatch) {
  const auto worker = NewWorker();
  Router router;
  const auto dispatcher = router.NewDispatcher({worker->address()}, shape_.experts);
  std::vector<double> micros;
  for (int i = 0; i < 1000; ++i) {
    const MonotonicTime start = router.clock().Now();
    auto handle = dispatcher->Dispatch(StepId(1), 0, LayerId(0), false, rows_.view, choice_.view);
    std::vector<const float*> replies;
    ASSERT_TRUE(dispatcher->Combine(*handle, kNever, &replies).ok());
    micros.push_back((router.clock().Now() - start).millis() * 1000);
  }
  std::sort(micros.begin(), micros.end());
  std::cout << "round trip of 16 rows over a fake NCCL: p50 " << micros[500] << " us, p99 "
            << micros[990] << " us\n";
  EXPECT_EQ(dispatcher->stats().redispatches, 0u);
}

TEST_F(NcclServerTest, AWorkerThatHangsIsAbortedAndTheStepGoesOnOverAReplica) {
  const auto a = NewWorker();
  const auto b = NewWorker();
  Router router;
  const auto dispatcher = router.NewDispatcher({a->address(), b->address()}, shape_.experts);
  const auto want = Run(*dispatcher);
  while (b->load().dispatches() == 0) EXPECT_EQ(Run(*dispatcher), want);
  FakeNcclFaults faults;
  faults.transfers_hang = true;
  b->api().SetFaults(faults);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(Run(*dispatcher), want);
  EXPECT_TRUE(PollUntil([&] { return router.api().counts().aborted > 0; }, 20'000));
  // It is made anew behind the scenes, and takes part again.
  b->api().SetFaults({});
  const uint64_t before = b->load().dispatches();
  EXPECT_TRUE(PollUntil(
      [&] {
        EXPECT_EQ(Run(*dispatcher), want);
        return b->load().dispatches() > before;
      },
      20'000));
}

TEST_F(NcclServerTest, ARestartedWorkerIsFoundAgain) {
  auto worker = NewWorker();
  const std::string address = worker->address();
  Router router;
  const auto dispatcher = router.NewDispatcher({address}, shape_.experts);
  const auto want = Run(*dispatcher);
  worker.reset();
  std::thread restart([&] { worker = NewWorker(address); });
  EXPECT_EQ(Run(*dispatcher), want);
  restart.join();
}

TEST_F(NcclServerTest, ARouterThatGoesTakesItsDispatchesWithIt) {
  std::promise<void> open;
  before_compute_ = [opened = open.get_future().share()] { opened.wait(); };
  const auto worker = NewWorker();
  for (int i = 0; i < 20; ++i) {
    Router router;
    const auto dispatcher = router.NewDispatcher({worker->address()}, shape_.experts);
    auto handle =
        dispatcher->Dispatch(StepId(1), 0, LayerId(0), i % 2 == 0, rows_.view, choice_.view);
    if (i % 3 == 0) {
      EXPECT_TRUE(PollUntil([&] { return worker->loop().queued() > 0; }, 20'000));
    }
  }
  open.set_value();
  EXPECT_TRUE(PollUntil([&] { return worker->loop().queued() == 0; }, 20'000));
  Router router;
  Run(*router.NewDispatcher({worker->address()}, shape_.experts));
  EXPECT_EQ(worker->api().counts().violations, 0);
}

TEST_F(NcclServerTest, AWorkerThatStopsEndsEverything) {
  const auto worker = NewWorker();
  Router router;
  const auto dispatcher = router.NewDispatcher({worker->address()}, shape_.experts);
  const auto want = Run(*dispatcher);
  auto handle = dispatcher->Dispatch(StepId(2), 0, LayerId(0), false, rows_.view, choice_.view);
  worker->Stop();
  const FakeNcclCounts counts = worker->api().counts();
  EXPECT_EQ(counts.comms + counts.streams + counts.marks, 0);
}

TEST_F(NcclServerTest, AWholeWorkerOffersIt) {
  SystemClock clock;
  WorkerServerOptions options;
  options.coordinator = "127.0.0.1:1";
  options.transport = TransportKind::kNccl;
  EXPECT_TRUE(absl::IsFailedPrecondition(
      WorkerServer::Start(options, MakeTestModel(shape_), &clock).status()));
  FakeNccl api;
  options.nccl = NcclDeviceThread::Start(&api, {}, &clock).value();
  auto worker = WorkerServer::Start(options, MakeTestModel(shape_), &clock).value();
  Router router;
  NcclLinkOptions link_options;
  link_options.address = worker->address();
  link_options.device = router.device();
  const auto link = NcclLink::Create(std::move(link_options)).value();
  EXPECT_TRUE(PollUntil([&] { return link->connected(); }, 20'000));
  // The link ends after its worker.
  worker.reset();
  options.nccl.reset();
  EXPECT_TRUE(PollUntil([&] { return !link->connected(); }, 20'000));
}

TEST(NcclClusterLinks, NeedADevice) {
  EXPECT_TRUE(absl::IsFailedPrecondition(
      MakeClusterLinks({TransportKind::kNccl, "", RouterId(1), 1, nullptr}).status()));
  EXPECT_EQ(TransportKindFromName("nccl").value(), TransportKind::kNccl);
}

// ---- Two processes ----

class TwoProcesses : public NcclServerTest {
 protected:
  // A worker with the test's model, at a port of its own unless told otherwise.
  std::unique_ptr<ChildProcess> StartWorker(const std::string& listen, std::string* address) {
    auto child = std::make_unique<ChildProcess>(std::vector<std::string>{
        std::string(OCTET_BINARY_DIR) + "/expert_worker/nccl_test_worker", listen});
    EXPECT_TRUE(child->WaitForOutput("\n", 20'000)) << child->StderrText();
    *address = child->StdoutText();
    address->pop_back();
    return child;
  }
};

TEST_F(TwoProcesses, AKilledWorkerIsReplacedAndEveryTokenIsTheSame) {
  std::string a, b, again;
  const auto first = StartWorker("127.0.0.1:0", &a);
  auto second = StartWorker("127.0.0.1:0", &b);
  Router router;
  const auto dispatcher = router.NewDispatcher({a, b}, shape_.experts);
  const auto want = Run(*dispatcher);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(Run(*dispatcher), want);
  auto handle = dispatcher->Dispatch(StepId(1), 0, LayerId(0), false, rows_.view, choice_.view);
  second->Signal(SIGKILL);
  std::vector<const float*> replies;
  const MonotonicTime give_up = router.clock().Now() + Duration::Millis(20'000);
  EXPECT_TRUE(dispatcher->Combine(*handle, give_up, &replies).ok());
  for (int i = 0; i < 20; ++i) EXPECT_EQ(Run(*dispatcher), want);
  int status = 0;
  EXPECT_TRUE(second->WaitForExit(20'000, &status));
  second = StartWorker(b, &again);
  EXPECT_EQ(again, b);
  first->Signal(SIGKILL);
  // Only the new one is left.
  for (int i = 0; i < 5; ++i) EXPECT_EQ(Run(*dispatcher), want);
}

TEST_F(TwoProcesses, AStoppedWorkerIsAborted) {
  std::string address, other;
  const auto stopped = StartWorker("127.0.0.1:0", &address);
  const auto spare = StartWorker("127.0.0.1:0", &other);
  Router router;
  const auto dispatcher = router.NewDispatcher({address, other}, shape_.experts);
  const auto want = Run(*dispatcher);
  stopped->Signal(SIGSTOP);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(Run(*dispatcher), want);
  stopped->Signal(SIGCONT);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(Run(*dispatcher), want);
}

}  // namespace
}  // namespace octet
