// A worker whose coordinator is away. (tests/integration plays the rest.)
#include "expert_worker/worker_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "expert_worker/test_util.h"
#include "octet/v1/expert.grpc.pb.h"
#include "rpc/channel.h"

namespace octet {
namespace {

using ::testing::HasSubstr;

WorkerServerOptions Options() {
  WorkerServerOptions options;
  options.coordinator = "127.0.0.1:1";
  options.incarnation = 7;
  return options;
}

TEST(WorkerServer, AnswersWithoutACoordinatorAndStopsAtOnce) {
  SystemClock clock;
  auto worker = WorkerServer::Start(Options(), MakeTestModel(), &clock);
  ASSERT_TRUE(worker.ok()) << worker.status();
  EXPECT_EQ((*worker)->id(), WorkerId(0));
  EXPECT_FALSE((*worker)->serving());
  auto stub = octet::v1::ExpertWorker::NewStub(CreateChannel((*worker)->address()).value());
  grpc::ClientContext context;
  octet::v1::GetWorkerInfoResponse info;
  ASSERT_TRUE(stub->GetWorkerInfo(&context, {}, &info).ok());
  EXPECT_EQ(info.state(), "loading");
  EXPECT_TRUE((*worker)->Drain(Duration::Millis(10'000)));
  (*worker)->Stop();
  (*worker)->Stop();
}

TEST(WorkerServer, APortInUseIsNamed) {
  SystemClock clock;
  auto first = WorkerServer::Start(Options(), MakeTestModel(), &clock);
  ASSERT_TRUE(first.ok());
  WorkerServerOptions options = Options();
  options.listen = (*first)->address();
  const auto second = WorkerServer::Start(options, MakeTestModel(), &clock);
  EXPECT_TRUE(absl::IsUnavailable(second.status()));
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(options.listen));
}

TEST(WorkerServer, AMalformedCoordinatorAddressIsRefused) {
  SystemClock clock;
  WorkerServerOptions options = Options();
  options.coordinator = "nowhere";
  EXPECT_TRUE(
      absl::IsInvalidArgument(WorkerServer::Start(options, MakeTestModel(), &clock).status()));
}

}  // namespace
}  // namespace octet
