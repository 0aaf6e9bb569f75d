// Clients that are slow, silent or gone, over real sockets: what they asked for is let go of, and
// others get their tokens.
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <iostream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "client/client.h"
#include "octet/v1/inference.grpc.pb.h"
#include "tests/cli/inference_fixture.h"
#include "tests/cli/tcp_relay.h"

namespace octet {
namespace {

using octet::v1::GenerateRequest;
using octet::v1::GenerateResponse;

// More than any test waits for: what ends early was let go of.
constexpr uint32_t kLong = 490;

class SlowClientsTest : public InferenceFixture {
 protected:
  // A client behind the relay, in mid-stream. Its window stays as small as HTTP/2 has it.
  void StartStream(const std::string& address, bool wordy) {
    grpc::ChannelArguments args;
    args.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    stub_ = octet::v1::Inference::NewStub(
        grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), args));
    GenerateRequest request = Request(0, kLong);
    if (wordy) request.set_top_logprobs(20);
    reader_ = stub_->Generate(&context_, request);
    stream_ = std::thread([this] {
      GenerateResponse event;
      while (reader_->Read(&event)) {
      }
      status_ = reader_->Finish();
    });
    // It runs.
    while (stats().running == 0 || stats().generated_tokens == 0) std::this_thread::yield();
  }
  void EndStream() {
    context_.TryCancel();
    stream_.join();
  }
  EngineStats stats() { return model_->engine().stats(); }
  // Waits until the request of the stream is let go of.
  void WaitFreed() {
    while (stats().running > 0 || stats().kv_blocks_used > 0) std::this_thread::yield();
  }
  // Another client, at the same time.
  void ExpectServes() {
    ClientOptions once;
    once.attempts_max = 1;
    auto client = Client::Connect(server_->address(), once);
    ASSERT_TRUE(client.ok());
    size_t tokens = 0;
    const absl::Status status =
        (*client)->Generate(Request(1, 20), [&](const GenerateResponse& event) {
          tokens += static_cast<size_t>(event.chunk().token_ids_size());
        });
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_EQ(tokens, 20u);
  }

  std::unique_ptr<octet::v1::Inference::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<GenerateResponse>> reader_;
  std::thread stream_;
  grpc::Status status_;
};

// The engine's thread stands still while the connection is reset; when it goes on, the request is
// not computed any further.
TEST_F(SlowClientsTest, ARequestWhoseClientWasResetIsNotComputedAnyFurther) {
  Serve(EngineOptions());
  TcpRelay relay(server_->address());
  StartStream(relay.address(), /*wordy=*/false);
  const auto blocker = Block();
  relay.Reset();
  stream_.join();  // the server's end was reset before the client's was closed
  EXPECT_FALSE(status_.ok());
  const uint64_t before = stats().generated_tokens;
  blocker->Release();
  WaitFreed();
  // Some steps may pass until gRPC has told of the reset, far fewer than were asked for.
  const uint64_t computed = stats().generated_tokens - before;
  std::cout << "tokens computed after the reset: " << computed << "\n";
  EXPECT_LT(computed, kLong / 2);
  ExpectServes();
}

// Half open: the peer's machine has lost power. gRPC's pings are not answered.
TEST_F(SlowClientsTest, ASilentConnectionIsGivenUpAfterItsPings) {
  RpcServerOptions rpc;
  rpc.keepalive_time = Duration::Millis(200);
  rpc.keepalive_timeout = Duration::Millis(200);
  OutputLimits limits;
  limits.read_max = Duration::Millis(3'600'000);  // not what ends it here
  Serve(EngineOptions(), limits, rpc);
  TcpRelay relay(server_->address());
  StartStream(relay.address(), /*wordy=*/true);
  relay.SetMode(TcpRelay::Mode::kSilent);
  ExpectServes();
  // The call holds its buffered answer until the connection is given up.
  const MonotonicTime begin = clock_.Now();
  server_->Shutdown(Duration::Millis(120'000));
  EXPECT_LT((clock_.Now() - begin).seconds(), 60);
  EndStream();
}

TEST_F(SlowClientsTest, AByteASecondIsNotWaitedFor) {
  OutputLimits limits;
  limits.buffer_bytes_max = 16 << 10;
  Serve(EngineOptions(), limits);
  TcpRelay relay(server_->address());
  StartStream(relay.address(), /*wordy=*/true);
  relay.SetMode(TcpRelay::Mode::kDrip);
  WaitFreed();
  ExpectServes();
  // It is not the end of the answer that let it go.
  EXPECT_LT(stats().generated_tokens, kLong);
  EndStream();
  EXPECT_FALSE(status_.ok());
}

}  // namespace
}  // namespace octet
