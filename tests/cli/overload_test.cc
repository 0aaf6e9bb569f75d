// More requests than can be served, and clients that do not read: what is taken ends with the right
// tokens, the rest is told when to come back, and afterwards nothing is held.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "client/client.h"
#include "core/mutex.h"
#include "octet/v1/inference.grpc.pb.h"
#include "rpc/status_details.h"
#include "tests/cli/inference_fixture.h"

namespace octet {
namespace {

using octet::v1::GenerateRequest;
using octet::v1::GenerateResponse;
using ::testing::HasSubstr;

constexpr uint32_t kPrompts = 3;
constexpr uint32_t kTokens = 8;

class OverloadTest : public InferenceFixture {
 protected:
  // Serves, and asks for each prompt while nothing else is asked.
  void Open(const EngineOptions& engine, const OutputLimits& limits = OutputLimits()) {
    Serve(engine, limits);
    for (uint32_t i = 0; i < kPrompts; ++i) {
      auto tokens = Generate(Request(i, kTokens));
      ASSERT_TRUE(tokens.ok()) << tokens.status();
      ASSERT_EQ(tokens->size(), kTokens);
      expected_.push_back(*std::move(tokens));
    }
  }
  // Once, over a connection of its own.
  absl::StatusOr<std::vector<int32_t>> Generate(const GenerateRequest& request) {
    ClientOptions once;
    once.attempts_max = 1;
    auto client = Client::Connect(server_->address(), once);
    if (!client.ok()) return client.status();
    std::vector<int32_t> tokens;
    const absl::Status status = (*client)->Generate(request, [&](const GenerateResponse& event) {
      const auto& ids = event.chunk().token_ids();
      tokens.insert(tokens.end(), ids.begin(), ids.end());
    });
    if (!status.ok()) return status;
    return tokens;
  }

  // A request of one token for the prompt and `max_tokens` for the answer, which nobody hears.
  absl::Status Queue(uint32_t max_tokens) {
    auto sink = std::make_shared<BlockingSink>();
    sink->Release();
    GenerationRequest request;
    request.prompt = {4};
    request.stop.max_tokens = max_tokens;
    request.stop.ignore_eos = true;
    return model_->engine().Submit(request, sink).status();
  }

  void ExpectServesAndHoldsNothing() {
    auto tokens = Generate(Request(1, kTokens));
    // What was queued may still be there.
    while (absl::IsResourceExhausted(tokens.status())) tokens = Generate(Request(1, kTokens));
    ASSERT_TRUE(tokens.ok()) << tokens.status();
    EXPECT_EQ(*tokens, expected_[1]);
    model_->engine().Drain(clock_.Now() + Duration::Millis(60'000));
    const EngineStats stats = model_->engine().stats();
    EXPECT_EQ(stats.running, 0u);
    EXPECT_EQ(stats.waiting, 0u);
    EXPECT_EQ(stats.waiting_tokens, 0u);
    EXPECT_EQ(stats.kv_blocks_used, 0u);
  }

  std::vector<std::vector<int32_t>> expected_;
};

TEST_F(OverloadTest, EveryRequestOfAFloodEndsRightOrIsToldWhenToComeBack) {
  constexpr size_t kClients = 32;
  constexpr size_t kWaiting = 4;
  EngineOptions engine;
  engine.running_max = 2;
  engine.waiting_max = kWaiting;
  Open(engine);
  const auto blocker = Block();
  Mutex mu;
  CondVar changed;
  size_t refused = 0, answered = 0;
  std::vector<std::thread> clients;
  for (uint32_t i = 0; i < kClients; ++i) {
    clients.emplace_back([&, i] {
      for (uint32_t turn = 0; turn < 4; ++turn) {
        const uint32_t prompt = (i + turn) % kPrompts;
        const auto tokens = Generate(Request(prompt, kTokens));
        MutexLock lock(mu);
        if (tokens.ok()) {
          EXPECT_EQ(*tokens, expected_[prompt]);
          ++answered;
        } else {
          EXPECT_EQ(tokens.status().code(), absl::StatusCode::kResourceExhausted)
              << tokens.status();
          EXPECT_TRUE(GetRetryDelay(tokens.status()).has_value());
          ++refused;
        }
        changed.NotifyAll();
      }
    });
  }
  {
    // While nothing is computed, all but those that fit the queue are refused.
    MutexLock lock(mu);
    while (refused < kClients - kWaiting) changed.Wait(mu);
  }
  blocker->Release();
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(refused + answered, kClients * 4);
  EXPECT_GE(answered, kWaiting);
  ExpectServesAndHoldsNothing();
}

TEST_F(OverloadTest, DearRequestsAreRefusedWhereCheapOnesStillFit) {
  EngineOptions engine;
  engine.running_max = 1;
  engine.waiting_tokens_max = 100;
  Open(engine);
  const auto blocker = Block();
  EXPECT_TRUE(Queue(59).ok());  // 60 tokens
  const absl::Status dear = Generate(Request(0, 90)).status();
  EXPECT_EQ(dear.code(), absl::StatusCode::kResourceExhausted) << dear;
  EXPECT_THAT(std::string(dear.message()), HasSubstr("at most 100 tokens"));
  EXPECT_TRUE(GetRetryDelay(dear).has_value());
  EXPECT_TRUE(Queue(39).ok());  // 100 tokens in all
  EXPECT_EQ(Queue(1).code(), absl::StatusCode::kResourceExhausted);
  blocker->Release();
  ExpectServesAndHoldsNothing();
}

TEST_F(OverloadTest, AFullQueueRefusesBeforeItLooksAtTheRequest) {
  EngineOptions engine;
  engine.running_max = 1;
  engine.waiting_max = 1;
  Open(engine);
  const auto blocker = Block();
  ASSERT_TRUE(Queue(1).ok());
  GenerateRequest malformed = Request(0, kTokens);
  malformed.mutable_sampling()->set_top_p(7);
  EXPECT_EQ(Generate(malformed).status().code(), absl::StatusCode::kResourceExhausted);
  blocker->Release();
  ExpectServesAndHoldsNothing();
}

// Streams of one connection whose client asks and never reads.
class SilentReaders {
 public:
  SilentReaders(const std::string& address, const GenerateRequest& request, size_t count) {
    grpc::ChannelArguments args;
    args.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    args.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 4096);
    args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    stub_ = octet::v1::Inference::NewStub(
        grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), args));
    for (size_t i = 0; i < count; ++i) {
      contexts_.push_back(std::make_unique<grpc::ClientContext>());
      streams_.push_back(stub_->Generate(contexts_.back().get(), request));
    }
  }
  // How the server has ended each of them.
  std::vector<grpc::StatusCode> Ends() {
    std::vector<grpc::StatusCode> ends;
    for (auto& stream : streams_) {
      GenerateResponse event;
      while (stream->Read(&event)) {
      }
      ends.push_back(stream->Finish().error_code());
    }
    return ends;
  }

