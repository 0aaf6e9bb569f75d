#include "client/client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <thread>
#include <utility>
#include <vector>

#include "core/limits.h"
#include "core/mutex.h"
#include "octet/v1/inference.grpc.pb.h"
#include "rpc/channel.h"
#include "rpc/status_details.h"

namespace octet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Writer = grpc::ServerWriter<octet::v1::GenerateResponse>;

// A router that makes tokens 100, 101, ... of which each call may send a part before it fails.
class FakeRouter final : public octet::v1::Inference::Service {
 public:
  struct Call {
    uint32_t tokens_sent;  // in this call, then `status`; finishes when the total is 6
    grpc::Status status;
    std::string digest = "d";
  };
  explicit FakeRouter(std::vector<Call> calls) : calls_(std::move(calls)) {}

  grpc::Status Generate(grpc::ServerContext* context, const octet::v1::GenerateRequest* request,
                        Writer* writer) override {
    Call call{6, grpc::Status::OK};
    {
      MutexLock lock(mu_);
      requests_.push_back(*request);
      if (requests_.size() <= calls_.size()) call = calls_[requests_.size() - 1];
    }
    if (call.tokens_sent == 0 && !call.status.ok()) return call.status;
    octet::v1::GenerateResponse event;
    event.mutable_started()->set_request_id("drawn");
    event.mutable_started()->set_seed(42);
    event.mutable_started()->set_compute_digest(call.digest);
    event.mutable_started()->mutable_stop()->set_max_tokens(6);
    writer->Write(event);
    uint32_t index = request->resume_index();
    for (uint32_t i = 0; i < call.tokens_sent && index < 6; ++i, ++index) {
      event.mutable_chunk()->set_index(index);
      event.mutable_chunk()->add_token_ids(static_cast<int32_t>(100 + index));
      writer->Write(event);
      event.clear_event();
    }
    if (!call.status.ok()) return call.status;
    event.mutable_finished()->set_reason(octet::v1::FINISH_REASON_LENGTH);
    writer->Write(event);
    return grpc::Status::OK;
  }

  std::vector<octet::v1::GenerateRequest> requests() {
    MutexLock lock(mu_);
    return requests_;
  }

 private:
  const std::vector<Call> calls_;
  Mutex mu_;
  std::vector<octet::v1::GenerateRequest> requests_ OCTET_GUARDED_BY(mu_);
};

struct Outcome {
  absl::Status status;
  std::vector<int32_t> tokens;
  int started = 0;
  int finished = 0;
};

Outcome RunGenerate(FakeRouter* router, ClientOptions options = {}) {
  auto server = RpcServer::Start("127.0.0.1:0", {router});
  EXPECT_TRUE(server.ok()) << server.status();
  options.backoff_min = Duration::Millis(1);
  auto client = Client::Connect((*server)->address(), options);
  EXPECT_TRUE(client.ok()) << client.status();
  Outcome outcome;
  octet::v1::GenerateRequest request;
  request.set_text("x");
  outcome.status = (*client)->Generate(request, [&](const octet::v1::GenerateResponse& event) {
    outcome.started += event.has_started() ? 1 : 0;
    outcome.finished += event.has_finished() ? 1 : 0;
    for (const int32_t id : event.chunk().token_ids()) outcome.tokens.push_back(id);
  });
  return outcome;
}

const grpc::Status kUnavailable(grpc::StatusCode::UNAVAILABLE, "gone");

TEST(ClientTest, RetriesBeforeTheFirstToken) {
  FakeRouter router({{0, kUnavailable}, {0, kUnavailable}});
  const Outcome outcome = RunGenerate(&router);
  EXPECT_TRUE(outcome.status.ok()) << outcome.status;
  EXPECT_THAT(outcome.tokens, ElementsAre(100, 101, 102, 103, 104, 105));
  EXPECT_EQ(router.requests().size(), 3u);
  EXPECT_FALSE(router.requests()[2].has_resume_index());
}

TEST(ClientTest, ResumesABrokenStreamWhereItEnded) {
  FakeRouter router({{2, kUnavailable}, {3, kUnavailable}});
  const Outcome outcome = RunGenerate(&router);
  EXPECT_TRUE(outcome.status.ok()) << outcome.status;
  EXPECT_THAT(outcome.tokens, ElementsAre(100, 101, 102, 103, 104, 105));
  EXPECT_EQ(outcome.started, 1);
  EXPECT_EQ(outcome.finished, 1);
  const auto requests = router.requests();
  ASSERT_EQ(requests.size(), 3u);
  EXPECT_EQ(requests[1].resume_index(), 2u);
  EXPECT_EQ(requests[2].resume_index(), 5u);
  EXPECT_EQ(requests[1].sampling().seed(), 42u);
  EXPECT_EQ(requests[1].request_id(), "drawn");
}

const grpc::Status kFull(grpc::StatusCode::RESOURCE_EXHAUSTED, "the queue is full");

