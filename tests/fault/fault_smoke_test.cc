// A few faults of each kind on a real cluster: no request fails and no token changes. Gaps are
// bounded generously here; octet_chaos and scripts/chaos.sh measure them. Over NCCL all processes
// have a GPU, or a fake of one (kernels/fake_gpu): fault_smoke_test_fake_gpu.
#include <cstdlib>
#include <string>

#include "gtest/gtest.h"
#include "tests/fault/scenarios.h"
#include "tests/integration/local_cluster.h"

namespace octet {
namespace {

// Far above what is aimed for, far below a client that gave up.
constexpr double kGapMsMax = 5'000;

class FaultSmokeTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (nccl() && std::getenv("OCTET_NCCL_LIBRARY") == nullptr) {
      GTEST_SKIP() << "fault_smoke_test_fake_gpu runs it";
    }
    options_.model = PackTestModel(directory_.path(), {"--experts", "int4", "--group", "64"});
    options_.transport = GetParam();
    if (nccl()) options_.up_flags = {"--device=cuda"};
    options_.workers = 4;
    options_.rounds = 2;
    options_.tokens = 100;
    options_.outage_ms = 500;
    options_.undisturbed_tokens = 2'000;
  }

  static void ExpectUnharmed(const absl::StatusOr<ScenarioResult>& result) {
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_GE(result->load.requests, 16u);
    EXPECT_EQ(result->load.failed, 0u) << result->load.first_error;
    EXPECT_EQ(result->load.mismatched, 0u);
    EXPECT_GT(result->faults, 0u);
    EXPECT_LT(result->disturbed.max, kGapMsMax);
  }

  static bool nccl() { return std::string(GetParam()) == "nccl"; }

  const TemporaryDirectory directory_;
  ChaosOptions options_;
};

INSTANTIATE_TEST_SUITE_P(Kinds, FaultSmokeTest, testing::Values("grpc", "shm", "nccl"),
                         [](const auto& param) { return std::string(param.param); });

TEST_P(FaultSmokeTest, KilledWorkers) { ExpectUnharmed(KillWorkers(options_)); }
TEST_P(FaultSmokeTest, StoppedWorkersThatComeBack) { ExpectUnharmed(StopWorkers(options_)); }
TEST_P(FaultSmokeTest, KilledRouters) { ExpectUnharmed(KillRouters(options_)); }
TEST_P(FaultSmokeTest, WorkersThatRejoin) { ExpectUnharmed(RejoinWorkers(options_)); }
TEST_P(FaultSmokeTest, ACoordinatorThatIsLostWithItsStore) {
  options_.rounds = 1;
  ExpectUnharmed(LoseCoordinator(options_));
}
TEST_P(FaultSmokeTest, RollingUpgradesToAnotherVersionAndBack) {
  if (std::string(GetParam()) != "grpc") GTEST_SKIP() << "scripts/chaos.sh has it for both";
  const TemporaryDirectory next;
  options_.workers = 2;
  options_.next_model = PackTestModel(next.path(), {"--experts", "int8"});
  options_.rounds = 1;
  options_.routers = 2;
  const auto result = UpgradeCluster(options_);
  ExpectUnharmed(result);
  if (!result.ok()) return;
  EXPECT_EQ(result->load.answers.size(), 2u) << "no stream moved";
}
TEST_P(FaultSmokeTest, DamagedWeightsThatEveryProductIsCheckedFor) {
  if (nccl()) GTEST_SKIP() << "experts on a GPU are not checked";
  options_.verify = true;
  options_.workers = 2;
  options_.rounds = 1;
  ExpectUnharmed(DamageWeights(options_));
}
TEST_P(FaultSmokeTest, DamagedWeightsThatTheScrubberFinds) {
  if (nccl()) GTEST_SKIP() << "experts on a GPU are copies";
  options_.workers = 2;
  options_.rounds = 1;
  const auto result = DamageWeights(options_);
  ASSERT_TRUE(result.ok()) << result.status();
  // Streams never pause: some were in flight.
  EXPECT_GT(result->load.data_loss, 0u);
  EXPECT_EQ(result->load.failed, result->load.data_loss) << result->load.first_error;
}
TEST_P(FaultSmokeTest, MessagesThatAreDamagedDoubledAndLate) {
  if (std::string(GetParam()) != "grpc") GTEST_SKIP() << "the proxy knows gRPC's messages";
  options_.rounds = 5;
  ExpectUnharmed(SpoilMessages(options_));
}
TEST_P(FaultSmokeTest, NetworksThatDropOneWayOrBoth) {
  if (std::string(GetParam()) != "grpc") GTEST_SKIP() << "partitions cut gRPC";
  options_.rounds = 3;
  const auto result = PartitionWorkers(options_);
  if (absl::IsUnimplemented(result.status())) {
    GTEST_SKIP() << "not run: " << result.status().message();
  }
  ExpectUnharmed(result);
}
TEST_P(FaultSmokeTest, TheLastReplicaIsLoadedElsewhere) {
  options_.rounds = 1;
  const auto result = KillLastReplica(options_);
  ExpectUnharmed(result);
  if (!result.ok()) return;
  EXPECT_EQ(result->notes.back(), "no worker left: UNAVAILABLE");
}

}  // namespace
}  // namespace octet