 private:
  std::unique_ptr<octet::v1::Inference::Stub> stub_;
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts_;
  std::vector<std::unique_ptr<grpc::ClientReader<GenerateResponse>>> streams_;
};

TEST_F(OverloadTest, ClientsThatNeverReadLoseTheirCallsAndOthersNotice) {
  constexpr size_t kSilent = 64;
  OutputLimits limits;
  limits.buffer_bytes_max = 16 << 10;
  Open(EngineOptions(), limits);
  GenerateRequest wordy = Request(0, 500);
  wordy.set_top_logprobs(20);  // some 100 KiB in all
  SilentReaders silent(server_->address(), wordy, kSilent);
  std::vector<std::thread> readers;
  for (uint32_t i = 0; i < 4; ++i) {
    readers.emplace_back([&, i] {
      for (uint32_t turn = 0; turn < 8; ++turn) {
        const uint32_t prompt = (i + turn) % kPrompts;
        const auto tokens = Generate(Request(prompt, kTokens));
        ASSERT_TRUE(tokens.ok()) << tokens.status();
        EXPECT_EQ(*tokens, expected_[prompt]);
      }
    });
  }
  for (std::thread& reader : readers) reader.join();
  // The engine ends them all without their clients' help.
  ExpectServesAndHoldsNothing();
  for (const grpc::StatusCode end : silent.Ends()) EXPECT_EQ(end, grpc::StatusCode::CANCELLED);
}

TEST_F(OverloadTest, AnAnswerThatNobodyReadsIsNotKept) {
  constexpr size_t kSilent = 8;
  OutputLimits limits;
  limits.read_max = Duration::Millis(1);
  Serve(EngineOptions(), limits);
  GenerateRequest wordy = Request(0, 500);
  wordy.set_top_logprobs(20);
  SilentReaders silent(server_->address(), wordy, kSilent);
  while (model_->engine().stats().generated_tokens < kSilent * 500) std::this_thread::yield();
  // No call is left that would use up the grace.
  const MonotonicTime begin = clock_.Now();
  server_->Shutdown(Duration::Millis(120'000));
  EXPECT_LT((clock_.Now() - begin).seconds(), 60);
  for (const grpc::StatusCode end : silent.Ends()) EXPECT_NE(end, grpc::StatusCode::OK);
}

}  // namespace
}  // namespace octet
