#include "rpc/channel.h"

#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <mutex>
#include <string>

#include "octet/v1/cluster.grpc.pb.h"
#include "rpc/status_details.h"

namespace octet {
namespace {

using ::testing::HasSubstr;

// Answers Status with a failure that carries details.
class FailingService final : public octet::v1::Coordinator::CallbackService {
 public:
  grpc::ServerUnaryReactor* Status(grpc::CallbackServerContext* context,
                                   const octet::v1::StatusRequest*,
                                   octet::v1::StatusResponse*) override {
    absl::Status status = absl::UnavailableError("loading");
    SetRetryDelay(&status, Duration::Millis(40));
    auto* reactor = context->DefaultReactor();
    reactor->Finish(ToGrpcStatus(status));
    return reactor;
  }
};

TEST(Channel, ParsesAddresses) {
  const auto v4 = ParseHostPort("127.0.0.1:7411");
  ASSERT_TRUE(v4.ok());
  EXPECT_EQ(v4->host, "127.0.0.1");
  EXPECT_EQ(v4->port, 7411);
  const auto v6 = ParseHostPort("[::1]:65535");
  ASSERT_TRUE(v6.ok());
  EXPECT_EQ(v6->host, "::1");
  EXPECT_EQ(v6->port, 65535);
}

TEST(Channel, RefusesMalformedAddresses) {
  for (const char* text : {"", "host", "host:", "host:65536", "host:-1", "host: 1", ":80", "::1:80",
                           "a/b:1", "host:1x", "[::1:80", "host:99999999999999999999"}) {
    EXPECT_EQ(ParseHostPort(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
  EXPECT_EQ(ParseHostPort(std::string(100000, 'x')).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(CreateChannel("127.0.0.1:0").status().code(), absl::StatusCode::kInvalidArgument);
}

// Asks the standard health service; true for SERVING. The two messages have one field each, so
// they are written and compared as bytes.
bool AsksHealthy(const std::shared_ptr<grpc::Channel>& channel, const std::string& service) {
  grpc::GenericStub stub(channel);
  const grpc::Slice slice(std::string("\x0a") + static_cast<char>(service.size()) + service);
  const grpc::ByteBuffer request(&slice, 1);
  grpc::ByteBuffer response;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
  std::mutex mutex;
  std::condition_variable ended;
  bool done = false;
  grpc::Status status;
  stub.UnaryCall(&context, "/grpc.health.v1.Health/Check", {}, &request, &response,
                 [&](grpc::Status result) {
                   const std::lock_guard<std::mutex> lock(mutex);
                   status = std::move(result);
                   done = true;
                   ended.notify_one();
                 });
  std::unique_lock<std::mutex> lock(mutex);
  ended.wait(lock, [&] { return done; });
  grpc::Slice answer;
  if (!status.ok() || !response.DumpToSingleSlice(&answer).ok()) return false;
  return std::string(reinterpret_cast<const char*>(answer.begin()), answer.size()) == "\x08\x01";
}

TEST(Channel, HealthFollowsTheServicesLivenessDoesNot) {
  FailingService service;
  auto server = RpcServer::Start("127.0.0.1:0", {&service});
  ASSERT_TRUE(server.ok()) << server.status();
  const auto channel = CreateChannel((*server)->address());
  ASSERT_TRUE(channel.ok());
  EXPECT_TRUE(AsksHealthy(*channel, kLivenessService));
  EXPECT_FALSE(AsksHealthy(*channel, ""));
  (*server)->SetServing("", true);
  EXPECT_TRUE(AsksHealthy(*channel, ""));
  (*server)->SetServing("", false);
  EXPECT_FALSE(AsksHealthy(*channel, ""));
  EXPECT_TRUE(AsksHealthy(*channel, kLivenessService));
}

TEST(Channel, DetailsCrossTheWire) {
  FailingService service;
  auto server = RpcServer::Start("127.0.0.1:0", {&service});
  ASSERT_TRUE(server.ok()) << server.status();
  auto channel = CreateChannel((*server)->address());
  ASSERT_TRUE(channel.ok());
  auto stub = octet::v1::Coordinator::NewStub(*channel);
  grpc::ClientContext context;
  octet::v1::StatusResponse response;
  const absl::Status status =
      FromGrpcStatus(stub->Status(&context, octet::v1::StatusRequest(), &response));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  ASSERT_TRUE(GetRetryDelay(status).has_value());
  EXPECT_EQ(GetRetryDelay(status)->ns, Duration::Millis(40).ns);
}

TEST(Channel, SecondServerOnAPortIsRefusedWithItsAddress) {
  FailingService first, second;
  auto server = RpcServer::Start("127.0.0.1:0", {&first});
  ASSERT_TRUE(server.ok());
  const std::string address = (*server)->address();
  const auto again = RpcServer::Start(address, {&second});
  EXPECT_EQ(again.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(again.status().message()), HasSubstr(address));
  (*server)->Shutdown(Duration{});
  EXPECT_TRUE(RpcServer::Start(address, {&second}).ok());
}

TEST(Channel, RefusalIsToldFromAListener) {
  FailingService service;
  auto server = RpcServer::Start("127.0.0.1:0", {&service});
  ASSERT_TRUE(server.ok());
  const std::string address = (*server)->address();
  EXPECT_FALSE(RefusesConnections(address, Duration::Millis(60'000)));
  (*server)->Shutdown(Duration{});
  server->reset();
  EXPECT_TRUE(RefusesConnections(address, Duration::Millis(60'000)));
  EXPECT_TRUE(RefusesConnections("nowhere", Duration::Millis(60'000)));
}

}  // namespace
}  // namespace octet