TEST(ClientTest, AFullQueueIsReported) {
  FakeRouter router({{0, kFull}});
  EXPECT_EQ(RunGenerate(&router).status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(router.requests().size(), 1u);
}

TEST(ClientTest, AFullQueueIsWaitedOutAfterAFault) {
  for (const uint32_t sent : {0, 2}) {
    FakeRouter router({{sent, kUnavailable}, {0, kFull}, {0, kFull}});
    const Outcome outcome = RunGenerate(&router);
    EXPECT_TRUE(outcome.status.ok()) << outcome.status;
    EXPECT_THAT(outcome.tokens, ElementsAre(100, 101, 102, 103, 104, 105));
    EXPECT_EQ(router.requests().size(), 4u);
  }
}

TEST(ClientTest, GivesUpAfterAttemptsWithoutProgress) {
  const FakeRouter::Call gone{0, kUnavailable};
  FakeRouter router({gone, gone, gone, gone, gone});
  ClientOptions options;
  options.attempts_max = 3;
  const Outcome outcome = RunGenerate(&router, options);
  EXPECT_EQ(outcome.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(router.requests().size(), 3u);
}

TEST(ClientTest, ResumesAtARouterThatWasRestarted) {
  FakeRouter first({{2, kUnavailable}});
  FakeRouter second({});
  auto server = RpcServer::Start("127.0.0.1:0", {&first});
  ASSERT_TRUE(server.ok()) << server.status();
  const std::string address = (*server)->address();
  auto client = Client::Connect(address);
  ASSERT_TRUE(client.ok()) << client.status();
  octet::v1::GenerateRequest request;
  request.set_text("x");
  std::vector<int32_t> tokens;
  std::unique_ptr<RpcServer> restarted;
  const absl::Status status =
      (*client)->Generate(request, [&](const octet::v1::GenerateResponse& event) {
        for (const int32_t id : event.chunk().token_ids()) tokens.push_back(id);
        if (tokens.size() != 2 || restarted != nullptr) return;
        (*server)->Shutdown(Duration{});
        auto again = RpcServer::Start(address, {&second});
        ASSERT_TRUE(again.ok()) << again.status();
        restarted = *std::move(again);
      });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_THAT(tokens, ElementsAre(100, 101, 102, 103, 104, 105));
  ASSERT_EQ(second.requests().size(), 1u);
  EXPECT_EQ(second.requests()[0].resume_index(), 2u);
}

// An address at which nothing listens: of a server that was there.
std::string DeadAddress() {
  FakeRouter router({});
  auto server = RpcServer::Start("127.0.0.1:0", {&router});
  EXPECT_TRUE(server.ok()) << server.status();
  return (*server)->address();
}

std::vector<int32_t> AllTokens(Client* client) {
  std::vector<int32_t> tokens;
  octet::v1::GenerateRequest request;
  request.set_text("x");
  const absl::Status status = client->Generate(request, [&](const auto& event) {
    for (const int32_t id : event.chunk().token_ids()) tokens.push_back(id);
  });
  EXPECT_TRUE(status.ok()) << status;
  return tokens;
}

TEST(ClientTest, ABrokenStreamGoesOnAtAnotherRouter) {
  FakeRouter first({{2, kUnavailable}}), second({{2, kUnavailable}});
  auto one = RpcServer::Start("127.0.0.1:0", {&first});
  auto two = RpcServer::Start("127.0.0.1:0", {&second});
  ASSERT_TRUE(one.ok() && two.ok());
  ClientOptions options;
  // An attempt waits for so long that the test would show it: going elsewhere must not.
  options.backoff_min = Duration::Millis(3'600'000);
  options.attempts_max = 1;
  auto client = Client::Connect((*one)->address() + "," + (*two)->address(), options);
  ASSERT_TRUE(client.ok()) << client.status();
  EXPECT_THAT(AllTokens(client->get()), ElementsAre(100, 101, 102, 103, 104, 105));
  ASSERT_EQ(first.requests().size(), 2u);
  ASSERT_EQ(second.requests().size(), 1u);
  EXPECT_EQ(second.requests()[0].request_id(), "drawn");
  EXPECT_EQ(second.requests()[0].resume_index(), 2u);
  EXPECT_EQ(first.requests()[1].resume_index(), 4u);
}

TEST(ClientTest, ADeadRouterIsPassedOverAndNotAskedFirstAgain) {
  FakeRouter router({});
  auto server = RpcServer::Start("127.0.0.1:0", {&router});
  ASSERT_TRUE(server.ok());
  const std::string dead = DeadAddress();
  auto client = Client::Connect(dead + "," + (*server)->address());
  ASSERT_TRUE(client.ok()) << client.status();
  EXPECT_EQ(AllTokens(client->get()).size(), 6u);
  EXPECT_EQ(AllTokens(client->get()).size(), 6u);
  EXPECT_EQ(router.requests().size(), 2u);
}

TEST(ClientTest, GivesUpWhenNoRouterAnswersAndNamesOne) {
  ClientOptions options;
  options.attempts_max = 2;
  options.backoff_min = Duration::Millis(1);
  const std::string dead = DeadAddress();
  auto client = Client::Connect(dead + "," + DeadAddress(), options);
  ASSERT_TRUE(client.ok()) << client.status();
  octet::v1::GenerateRequest request;
  request.set_text("x");
  const absl::Status status = (*client)->Generate(request, [](const auto&) {});
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("127.0.0.1:"));
}

TEST(ClientTest, AnEmptyOrTooLongListIsRefused) {
  EXPECT_EQ(Client::Connect("127.0.0.1:1,").status().code(), absl::StatusCode::kInvalidArgument);
  std::string many = "127.0.0.1:1";
  for (size_t i = 0; i < kClientRoutersMax; ++i) many += ",127.0.0.1:1";
  const auto client = Client::Connect(many);
  EXPECT_EQ(client.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(client.status().message()), HasSubstr("more than 16 routers"));
}

TEST(ClientTest, DoesNotRetryWhatCannotSucceed) {
  FakeRouter router({{0, ToGrpcStatus(InvalidFieldError("sampling.top_p", "2 is not allowed"))}});
  const Outcome outcome = RunGenerate(&router);
  EXPECT_EQ(outcome.status.code(), absl::StatusCode::kInvalidArgument);
  ASSERT_EQ(GetFieldViolations(outcome.status).size(), 1u);
  EXPECT_EQ(GetFieldViolations(outcome.status)[0].field, "sampling.top_p");
  EXPECT_EQ(router.requests().size(), 1u);
}

// While a cluster is upgraded its routers serve two versions: a stream stays on the one it began
// on.
TEST(ClientTest, ABrokenStreamGoesOnAtARouterOfItsVersion) {
  FakeRouter first({{2, kUnavailable}, {0, kUnavailable}});
  FakeRouter other({{0, ToGrpcStatus(OtherVersionError("d", "e"))},
                    {0, ToGrpcStatus(OtherVersionError("d", "e"))}});
  auto one = RpcServer::Start("127.0.0.1:0", {&first});
  auto two = RpcServer::Start("127.0.0.1:0", {&other});
  ASSERT_TRUE(one.ok() && two.ok());
  ClientOptions options;
  options.backoff_min = Duration::Millis(1);
  auto client = Client::Connect((*one)->address() + "," + (*two)->address(), options);
  ASSERT_TRUE(client.ok()) << client.status();
  EXPECT_THAT(AllTokens(client->get()), ElementsAre(100, 101, 102, 103, 104, 105));
  ASSERT_EQ(first.requests().size(), 3u);
  EXPECT_FALSE(first.requests()[0].has_compute_digest());
  EXPECT_EQ(first.requests()[2].compute_digest(), "d");
  EXPECT_EQ(first.requests()[2].resume_index(), 2u);
}

TEST(ClientTest, AVersionThatNoRouterServesAnyMoreIsNotWaitedFor) {
  FakeRouter router({{2, kUnavailable}, {0, ToGrpcStatus(OtherVersionError("d", "e"))}});
  ClientOptions options;
  options.attempts_max = kClientAttemptsMax;
  const Outcome outcome = RunGenerate(&router, options);
  EXPECT_TRUE(IsOtherVersion(outcome.status)) << outcome.status;
  EXPECT_THAT(outcome.tokens, ElementsAre(100, 101));
  EXPECT_EQ(router.requests().size(), 2u);
}

// A router that does not know the field answers all the same; its first event gives it away.
TEST(ClientTest, TheAnswerOfAnotherModelIsNotTaken) {
  FakeRouter router({{2, kUnavailable}, {4, grpc::Status::OK, "other"}});
  const Outcome outcome = RunGenerate(&router);
  EXPECT_TRUE(IsOtherVersion(outcome.status)) << outcome.status;
  EXPECT_THAT(outcome.tokens, ElementsAre(100, 101));
}

TEST(ClientTest, CancelEndsTheWaitForARetry) {
  auto client = Client::Connect("127.0.0.1:1");
  ASSERT_TRUE(client.ok());
  const CancelToken cancel;
  cancel.Cancel();
  octet::v1::GenerateRequest request;
  const absl::Status status = (*client)->Generate(
      request, [](const octet::v1::GenerateResponse&) {}, cancel);
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
}

TEST(ClientTest, NamesTheAddressThatDoesNotAnswer) {
  ClientOptions options;
  options.timeout = Duration::Millis(2000);
  auto client = Client::Connect("127.0.0.1:1", options);
  ASSERT_TRUE(client.ok());
  const auto model = (*client)->GetModel();
  EXPECT_THAT(std::string(model.status().message()), HasSubstr("127.0.0.1:1"));
  EXPECT_THAT(std::string(model.status().message()), HasSubstr("octet up"));
}

TEST(ClientTest, RefusesAMalformedAddress) {
  EXPECT_EQ(Client::Connect("nowhere").status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace octet
