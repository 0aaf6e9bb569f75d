// The service and its client over real loopback gRPC.
#include "coordinator/service.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <thread>

#include "coordinator/client.h"
#include "coordinator/server.h"
#include "rpc/channel.h"
#include "rpc/status_details.h"
#include "tests/integration/process.h"

namespace octet {
namespace {

using ::testing::HasSubstr;

constexpr uint32_t kExperts = 8;

// True once `condition` holds; false if it does not within a generous time.
bool Eventually(const std::function<bool()>& condition) { return PollUntil(condition, 30'000); }

ModelSummary Model(char digest = 'a') {
  return ModelSummary{std::string(64, digest), "v1", "tiny", kExperts, 2, 1000};
}

CoordinatorOptions Options(uint32_t replication) {
  CoordinatorOptions options;
  options.settings.replication = replication;
  options.settings.lease = Duration::Millis(600);
  options.settings.heartbeat = Duration::Millis(50);
  options.settings.settle = Duration::Millis(60);
  return options;
}

// A member that prepares whatever it is told at once.
class TestMember {
 public:
  TestMember(const std::string& coordinator, MemberRole role, int number, char digest = 'a') {
    CoordinatorClientOptions options;
    options.coordinator = coordinator;
    options.role = role;
    options.address = "127.0.0.1:" + std::to_string(10000 + number);
    options.incarnation = 77000 + static_cast<uint64_t>(number);
    options.model = Model(digest);
    options.pid = 500 + static_cast<uint32_t>(number);
    options.seed = static_cast<uint64_t>(number);
    CoordinatorClientCallbacks callbacks;
    callbacks.report = [this] { return Report(); };
    callbacks.on_placement = [this](const PlacementUpdate& update) { Take(update); };
    callbacks.on_refused = [this](const absl::Status& status) {
      MutexLock lock(mu_);
      refused_ = status;
    };
    auto client = CoordinatorClient::Start(options, std::move(callbacks));
    EXPECT_TRUE(client.ok()) << client.status();
    MutexLock lock(mu_);
    client_ = *std::move(client);
  }
  ~TestMember() { Stop(); }
  void Stop() {
    Hang(false);
    client()->Stop();
  }

  CoordinatorClient* client() {
    MutexLock lock(mu_);
    return client_.get();
  }
  std::shared_ptr<const Placement> active() {
    MutexLock lock(mu_);
    return active_;
  }
  absl::Status refused() {
    MutexLock lock(mu_);
    return refused_;
  }
  bool epochs_grew() {
    MutexLock lock(mu_);
    return epochs_grew_;
  }
  // While hanging it neither beats nor answers.
  void Hang(bool hang) {
    MutexLock lock(mu_);
    hang_ = hang;
    wake_.NotifyAll();
  }

 private:
  MemberReport Report() {
    MutexLock lock(mu_);
    while (hang_) wake_.Wait(mu_);
    MemberReport report;
    report.state = MemberState::kReady;
    report.prepared_epoch = prepared_;
    report.active_epoch = active_ == nullptr ? Epoch() : active_->epoch;
    report.held.assign(held_.begin(), held_.end());
    report.load.expert_rows = {5, 0, 7};
    report.load.queue_frames = 3;
    return report;
  }
  void Take(const PlacementUpdate& update) {
    MutexLock lock(mu_);
    const WorkerId me(update.self.value());
    if (update.phase == PlacementPhase::kActivate) {
      epochs_grew_ =
          epochs_grew_ && (active_ == nullptr || update.placement->epoch >= active_->epoch);
      active_ = update.placement;
    } else if (update.phase == PlacementPhase::kPrepare) {
      for (const ExpertId e : ExpertsOf(*update.placement, me)) held_.insert(e);
      prepared_ = update.placement->epoch;
      // The first command may come before Start has returned; the next beat tells it then.
      if (client_ != nullptr) client_->ReportNow();
    }
  }

  Mutex mu_;
  CondVar wake_;
  std::unique_ptr<CoordinatorClient> client_;
  std::shared_ptr<const Placement> active_;
  absl::Status refused_;
  Epoch prepared_;
  std::set<ExpertId> held_;
  bool hang_ = false;
  bool epochs_grew_ = true;
};

class CoordinatorServiceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = std::filesystem::path(::testing::TempDir()) /
           (std::string("octet_coordinator_") +
            ::testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::remove_all(dir_);
    std::filesystem::create_directories(dir_);
  }
  void TearDown() override {
    members_.clear();
    server_.reset();
    std::filesystem::remove_all(dir_);
  }

  void StartServer(CoordinatorOptions options) {
    auto server = CoordinatorServer::Start(options, &clock_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    address_ = server_->address();
  }
  TestMember& Join(MemberRole role) {
    members_.push_back(std::make_unique<TestMember>(address_, role, ++number_));
    return *members_.back();
  }
  TestMember& StartCluster(int workers, const CoordinatorOptions& options) {
    StartServer(options);
    for (int w = 0; w < workers; ++w) Join(MemberRole::kWorker);
    TestMember& router = Join(MemberRole::kRouter);
    EXPECT_TRUE(Eventually([&] { return Status().ready(); })) << Status().DebugString();
    return router;
  }
  octet::v1::StatusResponse Status() {
    auto status = FetchClusterStatus(address_, Duration::Millis(2000));
    return status.ok() ? *status : octet::v1::StatusResponse();
  }

  SystemClock clock_;
  std::filesystem::path dir_;
  std::unique_ptr<CoordinatorServer> server_;
  std::string address_;
  std::vector<std::unique_ptr<TestMember>> members_;
  int number_ = 0;
};

TEST_F(CoordinatorServiceTest, AClusterGetsReadyAndSaysSo) {
  TestMember& router = StartCluster(3, Options(2));
  ASSERT_TRUE(Eventually([&] { return router.active() != nullptr; }));
  EXPECT_TRUE(router.active()->Complete());
  const auto status = Status();
  EXPECT_EQ(status.workers_size(), 3);
  EXPECT_EQ(status.routers_size(), 1);
  EXPECT_EQ(status.replication(), 2u);
  EXPECT_EQ(status.model().compute_digest(), std::string(64, 'a'));
  for (const auto& worker : status.workers()) {
    EXPECT_EQ(worker.state(), "ready");
    EXPECT_GT(worker.pid(), 500u);
    EXPECT_GT(worker.experts_size(), 0);
    EXPECT_EQ(worker.load().queue_frames(), 3u);
    ASSERT_EQ(worker.load().experts_size(), 2);
    EXPECT_EQ(worker.load().experts(1).expert(), 2u);
  }
}

TEST_F(CoordinatorServiceTest, AStoppedWorkerIsTakenOut) {
  TestMember& router = StartCluster(3, Options(2));
  const WorkerId gone(members_[0]->client()->id().value());
  members_[0]->Stop();
  EXPECT_TRUE(Eventually([&] {
    const auto table = router.active();
    if (table == nullptr || table->FindWorker(gone) != nullptr) return false;
    return std::all_of(table->expert_replicas.begin(), table->expert_replicas.end(),
                       [](const auto& set) { return set.size() == 2; });
  }));
  EXPECT_TRUE(router.epochs_grew());
}

TEST_F(CoordinatorServiceTest, ALostLeaseIsNoticedAndTheWorkerComesBack) {
  TestMember& router = StartCluster(3, Options(2));
  TestMember& worker = *members_[1];
  const MemberId id = worker.client()->id();
  worker.Hang(true);
  EXPECT_TRUE(Eventually([&] {
    const auto table = router.active();
    return table != nullptr && table->FindWorker(WorkerId(id.value())) == nullptr;
  }));
  worker.Hang(false);
  EXPECT_TRUE(Eventually([&] {
    return router.active()->FindWorker(WorkerId(id.value())) != nullptr && Status().ready();
  }));
  EXPECT_EQ(worker.client()->id(), id);
}

TEST_F(CoordinatorServiceTest, ARestartKeepsEpochAndIds) {
  CoordinatorOptions options = Options(2);
  options.store_path = (dir_ / "state.db").string();
  TestMember& router = StartCluster(3, options);
  const auto before = Status();
  server_.reset();
  options.listen = address_;
  StartServer(options);
  EXPECT_TRUE(Eventually([&] {
    const auto status = Status();
    return status.ready() && status.workers_size() == 3;
  }));
  const auto after = Status();
  EXPECT_GT(after.term(), before.term());
  EXPECT_EQ(after.epoch(), before.epoch());
  EXPECT_EQ(after.placement().SerializeAsString(), before.placement().SerializeAsString());
  TestMember& late = Join(MemberRole::kWorker);
  EXPECT_TRUE(Eventually([&] {
    const WorkerId id(late.client()->id().value());
    const auto table = router.active();
    return id != WorkerId(0) && table != nullptr && table->FindWorker(id) != nullptr;
  }));
  EXPECT_GT(router.active()->epoch.value(), before.epoch());
  EXPECT_TRUE(router.epochs_grew());
}

TEST_F(CoordinatorServiceTest, ARestartWithoutItsStoreDoesNotRewindTheEpoch) {
  CoordinatorOptions options = Options(2);
  TestMember& router = StartCluster(2, options);
  Join(MemberRole::kWorker);
  ASSERT_TRUE(Eventually([&] { return Status().epoch() >= 2; }));
  const uint64_t before = Status().epoch();
  server_.reset();
  options.listen = address_;
  StartServer(options);
  EXPECT_TRUE(Eventually([&] {
    const auto table = router.active();
    return table->epoch.value() > before && table->workers.size() == 3 && Status().ready();
  }));
  EXPECT_TRUE(router.epochs_grew());
}

TEST_F(CoordinatorServiceTest, MembersWaitForACoordinatorThatComesLater) {
  CoordinatorOptions options = Options(1);
  StartServer(options);
  options.listen = address_;
  server_.reset();
  TestMember& worker = Join(MemberRole::kWorker);
  Join(MemberRole::kRouter);
  EXPECT_FALSE(worker.client()->connected());
  StartServer(options);
  EXPECT_TRUE(Eventually([&] { return Status().ready(); }));
  EXPECT_TRUE(worker.client()->connected());
}

TEST_F(CoordinatorServiceTest, AVersionTooManyIsRefusedAndTheMemberIsTold) {
  CoordinatorOptions options = Options(1);
  options.settings.versions_max = 1;
  StartCluster(1, options);
  TestMember other(address_, MemberRole::kWorker, 90, 'b');
  ASSERT_TRUE(Eventually([&] { return !other.refused().ok(); }));
  EXPECT_EQ(other.refused().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(other.refused().message()), HasSubstr(std::string(64, 'b')));
  EXPECT_EQ(Status().workers_size(), 1);
}

TEST_F(CoordinatorServiceTest, TheStatusShowsTwoVersions) {
  StartCluster(1, Options(1));
  TestMember other(address_, MemberRole::kWorker, 90, 'b');
  ASSERT_TRUE(Eventually([&] { return Status().workers_size() == 2; }));
  const auto status = Status();
  ASSERT_EQ(status.versions_size(), 2);
  // The one that can answer comes first, and in the fields for one version.
  EXPECT_TRUE(status.versions(0).ready());
  EXPECT_EQ(status.model().compute_digest(), std::string(64, 'a'));
  EXPECT_TRUE(status.ready());
  EXPECT_FALSE(status.versions(1).ready());
  EXPECT_EQ(status.versions(1).model().compute_digest(), std::string(64, 'b'));
  EXPECT_EQ(status.workers(0).compute_digest(), std::string(64, 'a'));
  EXPECT_EQ(status.workers(1).compute_digest(), std::string(64, 'b'));
}

TEST_F(CoordinatorServiceTest, DrainMovesExpertsAway) {
  StartCluster(3, Options(1));
  const MemberId leaver = members_[0]->client()->id();
  EXPECT_TRUE(DrainWorker(address_, leaver, Duration::Millis(20'000), {}).ok());
  const auto status = Status();
  for (const auto& worker : status.workers()) {
    if (worker.id() != leaver.value()) continue;
    EXPECT_EQ(worker.state(), "draining");
    EXPECT_EQ(worker.experts_size(), 0);
  }
  EXPECT_TRUE(status.ready());
  EXPECT_EQ(DrainWorker(address_, MemberId(4711), Duration::Millis(5'000), {}).code(),
            absl::StatusCode::kNotFound);
}

TEST_F(CoordinatorServiceTest, MalformedRegistrationsNameTheField) {
  StartServer(Options(1));
  auto channel = CreateChannel(address_);
  ASSERT_TRUE(channel.ok());
  auto stub = octet::v1::Coordinator::NewStub(*channel);
  octet::v1::RegisterRequest good;
  good.set_role(octet::v1::ROLE_WORKER);
  good.set_address("127.0.0.1:1");
  good.mutable_model()->set_compute_digest(std::string(64, 'a'));
  good.mutable_model()->set_experts(kExperts);
  const auto refused = [&](const char* field,
                           const std::function<void(octet::v1::RegisterRequest*)>& change) {
    octet::v1::RegisterRequest request = good;
    change(&request);
    grpc::ClientContext context;
    octet::v1::RegisterResponse response;
    const absl::Status status = FromGrpcStatus(stub->Register(&context, request, &response));
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << field;
    const auto violations = GetFieldViolations(status);
    ASSERT_EQ(violations.size(), 1u) << field;
    EXPECT_EQ(violations[0].field, field);
  };
  refused("role", [](auto* r) { r->clear_role(); });
  refused("address", [](auto* r) { r->set_address("nowhere"); });
  refused("address", [](auto* r) { r->set_address("127.0.0.1:0"); });
  refused("model.compute_digest", [](auto* r) { r->clear_model(); });
  refused("model.experts", [](auto* r) { r->mutable_model()->set_experts(0); });
  refused("model.experts", [](auto* r) { r->mutable_model()->set_experts(kExpertsMax + 1); });
  refused("model.layers", [](auto* r) { r->mutable_model()->set_layers(kLayersMax + 1); });
  refused("model.name", [](auto* r) { r->mutable_model()->set_name(std::string(5000, 'x')); });
  refused("zone", [](auto* r) { r->set_zone(std::string(5000, 'x')); });
  refused("speed", [](auto* r) { r->set_speed(kWorkerSpeedMax + 1); });
  refused("held", [](auto* r) { r->add_held(kExpertsMax); });
}

TEST_F(CoordinatorServiceTest, PortInUseAndBadSettingsAreSaid) {
  StartServer(Options(1));
  CoordinatorOptions second = Options(1);
  second.listen = address_;
  const auto taken = CoordinatorServer::Start(second, &clock_);
  EXPECT_EQ(taken.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(taken.status().message()), HasSubstr(address_));
  CoordinatorOptions bad = Options(0);
  EXPECT_THAT(std::string(CoordinatorServer::Start(bad, &clock_).status().message()),
              HasSubstr("replication: 0"));
}

TEST_F(CoordinatorServiceTest, AStreamOfAStrangerIsRefused) {
  StartServer(Options(1));
  auto channel = CreateChannel(address_);
  auto stub = octet::v1::Coordinator::NewStub(*channel);
  grpc::ClientContext context;
  octet::v1::WatchPlacementRequest request;
  request.set_id(123);
  auto reader = stub->WatchPlacement(&context, request);
  octet::v1::PlacementEvent event;
  EXPECT_FALSE(reader->Read(&event));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::FAILED_PRECONDITION);
}

// Refuses to save while told so.
class StubbornStore final : public StateStore {
 public:
  explicit StubbornStore(std::atomic<bool>* full) : full_(full) {}
  absl::StatusOr<std::optional<DurableState>> Load() override { return inner_.Load(); }
  absl::Status Save(const DurableState& state) override {
    return *full_ ? absl::ResourceExhaustedError("disk full") : inner_.Save(state);
  }

 private:
  std::atomic<bool>* const full_;
  MemoryStateStore inner_;
};

TEST_F(CoordinatorServiceTest, NothingIsAnnouncedWhileTheStoreIsFull) {
  std::atomic<bool> full{false};
  std::atomic<int> stopped_storing{0}, stored_again{0};
  CoordinatorService service(Options(1).settings, std::make_unique<StubbornStore>(&full),
                             std::nullopt, 1, &clock_,
                             [&](bool storing) { ++(storing ? stored_again : stopped_storing); });
  auto rpc = RpcServer::Start("127.0.0.1:0", {&service});
  ASSERT_TRUE(rpc.ok());
  service.Start();
  address_ = (*rpc)->address();
  ASSERT_TRUE(Eventually([&] { return Status().term() == 1; }));
  full = true;
  TestMember& worker = Join(MemberRole::kWorker);
  ASSERT_TRUE(Eventually([&] { return stopped_storing == 1; }));
  EXPECT_EQ(worker.client()->id(), MemberId(0));
  full = false;
  EXPECT_TRUE(Eventually([&] { return worker.active() != nullptr; }));
  EXPECT_EQ(stored_again, 1);
  members_.clear();
  service.Stop();
  (*rpc)->Shutdown(Duration{});
}

}  // namespace
}  // namespace octet
